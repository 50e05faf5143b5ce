"""Values of the first block in those of a later one: the value residual of Zhou et al. (arXiv 2410.17897).

Shape legend: B batch, T tokens, H heads, V value size.

What a token says to those behind it is, in a later block, made of what it has read by then, and what it was at first
fades. So a block adds the values of the first one to its own,

    v_t = v_t' + m_h v_t^(1)

with a learned weight m a head. Both are of the same token, so that nothing has to be remembered for it.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

START = 0.5


class ValueResidual(nn.Module):
    """m of a block, [H]; 1/2 at the start."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init.constant_(self.weight, START)

    def forward(self, first: Tensor) -> Tensor:
        """What the first block's values [B, T, H, V] add to those of this one, in their precision."""
        return first * self.weight.to(first.dtype).unsqueeze(-1)
