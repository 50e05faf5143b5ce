"""Modules whose weights may be read beside them, in the place of a call."""

from collections.abc import Iterable
from typing import TypeGuard, TypeVar

from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.utils.module_tracker import ModuleTracker

Kind = TypeVar("Kind", bound=nn.Module)


def are_plain(parts: Iterable[tuple[nn.Module, type[nn.Module]]]) -> bool:
    """Whether each of these modules is plain as one of its class (`is_plain`)."""
    return not _hooks_of_all() and all(_is_plain(module, kind) for module, kind in parts)


def is_plain(module: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether a call of `module` is the forward of its class with its own weights and nothing else, so that whoever
    reads the weights computes the same.

    Args:
        module: the module.
        kind: the class whose forward is meant. A class derived from it (a wrapper, a parametrisation) may do more. What
            is put in the place of the class's own forward is not seen.

    Returns:
        False too where hooks run, forward or backward, of this module or of all modules; where something stands in the
        place of its forward (as by a `device_map`); where a parameter is a tensor of a class of its own (as by
        quantisation).
    """
    return not _hooks_of_all() and _is_plain(module, kind)


def _hooks_of_all() -> bool:
    """Whether hooks run at a call of any module."""
    of_all = (
        *registry._global_forward_hooks.values(),
        *registry._global_forward_pre_hooks.values(),
        *registry._global_backward_hooks.values(),
        *registry._global_backward_pre_hooks.values(),
    )
    # FlopCounterMode follows modules by their names alone, and is to count what runs without it.
    return not all(isinstance(getattr(hook, "__self__", None), ModuleTracker) for hook in of_all)


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """The same of this module alone."""
    return (
        type(module) is kind
        and not (
            module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        )
        # Not whether the instance has one: accelerate leaves the class's own there where it takes its hook off.
        and getattr(module.forward, "__func__", None) is kind.forward
        and all(x is None or type(x) in (nn.Parameter, Tensor) for x in module._parameters.values())
    )
