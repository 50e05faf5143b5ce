"""Propagation of tokens by all pairs of sites, in plain PyTorch on any device: T^2 numbers a head.

Shape legend: B batch, T sites, H heads, K key size.
"""

import math

import torch
from torch import Tensor

from resnet_bk.ops.precision import in_float64

# Up to which plain PyTorch forms all pairs. On one core of a CPU they take about as long as sorted chains at 512 sites
# (half as long with one row), and longer at 1,024; on a GPU it was not measured.
FEW_SITES = 512
ROWS = 64  # of the triangle of pairs, at a time: what lies above it is not computed, and what is stays near the caches


class PairWeights:
    """a_tj of every two sites; `resnet_bk.ops.propagate_tokens` explains the arguments."""

    def __init__(self, query: Tensor, key: Tensor, log_transmission: Tensor, document: Tensor | None) -> None:
        self.query, self.key = query.transpose(1, 2), key.transpose(1, 2)
        steps = in_float64(log_transmission).transpose(1, 2)  # rounded, they would not add up over long chains
        length = steps.shape[2]
        self.joined = torch.ones(1, 1, length, length, dtype=torch.bool, device=steps.device).tril()
        if document is None:
            self.reached = steps.cumsum(2)
            return
        cut = torch.cat([document.new_zeros(len(document), 1, dtype=torch.bool), document.diff(dim=1) != 0], dim=1)
        chain = cut.long().cumsum(1)  # a number of `document` may come again after a cut
        self.joined = self.joined & (chain.unsqueeze(2) == chain.unsqueeze(1)).unsqueeze(1)
        # The sum of the steps since the last cut: of those before, not even the rounding may be seen.
        steps = steps.masked_fill(cut.unsqueeze(1), 0)
        self.reached = steps @ self.joined.to(steps.dtype).squeeze(1).transpose(1, 2)

    def rows(self, start: int, stop: int) -> Tensor:
        """a_tj for t from `start` to `stop` and all j before `stop`, [B, H, stop - start, stop]."""
        distance = self.reached[:, :, start:stop, None] - self.reached[:, :, None, :stop]
        distance = distance.masked_fill(~self.joined[:, :, start:stop, :stop], -math.inf)
        overlap = self.query[:, :, start:stop] @ self.key[:, :, :stop].transpose(2, 3)
        return overlap * distance.to(overlap.dtype).exp()


def propagate_tokens(
    query: Tensor, key: Tensor, log_transmission: Tensor, tokens: Tensor, targets: Tensor, document: Tensor | None
) -> tuple[Tensor, Tensor]:
    """n and m, [B, T, H]."""
    weights = PairWeights(query, key, log_transmission, document)
    found, hits = [], []
    for start in range(0, tokens.shape[1], ROWS):
        stop = min(start + ROWS, tokens.shape[1])
        there = weights.rows(start, stop)
        hit = targets[:, start:stop, None] == tokens[:, None, :stop]
        found.append(there.sum(3))
        hits.append(torch.where(hit.unsqueeze(1), there, 0.0).sum(3))
    return torch.cat(found, 2).transpose(1, 2), torch.cat(hits, 2).transpose(1, 2)
