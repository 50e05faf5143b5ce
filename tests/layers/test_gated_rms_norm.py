"""The norm of what heads have read, whatever the precision of its weights."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers.gated_rms_norm import GatedRMSNorm


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_it_computes_in_the_precision_of_the_input(weights):
    x, norm = torch.randn(3, 8, dtype=torch.float64), GatedRMSNorm(4, eps=1e-5).to(weights)
    torch.nn.init.normal_(norm.weight)
    heads = x.unflatten(-1, (2, 4))
    size = (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = (heads / size * norm.weight.double()).flatten(-2)
    assert_close(norm(heads, None, torch.float64), expected, rtol=1e-14, atol=1e-14)
