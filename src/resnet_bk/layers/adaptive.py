"""Adaptive computation time (Graves, arXiv 1603.08983) over the blocks of a model: tokens stop when they are done.

Shape legend: B batch, T tokens, D hidden size.

After block n a token halts with probability p_n = sigmoid(w_n . h_n + c_n). It stops for good at the first block N
where the probabilities sum to the threshold (1 - epsilon), or at the last block, and what was left of 1 is the
remainder

    R = 1 - (p_1 + ... + p_{N-1})

Its output is the mean of its states under these weights, h = p_1 h_1 + ... + p_{N-1} h_{N-1} + R h_N. From block N + 1
on the token reads nothing and passes through no feed-forward network: the gate, the read-out and the network run on the
other tokens alone. Its last state h_N still writes into the chain of every later block, so that the tokens that go on
can read it; those projections (about a fifth of a block's matmuls) are not saved. Results of coarser blocks in between
(`resnet_bk.layers.multi_scale`) are added to what it writes, and not to its output.

The ponder cost N + R, averaged over tokens, is added to the loss. N has no gradient; R has, and falls when the
probabilities of the earlier blocks rise.

Whether a token stops depends on its own state, hence on the past alone: the model stays causal, and generation stops
early for the same tokens. In evaluation a lower threshold (`early_exit_threshold`) stops earlier; the last state then
gets the whole remainder.
"""

from typing import ClassVar

import torch
from torch import Tensor

from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.token_score import TokenScore


class HaltingUnit(TokenScore):
    """p = sigmoid(w . h + c). c = -2 at the start: 12% a block, so that tokens go deep at first."""

    start: ClassVar[float] = -2.0

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T]."""
        return self.score(hidden).sigmoid()


class Pondering:
    """The halting of one forward pass.

    Attributes:
        active: True for tokens that go on, bool [B, T]; None while all do.
        output: the weighted mean of states so far, [B, T, D].

    Args:
        threshold: sum of probabilities at which a token stops.
        boundaries: padding never goes on and never counts.
    """

    def __init__(self, threshold: float, boundaries: Boundaries | None) -> None:
        self.threshold = threshold
        self.real = None if boundaries is None or boundaries.real is None else boundaries.real.squeeze(-1)
        self.active: Tensor | None = None if self.real is None else self.real != 0
        self.output: Tensor | None = None
        self.sum: Tensor | None = None  # of the probabilities
        self.remainder: Tensor | None = None
        self.blocks: Tensor | None = None

    def step(self, hidden: Tensor, probability: Tensor | None) -> None:
        """Takes the states after a block, [B, T, D], and the probabilities to halt, [B, T]; None at the last block."""
        if self.sum is None:
            dtype = torch.promote_types(hidden.dtype, torch.float32)
            self.sum = torch.zeros(hidden.shape[:2], dtype=dtype, device=hidden.device)
            self.remainder, self.blocks = torch.zeros_like(self.sum), torch.zeros_like(self.sum)
            self.output = torch.zeros_like(hidden)
        assert self.remainder is not None
        assert self.blocks is not None
        assert self.output is not None
        active = torch.ones_like(self.sum, dtype=torch.bool) if self.active is None else self.active
        left = 1 - self.sum
        if probability is None:
            weight, stops = left, active
        else:
            stops = active & (self.sum + probability >= self.threshold)
            weight = torch.where(stops, left, probability)
        weight = weight * active
        self.output = self.output + weight.unsqueeze(-1).to(hidden.dtype) * hidden
        self.sum = self.sum + weight
        self.remainder = self.remainder + torch.where(stops, left, 0)
        self.blocks = self.blocks + active
        goes_on = active & ~stops
        self.active = None if self.active is None and bool(goes_on.all()) else goes_on

    def result(self) -> Tensor:
        """The weighted mean of states after the last block, [B, T, D]."""
        assert self.output is not None, "no block was passed"
        return self.output

    def mean(self, values: Tensor) -> Tensor:
        """The mean over tokens of [B, T], padding left out."""
        if self.real is None:
            return values.sum() / max(values.numel(), 1)
        return (values * self.real).sum() / self.real.sum().clamp(min=1)

    def ponder_cost(self) -> Tensor:
        """The mean of N + R, a scalar."""
        assert self.blocks is not None
        assert self.remainder is not None
        return self.mean(self.blocks + self.remainder)

    def depth(self) -> Tensor:
        """The mean of N, blocks a token passed, a scalar."""
        assert self.blocks is not None
        return self.mean(self.blocks)
