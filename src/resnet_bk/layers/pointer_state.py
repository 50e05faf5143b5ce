"""What the heads of a pointer remember, and how it fades over the tokens of a call (`resnet_bk.layers.pointer`).

Shape legend: B batch, T tokens, D hidden size, H heads, K key size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from resnet_bk.ops.precision import in_float64


class PointerState(NamedTuple):
    """What the heads remember, in constant size. float32 (float64 for a float64 model).

    Attributes:
        green: surface Green's functions, complex [B, H].
        words: S / exp(scale), [B, V, H K]; by far the largest part. V is 0 where nothing has been written.
        scale: [B, H]. Each call rounds it anew: over thousands of calls of one token in float32, all rounded to one
            side, S and its sum part by up to 0.1%.
        total: S summed over words, [B, H, K].
        hidden: the last hidden state, of which the next key is made; [B, D].
    """

    green: Tensor
    words: Tensor
    scale: Tensor
    total: Tensor
    hidden: Tensor

    def only(self, rows: Tensor) -> "PointerState":
        """This state for `rows`, bool [B], and the one before any token for the others."""
        return PointerState(*(part * rows.view(-1, *[1] * (part.ndim - 1)) for part in self))


class PointerSites(NamedTuple):
    """The tokens of a call or a piece.

    Attributes:
        query, key: [B, T, H, K], the key times the write gate.
        log_transmission: logarithm of b |L|, [B, T, H].
        gates: [B, T, 1 + H].
        segment: number of cuts up to and with t, int64 [B, T]; None without any.
        last_green: L after the call, [B, H].
        before: `segment` of the token before the first, [B, 1].
    """

    query: Tensor
    key: Tensor
    log_transmission: Tensor
    gates: Tensor
    segment: Tensor | None
    last_green: Tensor
    before: Tensor | int = 0

    def part(self, start: int, length: int) -> "PointerSites":
        """`length` tokens from `start`."""
        tokens = slice(start, start + length)
        segment, before = self.segment, self.before
        if segment is not None:
            before = segment[:, start - 1 : start] if start else 0
            segment = segment[:, tokens]
        query, key, log_transmission, gates = (x[:, tokens] for x in self[:4])
        return PointerSites(query, key, log_transmission, gates, segment, self.last_green, before)

    def since_start(self) -> tuple[Tensor, Tensor]:
        """How much of what was before the first token is left.

        Returns:
            Its logarithm at every token, float64 (float32 on MPS, which has none) [B, H, T]; 1 up to the first cut and
            0 behind it, where the logarithm means nothing, [B or 1, 1, T].
        """
        steps = in_float64(self.log_transmission).transpose(1, 2)
        if self.segment is None:
            return steps.cumsum(2), steps.new_ones(1, 1, steps.shape[2], dtype=self.query.dtype)
        unbroken = (self.segment == self.before).unsqueeze(1)
        return steps.masked_fill(~unbroken, 0).cumsum(2), unbroken.to(self.query.dtype)

    def until_end(self) -> tuple[Tensor, Tensor]:
        """How much of a token is left after the last one.

        Returns:
            Its logarithm, of the same kind as above, [B, H, T]; 1 behind the last cut and 0 before it, [B or 1, 1, T].
        """
        steps = in_float64(self.log_transmission).transpose(1, 2)
        joined = steps.new_ones(1, 1, steps.shape[2], dtype=torch.bool)
        if self.segment is not None:
            joined = (self.segment == self.segment[:, -1:]).unsqueeze(1)
        # The sum of the steps behind each token, none of them before the last cut.
        behind = torch.nn.functional.pad(steps[:, :, 1:], (0, 1)).masked_fill(~joined, 0)
        return behind.flip(2).cumsum(2).flip(2), joined.to(self.query.dtype)
