"""One number a token, by which a switch decides what to do with it.

Shape legend: B batch, T tokens, D hidden size.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk.layers.precision import KeepsFloat32
from resnet_bk.ops.dispatch import full_precision


class TokenScore(KeepsFloat32):
    """w . x + c, in float32 (float64 for float64 input) whatever the precision of the model: what is decided by it is
    often between near equals.

    Class attributes:
        start: of c.
    """

    start: ClassVar[float]

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.bias = nn.Parameter(torch.empty(()))
        self.keep_float32()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """w is N(0, std), c is `start`."""
        init.normal_(self.weight, std=std)
        init.constant_(self.bias, self.start)

    def score(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T]."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with full_precision(hidden.device):
            return (hidden.to(dtype) * self.weight.to(dtype)).sum(-1) + self.bias.to(dtype)
