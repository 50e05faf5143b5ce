"""Layers that compute in the precision of their input, whatever that of their weights, and modules whose weights keep
float32.

The layers are called as modules, never read for their weights: hooks on a module, as those that fetch a weight from
where a `device_map` has put it, run when it is called.

Shape legend: D hidden size, O outputs.
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


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


class WideRMSNorm(nn.RMSNorm):
    """Division by the root mean square of the last dimension, [..., D] to [..., D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, tuple(self.normalized_shape), self.weight.to(hidden.dtype), self.eps)
