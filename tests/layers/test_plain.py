"""Which modules do nothing at a call but their class's forward with weights of their own."""

import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.nn.modules import module as registry
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.layers.plain import is_plain


class Weight(torch.Tensor):
    """A weight of another kind, as those of quantisation."""


class Derived(nn.Linear):
    """Another class, of which nothing is known."""


def pruned(module):
    prune.l1_unstructured(module, "weight", amount=2)
    return module


def parametrised(module):
    parametrize.register_parametrization(module, "weight", nn.Tanh())
    return module


def hooked(module):
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def hooked_before(module):
    module.register_forward_pre_hook(lambda module, inputs: None)
    return module


def hooked_backwards(module):
    module.register_full_backward_hook(lambda module, gradients, of_output: None)
    return module


def hooked_before_backwards(module):
    module.register_full_backward_pre_hook(lambda module, of_output: None)
    return module


def with_hook_of_accelerate(module):
    return add_hook_to_module(module, ModelHook())


def with_another_forward(module):
    forward = module.forward
    module.forward = lambda hidden: 2 * forward(hidden)
    return module


def of_a_derived_class(module):
    module.__class__ = Derived
    return module


def with_a_weight_of_another_kind(module):
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Weight))
    return module


CHANGES = [
    *(pruned, parametrised, hooked, hooked_before, hooked_backwards, hooked_before_backwards),
    *(with_hook_of_accelerate, with_another_forward, of_a_derived_class, with_a_weight_of_another_kind),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_plain(change):
    module = nn.Linear(8, 5)
    assert is_plain(module, nn.Linear)
    changed = change(copy.deepcopy(module))
    assert not is_plain(changed, nn.Linear)
    if change is with_hook_of_accelerate:
        assert is_plain(remove_hook_from_module(changed), nn.Linear)


@pytest.mark.parametrize(
    "register",
    [
        registry.register_module_forward_hook,
        registry.register_module_forward_pre_hook,
        registry.register_module_full_backward_hook,
        registry.register_module_full_backward_pre_hook,
    ],
)
def test_under_a_hook_of_all_modules_none_is(register):
    module = nn.Linear(8, 5)
    handle = register(lambda *_: None)
    try:
        assert not is_plain(module, nn.Linear)
    finally:
        handle.remove()
    assert is_plain(module, nn.Linear)


def test_what_is_counted_is_what_runs_without_a_counter():
    with FlopCounterMode(display=False):
        assert is_plain(nn.Linear(8, 5), nn.Linear)


def test_another_class_is_not():
    assert not is_plain(nn.Linear(8, 5), nn.Embedding)
    assert is_plain(Derived(8, 5, bias=False), Derived)
