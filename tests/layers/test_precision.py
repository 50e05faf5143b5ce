"""A linear map in the precision of its input, and modules that keep float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_bk.layers.precision import InputDtypeLinear, KeepsFloat32


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_it_computes_in_the_precision_of_the_input(bias, weights):
    x = torch.randn(3, 8, dtype=torch.float64)
    linear = InputDtypeLinear(8, 5, bias=bias).to(weights)
    expected = F.linear(x, linear.weight.double(), linear.bias.double() if bias else None)
    assert torch.equal(linear(x), expected)


def test_a_hook_sees_the_call():
    linear, seen = InputDtypeLinear(8, 5), []
    linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    linear(torch.zeros(2, 8))
    assert seen == [torch.float32]


class Kept(KeepsFloat32):
    """A weight of its own, and one of a part."""

    def __init__(self):
        super().__init__()
        self.weight, self.part = nn.Parameter(torch.full((2,), 1 / 3)), nn.Linear(2, 2)
        self.keep_float32()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_weights_are_never_of_half_precision(half):
    before = torch.get_default_dtype()
    torch.set_default_dtype(half)
    try:
        made = Kept()
    finally:
        torch.set_default_dtype(before)
    kept = Kept()
    for module in (made, kept.to(half)):
        assert {x.dtype for x in module.parameters()} == {torch.float32}
    assert torch.equal(kept.weight, torch.full((2,), 1 / 3))  # not rounded on the way
    assert kept.double().part.weight.dtype == torch.float64
