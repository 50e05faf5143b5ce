"""A root-mean-square norm with an affine gate."""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.dispatch import full_precision, runs_compiled
from resnet_bk.ops.gated_norm import library

__all__ = ["gated_norm"]


def gated_norm(y: Tensor, weight: Tensor, gate: Tensor | None, *, eps: float, dtype: torch.dtype) -> Tensor:
    """o = n (1 + gate) with n = weight y / (mean of y^2 + eps)^(1/2), or n without a gate.

    The sum 1 + g of a g in bfloat16 is not rounded to that. One compiled kernel on a CPU, which is differentiable once;
    plain PyTorch elsewhere, for a few tokens without a gradient and for forward-mode derivatives.

    Args:
        y: float32 or float64, [..., H, V].
        weight: [V].
        gate: g, [..., H V], or None.
        eps: as above.
        dtype: of the result, that of y or a narrower one.

    Returns:
        o, [..., H V].

    Raises:
        ValueError: shapes that do not fit, or a y of half precision.
    """
    if y.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"y must be float32 or float64, but is {y.dtype}; convert it with .float()")
    if y.ndim < 2:
        raise ValueError(f"y must be [..., H, V], but is {tuple(y.shape)}; a single head needs [None]")
    if weight.shape != y.shape[-1:]:
        raise ValueError(
            f"weight must have the {y.shape[-1]} numbers of a head of y, but has {tuple(weight.shape)}; pass one "
            "number for each value of a head"
        )
    if gate is not None and gate.shape != (*y.shape[:-2], y.shape[-2] * y.shape[-1]):
        raise ValueError(
            f"gate must be [..., H V] for y [..., H, V] = {tuple(y.shape)}, but is {tuple(gate.shape)}; "
            "gate.flatten(-2) lays heads side by side"
        )
    weight = weight.to(y.dtype)
    if not runs_compiled(y, weight, gate, few=False):
        with full_precision(y.device):
            normed = F.rms_norm(y, weight.shape, weight, eps).flatten(-2)
            return (normed if gate is None else normed + normed * gate).to(dtype)
    # What the kernel reads and writes.
    known = (torch.float32, torch.bfloat16) if y.dtype == torch.float32 else (y.dtype,)
    beside = y.new_empty(0) if gate is None else gate
    beside = beside if beside.dtype in known else beside.to(y.dtype)
    own = dtype if dtype in known else y.dtype
    return library.gated_norm(y, weight, beside, eps, own).flatten(-2).to(dtype)
