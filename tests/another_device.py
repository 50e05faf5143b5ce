"""A stand-in for a GPU, for tests on a machine without one: `torch.device(NAME)`, computed by the CPU.

PyTorch lets a backend be written in Python. A tensor on this one stands for a tensor on the CPU, on which its operators
run. As on a GPU, an operator refuses tensors that were left on the CPU (but for those of no dimension, which a GPU does
not take everywhere, indices and copies), and none of our CPU kernels takes one that is not there. PyTorch takes every
tensor here for contiguous, and does not know which of them are views of the same memory: what is written into one may
show in another.

Importing this registers the device for the rest of the process, in which other tests must not run then.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "another"

# By the address of the storage, which the copies that autograd makes of a tensor share. Nothing is ever taken out.
_behind: dict[int, Tensor] = {}
# Their indices, the second argument, may be on the CPU.
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
# These stay as they are everywhere, and lead to the operators below or share the storage.
_OF_ALL_DEVICES = ("_to_copy", "alias", "clone", "copy_", "detach", "lift", "lift_fresh", "set_")


def _is_there(x: Any) -> bool:
    return isinstance(x, Tensor) and x.device.type == NAME


def _on_cpu(x: Any) -> Any:
    """What `x` stands for."""
    if _is_there(x):
        return _behind[x.untyped_storage()._cdata]
    return torch.device("cpu") if isinstance(x, torch.device) else x


def _standing_for(x: Tensor) -> Tensor:
    there = torch._C._acc.create_empty_tensor(x.shape, x.dtype)
    _behind[there.untyped_storage()._cdata] = x
    return there


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator on what its arguments stand for."""
    name = op._schema.name
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    indices = {id(x) for x in tree_flatten(args[1])[0]} if name in _INDEXING and _is_there(args[0]) else set()
    left = [x for x in tensors if not _is_there(x) and x.ndim > 0 and id(x) not in indices]
    if left:
        raise RuntimeError(f"{name}: a tensor {tuple(left[0].shape)} is on the CPU, others on {NAME}")
    given = {id(_on_cpu(x)): x for x in tensors if _is_there(x)}
    args, kwargs = tree_map(_on_cpu, (args, kwargs))
    # What is contiguous here need not be so there.
    found = args[0].reshape(args[1]) if name == "aten::view" else op(*args, **kwargs)

    def back(x: Any) -> Any:
        return (given.get(id(x)) if id(x) in given else _standing_for(x)) if isinstance(x, Tensor) else x

    return tree_map(back, found)


def _empty(size: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return _standing_for(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return _standing_for(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _on_cpu(target).copy_(_on_cpu(source))
    return target


def _item(x: Tensor) -> Any:
    return _on_cpu(x).item()


class _Module(_DummyBackendModule):
    """`torch.another`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


SPECIAL = {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copy_from,
    "_local_scalar_dense": _item,
}


def _register() -> tuple[torch.library.Library, torch.library.Library]:
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(_run, "PrivateUse1")
    for name, run in SPECIAL.items():
        aten.impl(name, run, "PrivateUse1")
    # By name, what PyTorch would otherwise take apart: into results of no size, which are then made larger.
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        base, _, overload = name.partition(".")
        if space != "aten" or name in SPECIAL or name in _OF_ALL_DEVICES or "out" in overload:
            continue
        has = partial(torch._C._dispatch_has_kernel_for_dispatch_key, full)
        if not has("CompositeImplicitAutograd") and (
            has("CPU") or has("CompositeExplicitAutograd") or has("CompositeExplicitAutogradNonFunctional")
        ):
            op = getattr(getattr(torch.ops.aten, base), overload or "default")
            aten.impl(name, partial(_run, op), "PrivateUse1")
    return everything, aten


_libraries = _register()  # kernels live as long as these
