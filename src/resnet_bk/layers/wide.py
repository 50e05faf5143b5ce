"""Layers that compute in the precision of their input, whatever that of their weights.

They are called as modules, never read for their weights: hooks on a module, as those that fetch a weight from where a
`device_map` has put it, run when it is called.

Shape legend: D hidden size, O outputs.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WideLinear(nn.Linear):
    """A linear map, [..., D] to [..., O]."""

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, self.weight.to(hidden.dtype), bias)


class WideRMSNorm(nn.RMSNorm):
    """Division by the root mean square of the last dimension, [..., D] to [..., D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, tuple(self.normalized_shape), self.weight.to(hidden.dtype), self.eps)
