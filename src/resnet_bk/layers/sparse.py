"""Sparse chains: a learned gate takes sites out, and the mixer runs on those that are left.

Shape legend: B batch, T tokens, D hidden size.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.token_score import TokenScore


class SiteChoice(NamedTuple):
    """keep: bool [B, T]; weight: of what a kept site reads, [B, T]; share: of sites kept, a scalar with the gradient of
    the sigmoid."""

    keep: Tensor
    weight: Tensor
    share: Tensor


class SiteGate(TokenScore):
    """A site stays in the chain where w . x + c > 0.

    A token whose site is removed neither writes into the chain nor reads from it: to the mixer it is not there, and the
    sites beside it become neighbours, coupled by the hopping of the later one. Decimation by the Schur complement of a
    removed site t, with z = a_t - i eta_t, would give them the hopping b_t b_{t+1} / z and the energies a_{t-1} -
    b_t^2 / z and a_{t+1} - b_{t+1}^2 / z, but that takes the projections of the removed site, which are what is saved.
    Projections, convolution and scan run on the kept sites alone. The choice is the token's own, so that it depends on
    the past alone and a token generated later cannot undo it.

    Learned by two gradients. What a kept site reads is multiplied by p = sigmoid(w . x + c), so that the loss of the
    model raises p where reading helps. And the share of kept sites is drawn to its target by the loss

        (share - target)^2,    share = mean of 1[p > 1/2] + p - stopgrad(p)

    whose value is that of the hard choice and whose slope that of the sigmoid (straight-through). At the start c = 2:
    nearly every site is kept.
    """

    start: ClassVar[float] = 2.0

    def forward(self, hidden: Tensor, boundaries: Boundaries | None) -> SiteChoice:
        """Chooses among tokens [B, T, D]; padding is never kept and does not count."""
        score = self.score(hidden)
        weight = score.sigmoid()
        keep = score > 0
        counted = torch.ones_like(weight)
        if boundaries is not None and boundaries.real is not None:
            counted = boundaries.real.squeeze(-1).to(score.dtype)
            keep = keep & (counted != 0)
        hard = keep.to(score.dtype) + (weight - weight.detach()) * counted
        return SiteChoice(keep, weight, hard.sum() / counted.sum().clamp(min=1))


def sparsity_loss(shares: Tensor, targets: Sequence[float]) -> Tensor:
    """(share - target)^2, the mean over gates: [gates] to a scalar."""
    return F.mse_loss(shares, shares.new_tensor(targets))


def target_share(final: float, progress: float, schedule: float) -> float:
    """The share of sites to keep: from 1 at the start of training down to `final`, in a straight line.

    Args:
        final: the share at the end.
        progress: how much of the training is done, 0 to 1.
        schedule: how much of the training the way down takes; 0 starts at `final`.
    """
    done = 1.0 if schedule == 0 else min(1.0, progress / schedule)
    return 1 - (1 - final) * done
