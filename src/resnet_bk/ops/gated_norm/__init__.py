"""A root-mean-square norm with an affine gate."""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.dispatch import full_precision
from resnet_bk.ops.gated_norm import library

__all__ = ["gated_norm"]

_HAS_NUMBA = find_spec("numba") is not None
_PRECISE = (torch.float32, torch.float64)


def gated_norm(y: Tensor, weight: Tensor, gate: Tensor | None, *, eps: float, dtype: torch.dtype) -> Tensor:
    """o = n (1 + gate) with n = weight y / (mean of y^2 + eps)^(1/2), or n without a gate.

    The sum 1 + g of a g in bfloat16 is not rounded to that. One compiled kernel on a CPU, which is differentiable once,
    and plain PyTorch elsewhere.

    Args:
        y: float32 or float64, [..., H, V].
        weight: [V].
        gate: g, [..., H V], or None.
        eps: as above.
        dtype: of the result, that of y or a narrower one.

    Returns:
        o, [..., H V].
    """
    weight = weight.to(y.dtype)
    narrow = torch.bfloat16 if y.dtype == torch.float32 else y.dtype
    if y.device.type == "cpu" and _HAS_NUMBA and y.dtype in _PRECISE:
        beside = y.new_empty(0) if gate is None else gate.view(y.shape)
        if beside.dtype not in (y.dtype, narrow):
            beside = beside.to(y.dtype)
        own = dtype if dtype in (y.dtype, narrow) else y.dtype
        return library.gated_norm(y, weight, beside, eps, own).flatten(-2).to(dtype)
    with full_precision(y.device):
        normed = F.rms_norm(y, weight.shape, weight, eps).flatten(-2)
        return (normed if gate is None else normed + normed * gate).to(dtype)
