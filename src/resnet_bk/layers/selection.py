"""Some tokens of every row, moved side by side: what runs on them does not run on the others.

Shape legend: B batch, T tokens of a row, N places of a row, M tokens selected in all rows together, D size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows that end before the longest one are filled up with at least this many places (`resnet_bk.layers.spacer`).
LEAST_FILLING = 2


@dataclass(frozen=True)
class Selection:
    """The selected tokens, in order, at the start of each row.

    Attributes:
        tokens: their places in the rows laid end to end (row b, token t: b T + t), int64 [M], rising.
        places: where they go (row b, place n: b N + n), int64 [M], rising.
        counts: how many each row has, int64 [B].
        width: N: the largest count; two more if not all rows have as many.
        shape: (B, T).
    """

    tokens: Tensor
    places: Tensor
    counts: Tensor
    width: int
    shape: tuple[int, int]

    @property
    def ragged(self) -> bool:
        """Whether some rows have fewer tokens than others."""
        return self.tokens.numel() < self.shape[0] * self.width

    def gather(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, N, D]; zero where a row has no token left."""
        return self.place(x.flatten(0, 1).index_select(0, self.tokens))

    def place(self, rows: Tensor) -> Tensor:
        """The selected tokens [M, D] to [B, N, D]; zero where a row has no token left."""
        batch, width = self.shape[0], self.width
        if self.ragged:
            rows = rows.new_zeros(batch * width, *rows.shape[1:]).index_copy(0, self.places, rows)
        return rows.unflatten(0, (batch, width))

    def real(self) -> Tensor:
        """True where a place holds a token, bool [B, N]."""
        return torch.arange(self.width, device=self.counts.device) < self.counts.unsqueeze(1)


def select(keep: Tensor) -> Selection | None:
    """The tokens where `keep`, bool [B, T], is true; None if there are none."""
    counts = keep.sum(dim=1)
    longest, total = int(counts.amax()) if keep.numel() else 0, int(counts.sum())
    if total == 0:
        return None
    batch, length = keep.shape
    width = longest if total == batch * longest else longest + LEAST_FILLING
    tokens = keep.flatten().nonzero().squeeze(1)
    # Tokens lie row after row; each row starts at its own place.
    starts = F.pad(counts.cumsum(0), (1, 0))[:-1]
    row = tokens // length
    places = row * width + torch.arange(total, device=keep.device) - starts[row]
    return Selection(tokens, places, counts, width, (batch, length))


def add_rows(x: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
    """x [B, T, D] with `rows` [M, D] added at `tokens`, int64 [M], places in the rows laid end to end."""
    return x.flatten(0, 1).index_add(0, tokens, rows.to(x.dtype)).view(x.shape)
