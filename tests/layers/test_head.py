"""The loss of a head: through the fused operator where it is plain, through a call of the head where it is not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close

from resnet_bk.layers.head import head_loss, is_plain

WORDS = 11


class Called(nn.Linear):
    """The same map, which has to be called."""

    def forward(self, hidden):
        return super().forward(hidden)


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 8, dtype=dtype, generator=generator)
    targets = torch.randint(WORDS, (2, 7), generator=generator)
    targets[0, :3] = -100
    head = Called(8, WORDS, dtype=dtype)
    return hidden.requires_grad_(), head, targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("extra", [False, True])
def test_both_ways_agree(reduction, extra):
    hidden, head, targets = case()
    plain = nn.Linear(8, WORDS, dtype=torch.float64)
    plain.load_state_dict(head.state_dict())
    log_extra = torch.randn(2, 7, dtype=torch.float64).requires_grad_() if extra else None
    assert (is_plain(plain), is_plain(head)) == (True, False)
    found = []
    for layer in (plain, head):
        loss = head_loss(hidden, layer, targets, log_extra=log_extra, reduction=reduction)
        inputs = [hidden, layer.weight, layer.bias, *([log_extra] if extra else [])]
        found.append((loss, *torch.autograd.grad(loss.sum(), inputs)))
    assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


def test_mixed_precision():
    hidden, head, targets = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head_loss(hidden, head, targets)
    assert loss.dtype == torch.float32
    logits = F.linear(hidden, head.weight, head.bias).flatten(0, 1)
    assert_close(loss, F.cross_entropy(logits, targets.flatten()), rtol=2e-2, atol=0)  # bfloat16 has 3 digits


def test_a_mean_over_nothing():
    hidden, head, targets = case()
    nothing = torch.full_like(targets, -100)
    assert head_loss(hidden, head, nothing).isnan()
    assert head_loss(hidden, head, nothing, reduction="sum") == 0


class Weight(torch.Tensor):
    """A weight of another kind, as those of quantisation."""


def pruned(head):
    prune.l1_unstructured(head, "weight", amount=2)
    return head


def hooked(head):
    head.register_forward_hook(lambda module, inputs, output: 2 * output)
    return head


def hooked_backwards(head):
    head.register_full_backward_hook(lambda module, gradients, of_output: None)
    return head


def hooked_before_backwards(head):
    head.register_full_backward_pre_hook(lambda module, of_output: None)
    return head


def with_hook_of_accelerate(head):
    return add_hook_to_module(head, ModelHook())


def of_another_kind(head):
    head.weight = nn.Parameter(head.weight.detach().as_subclass(Weight))
    return head


@pytest.mark.parametrize(
    "change", [pruned, hooked, hooked_backwards, hooked_before_backwards, with_hook_of_accelerate, of_another_kind]
)
def test_what_is_not_plain(change):
    head = nn.Linear(8, WORDS)
    assert is_plain(head)
    changed = change(copy.deepcopy(head))
    assert not is_plain(changed)
    if change is with_hook_of_accelerate:
        assert is_plain(remove_hook_from_module(changed))
