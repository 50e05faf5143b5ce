"""Modules whose weights keep float32, and a linear map in the precision of its input.

Shape legend: D hidden size, O outputs.
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class InputDtypeLinear(nn.Linear):
    """A linear map, [..., D] to [..., O], in the dtype of its input whatever that of its weights.

    It is called as a module, never read for its weights: hooks on it, as those that fetch a weight from where a
    `device_map` has put it, run when it is called.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, self.weight.to(hidden.dtype), bias)
