"""Shortening a sequence by a factor and lengthening it again, causally (Hourglass, Nawrot et al., arXiv 2110.13711).

Shape legend: B batch, T tokens, D hidden size, k factor, N groups that end in this call (the longest row's), M in all.

Tokens of a document are taken in groups of k. A group becomes one token of the coarse sequence, by a learned map of the
k states side by side:

    c_g = P [h_{gk}; ...; h_{gk+k-1}]

It is complete at its last token, and from there on, not before, the fine tokens may know it. Each of the k fine tokens
from that one on gets its own learned part of what the coarse blocks made of it, added to its own state (the skip
connection):

    h_t + (U c'_g)_j,       t = gk + k - 1 + j,   j = 0 ... k - 1

That is the shift by k - 1 that keeps the hierarchy causal. Tokens before the first complete group get nothing. The last
tokens of a document that do not fill a group have no coarse token; no one after them would read it.

Groups start anew with every document, and with the first token after padding, so that rows end at different places in a
group and have different numbers of groups: those are laid side by side as `resnet_bk.layers.selection` does. Between
calls the state keeps the tokens of the group that is not complete, their number, and the latest coarse result: constant
in size, and a sequence cut anywhere gives what the whole gives.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_bk.layers.boundaries import Boundaries, select_boundaries
from resnet_bk.layers.selection import Selection, select
from resnet_bk.ops.dispatch import full_precision


class ScaleState(NamedTuple):
    """pending: the last k - 1 tokens, [B, k - 1, D]; filled: how many of them are in the group that is not complete,
    int64 [B]; latest: the last coarse result, [B, D], zero where the document has none."""

    pending: Tensor
    filled: Tensor
    latest: Tensor

    def only(self, rows: Tensor) -> "ScaleState":
        """This state for `rows`, bool [B], and that before any token for the others."""
        return ScaleState(
            self.pending * rows.view(-1, 1, 1), self.filled * rows.long(), self.latest * rows.unsqueeze(-1)
        )


class Shortened(NamedTuple):
    """A call's way down, kept for the way up.

    hidden: the coarse tokens [B, N, D], None where no group ends in this call; boundaries: theirs; fine,
    fine_boundaries: what was shortened; groups: number of groups that have ended up to and with t, int64 [B, T]; place:
    of t in its group, int64 [B, T]; state: before the call; pending, filled: after it.
    """

    hidden: Tensor | None
    boundaries: Boundaries | None
    fine: Tensor
    fine_boundaries: Boundaries | None
    groups: Tensor
    place: Tensor
    state: ScaleState
    pending: Tensor
    filled: Tensor


class Shortening(nn.Module):
    """P and U of the formulas above.

    Args:
        hidden_size: D.
        factor: k, at least 2.
    """

    def __init__(self, hidden_size: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.pool = nn.Linear(factor * hidden_size, hidden_size, bias=False)
        self.spread = nn.Linear(hidden_size, factor * hidden_size, bias=False)

    def extra_repr(self) -> str:
        return f"factor={self.factor}"

    def initial_state(self, hidden: Tensor) -> ScaleState:
        """Before any token, for a batch like `hidden` [B, T, D]."""
        batch, _, size = hidden.shape
        filled = torch.zeros(batch, dtype=torch.int64, device=hidden.device)
        return ScaleState(hidden.new_zeros(batch, self.factor - 1, size), filled, hidden.new_zeros(batch, size))

    def shorten(self, hidden: Tensor, boundaries: Boundaries | None, state: ScaleState | None) -> Shortened:
        """The coarse tokens of `hidden` [B, T, D]."""
        k = self.factor
        state = self.initial_state(hidden) if state is None else state
        real = None if boundaries is None or boundaries.real is None else boundaries.real.squeeze(-1) != 0
        place = _places(hidden, boundaries, real, state.filled) % k
        ends = place == k - 1 if real is None else (place == k - 1) & real
        # The tokens from before the call in front: the group that ends at t is then at t, ..., t + k - 1.
        full = _behind(state.pending, hidden)
        selection = select(ends)
        coarse = coarse_boundaries = None
        if selection is not None:
            coarse = selection.place(self.pool(self._groups(full, selection)).to(hidden.dtype))
            coarse_boundaries = select_boundaries(boundaries, selection)
        last = _last_tokens(hidden, real)
        behind = last.clamp(min=0).unsqueeze(1)
        filled = torch.where(last < 0, state.filled, (place.gather(1, behind).squeeze(1) + 1) % k)
        kept = (last + 1).unsqueeze(1) + torch.arange(k - 1, device=hidden.device)
        pending = full.gather(1, kept.unsqueeze(-1).expand(-1, -1, hidden.shape[2]))
        if boundaries is not None and boundaries.ended is not None:
            filled = filled * ~boundaries.ended
        groups = ends.long().cumsum(dim=1)
        return Shortened(coarse, coarse_boundaries, hidden, boundaries, groups, place, state, pending, filled)

    def _groups(self, full: Tensor, selection: Selection) -> Tensor:
        """The k tokens of each group side by side, [M, k D]."""
        length = selection.shape[1]
        first = selection.tokens + (selection.tokens // length) * (self.factor - 1)
        rows = first.unsqueeze(1) + torch.arange(self.factor, device=full.device)
        return full.flatten(0, 1).index_select(0, rows.flatten()).view(len(first), -1)

    def lengthen(self, down: Shortened, coarse: Tensor | None) -> tuple[Tensor, ScaleState]:
        """The fine tokens with the coarse results [B, N, D] added, [B, T, D], and the state after the call."""
        k, fine, boundaries = self.factor, down.fine, down.fine_boundaries
        latest = down.state.latest.to(fine.dtype).unsqueeze(1)
        table = latest if coarse is None else _behind(latest, coarse.to(fine.dtype))
        entries = table.shape[1]
        offset = (down.place + 1) % k  # j: how far the latest group's last token lies back
        row = torch.arange(fine.shape[0], device=fine.device).unsqueeze(1)
        parts = self.spread(table).view(-1, fine.shape[2]).to(fine.dtype)
        added = parts.index_select(0, (((row * entries + down.groups) * k) + offset).flatten()).view(fine.shape)
        known = down.groups[:, -1]
        latest = table.gather(1, known.view(-1, 1, 1).expand(-1, 1, fine.shape[2])).squeeze(1)
        if boundaries is not None and boundaries.segment is not None:
            assert boundaries.end_segment is not None
            # Group 0 is the one before the call, of segment 0.
            segment = boundaries.segment.new_zeros(fine.shape[0], entries)
            if down.boundaries is not None and coarse is not None:
                assert down.boundaries.segment is not None
                segment = F.pad(down.boundaries.segment, (1, 0))
            added = added * (segment.gather(1, down.groups) == boundaries.segment).unsqueeze(-1)
            now = torch.eq(segment.gather(1, known.unsqueeze(1)).squeeze(1), boundaries.end_segment)
            latest = latest * now.unsqueeze(-1)
        return fine + added, ScaleState(down.pending, down.filled, latest)


def _behind(first: Tensor, second: Tensor) -> Tensor:
    """Tokens [B, T, D] behind others, in their own precision; autocast to bfloat16 would refuse float16 here."""
    with full_precision(second.device):
        return torch.cat([first.to(second.dtype), second], dim=1)


def _places(hidden: Tensor, boundaries: Boundaries | None, real: Tensor | None, filled: Tensor) -> Tensor:
    """Number of tokens of its document before t, less whole groups of earlier calls, int64 [B, T]."""
    batch, length, _ = hidden.shape
    if real is None:
        count = torch.arange(length, device=hidden.device).expand(batch, -1)
    else:
        count = real.long().cumsum(dim=1) - 1
    if boundaries is None or boundaries.segment is None:
        return count + filled.unsqueeze(1)
    segment = boundaries.segment
    starts = segment != F.pad(segment, (1, 0))[:, :-1]
    start = torch.where(starts, count, 0).cummax(dim=1).values
    return count - start + torch.where(segment == 0, filled.unsqueeze(1), 0)


def _last_tokens(hidden: Tensor, real: Tensor | None) -> Tensor:
    """Place of the last token of each row, int64 [B]; -1 where there is none."""
    batch, length, _ = hidden.shape
    if real is None:
        return torch.full((batch,), length - 1, device=hidden.device)
    place = torch.arange(length, device=hidden.device)
    return torch.where(real, place, -1).amax(dim=1)
