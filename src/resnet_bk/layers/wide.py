"""Layers that compute in the precision of their input, whatever that of their weights, and modules whose weights keep
float32.

The layers are called as modules, never read for their weights: hooks on a module, as those that fetch a weight from
where a `device_map` has put it, run when it is called.

Shape legend: D hidden size, O outputs, H heads, V value size.
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_bk.ops.gated_norm import gated_norm
from resnet_bk.ops.precision import HALF


class KeepsFloat32(nn.Module):
    """A module whose parameters, and those of its parts, are never of half precision: neither by `model.bfloat16()`,
    `.half()` or `.to(dtype)`, nor because the model is built with such a default dtype.

    A module that is to keep float32 calls `keep_float32` at the end of its construction.
    """

    def keep_float32(self) -> None:
        """Parameters that were made in half precision become float32."""
        if any(parameter.dtype in HALF for parameter in self.parameters()):
            self._apply(lambda tensor: tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def wide(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return tensor.to(found.device, torch.float32) if found.dtype in HALF else found  # of what was not rounded

        return super()._apply(wide, recurse)


class WideLinear(nn.Linear):
    """A linear map, [..., D] to [..., O]."""

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, self.weight.to(hidden.dtype), bias)


class GatedRMSNorm(nn.Module):
    """Division of what heads have read by the root mean square of each, and an affine gate
    (`resnet_bk.ops.gated_norm`).

    Args:
        value_dim: V.
        eps: beside the mean square.
    """

    def __init__(self, value_dim: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(value_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of one."""
        nn.init.ones_(self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps:g}"

    def forward(self, y: Tensor, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
        """[..., H, V] to [..., H V] in `dtype`, in the precision of y up to there; gate is [..., H V] or None."""
        return gated_norm(y, self.weight, gate, eps=self.eps, dtype=dtype)
