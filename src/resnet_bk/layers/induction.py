"""Heads that start as induction heads: they answer a word with what followed it the last time.

Shape legend: D hidden size, H heads, K key size, V value size, C channels.

A Transformer finds induction heads (Olsson et al., arXiv 2209.11895) in the middle of its training, with a drop of the
loss on everything that repeats. A state of sums finds them later or never: its match of query and key is one among the
noise of all that it holds, so that there is little to follow until the match is there. So some heads start with it:

- query and key of a token are the same map of the hidden state, the key of the token before:

      q_t = unit(W x_t),   k_j = unit(W x_{j-1}),   v_j = W_v x_j

  Then q_t . k_j is 1 where the word at j - 1 is the one at t and about 0 elsewhere, and y_t = q_t^T S_t holds the word
  that followed. The delay is the second-last tap of the short convolution.
- the bias on their queries and keys starts at 0, for a bias is what all of them have in common.
- their chains start in the band, with little absorption, and remember 100 to 400 tokens.

All of it is where training starts, and nothing holds it there. Two keys of K numbers that have nothing to do with each
other meet with a product of about 1 / sqrt(K), so that a match stands out the more the larger K is: with 64 such heads
are worth much, with 16 the heads that they take the place of were worth more (docs/choices.md).
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init

KEY_DIM = 64  # from which on heads start so by default, which rests on one shape (docs/choices.md)
POTENTIAL = 0.3  # in units of 2 hopping: near the middle of the band, where the modulus of a propagator fades slowly
ABSORPTION = (0.005, 0.02)  # log-uniform over the heads
# The one tap of a filter. SiLU behind it is nearly linear for inputs as small as those of a fresh model times this.
TAP = 0.1


class Tap(NamedTuple):
    """How the filters of some neighbouring channels start: with one tap at a lag of so many tokens, or, at None, with
    the random taps of all others."""

    channels: int
    lag: int | None


def taps(num_heads: int, key_dim: int, value_dim: int, induction_heads: int) -> tuple[Tap, ...]:
    """How the filters before queries, keys and values start, where the last `induction_heads` heads induce."""
    others = num_heads - induction_heads
    parts = ((key_dim, 0), (key_dim, 1), (value_dim, 0))  # queries, keys, values
    return tuple(tap for size, lag in parts for tap in (Tap(others * size, None), Tap(induction_heads * size, lag)))


def check_delay(induction_heads: int, conv_size: int) -> None:
    """Raises ValueError for induction heads without the convolution that delays their keys."""
    if induction_heads and not conv_size:
        raise ValueError(
            f"induction_heads={induction_heads} takes a short convolution, not conv_size=0; set that to 4, or "
            "induction_heads to 0"
        )


class QueryKeyValue(nn.Linear):
    """The map to queries, keys and values, [..., D] to [..., 2 H K + H V], without a bias.

    Args:
        hidden_size: D.
        num_heads: H.
        key_dim: K.
        value_dim: V.
        induction_heads: how many of the heads, the last ones, start with keys that are their queries.
    """

    def __init__(self, hidden_size: int, *, num_heads: int, key_dim: int, value_dim: int, induction_heads: int) -> None:
        self.sizes = (num_heads, key_dim, induction_heads)  # read by reset_parameters, which nn.Linear calls
        super().__init__(hidden_size, num_heads * (2 * key_dim + value_dim), bias=False)
        self.output_parts = (*(key_dim,) * 2 * num_heads, *(value_dim,) * num_heads)

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Weights N(0, std), the keys of induction heads as their queries."""
        heads, size, induction = self.sizes
        weight = torch.empty_like(self.weight).normal_(std=std)
        queries, keys = weight[: 2 * heads * size].view(2, heads, size, -1)
        keys[heads - induction :] = queries[heads - induction :]
        init.copy_(self.weight, weight)
