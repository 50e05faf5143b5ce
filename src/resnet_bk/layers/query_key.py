"""Queries and keys of unit length.

Shape legend: B batch, T tokens, H heads, K key size.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk.ops.unit_query_key import unit_query_key


class QueryKey(nn.Module):
    """Scales queries and keys to unit length, with a learned bias if `bias` is not 0:

        q = unit(unit(x_q) + c_q),   k = unit(unit(x_k) + c_k)

    At the start c_q = c_k has length `bias` and the same number everywhere (but 0 in induction heads), so that q . k is
    about bias^2 / (1 + bias^2) for any two tokens, and a head starts as an average of the past that fades with the
    propagator. That is worth something from the first step on, and training sharpens it. Without the bias q . k has
    either sign by chance: what is read is noise until query and key have found each other, which no step of the
    optimizer finds easy. A bias on the normalised input and output maps of a state-space model is from Mamba-3 (arXiv
    2603.15569).

    Args:
        num_heads: H.
        key_dim: K.
        bias: length of the biases at the start; 0 leaves them out.
        induction_heads: how many of the heads, the last ones, start with a bias of 0 (`resnet_bk.layers.induction`).
    """

    def __init__(self, num_heads: int, key_dim: int, *, bias: float, induction_heads: int = 0) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.start = num_heads, key_dim, bias
        self.induction_heads = induction_heads
        # Flat, as biases are, so that it is not decayed.
        self.bias = nn.Parameter(torch.empty(2 * num_heads * key_dim)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Biases as `bias` and `induction_heads` say."""
        if self.bias is not None:
            bias = torch.full((2, self.num_heads, self.key_dim), self.start * self.key_dim**-0.5)
            bias[:, self.num_heads - self.induction_heads :] = 0
            init.copy_(self.bias, bias.flatten())

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, key_dim={self.key_dim}, bias={self.start:g}"

    def forward(self, query_key: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, 2 H K] to two of [B, T, H, K]; float32 for half precision input."""
        shape = (2, self.num_heads, self.key_dim)
        return unit_query_key(query_key.unflatten(-1, shape), self.bias)
