"""Vectors of length one.

Shape legend: K size of a vector.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resnet_bk.ops.dispatch import full_precision
from resnet_bk.ops.precision import at_least_float32
from resnet_bk.ops.unit_query_key.sizes import EPSILON


class _UnitLength(torch.autograd.Function):
    """y = r x with r = (x . x + eps)^(-1/2).

    dr = -r^3 (x . dx), so dy = r (dx - y (y . dx)), which is symmetric: xbar = r (ybar - y (y . ybar)). Autograd's
    version of this takes five times as long on a CPU, for it goes through the square root step by step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = _reciprocal(x)
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_bar: Tensor) -> Tensor:
        y, r = ctx.saved_tensors
        along = torch.linalg.vecdot(y, y_bar).unsqueeze(-1)
        return torch.addcmul(y_bar, y, along, value=-1).mul_(r)


def _reciprocal(x: Tensor) -> Tensor:
    """r, [..., 1]."""
    return torch.linalg.vecdot(x, x).add_(EPSILON).rsqrt_().unsqueeze(-1)


def unit_length(x: Tensor) -> Tensor:
    """Scales vectors [..., K] to length one (zero stays zero); float32 for half precision input."""
    wide = at_least_float32(x)
    # Autocast would take the scalar products in half precision.
    with full_precision(x.device):
        result: Tensor = _UnitLength.apply(wide) if torch.is_grad_enabled() else wide * _reciprocal(wide)
    return result
