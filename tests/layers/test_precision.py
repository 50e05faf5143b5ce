"""Layers in the precision of their input."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from resnet_bk.layers.wide import GatedRMSNorm, WideLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_they_compute_in_the_precision_of_the_input(bias, weights):
    x = torch.randn(3, 8, dtype=torch.float64)
    linear, norm = WideLinear(8, 5, bias=bias).to(weights), GatedRMSNorm(4, eps=1e-5).to(weights)
    torch.nn.init.normal_(norm.weight)
    expected = F.linear(x, linear.weight.double(), linear.bias.double() if bias else None)
    assert torch.equal(linear(x), expected)
    heads = x.unflatten(-1, (2, 4))
    size = (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = (heads / size * norm.weight.double()).flatten(-2)
    assert_close(norm(heads, None, torch.float64), expected, rtol=1e-14, atol=1e-14)


def test_a_hook_sees_the_call():
    linear, seen = WideLinear(8, 5), []
    linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    linear(torch.zeros(2, 8))
    assert seen == [torch.float32]
