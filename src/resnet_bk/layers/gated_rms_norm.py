"""The norm of what heads have read, with its affine gate, as a module.

Shape legend: H heads, V value size.
"""

import torch
from torch import Tensor, nn

from resnet_bk.ops.gated_norm import gated_norm


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
