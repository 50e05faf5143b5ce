"""Some tokens of every row, moved side by side: what runs on them does not run on the others.

Shape legend: B batch, T tokens of a row, N places of a row, M tokens selected in all rows together, D size.

In half precision on a CPU, oneDNN compiles a matmul for every number of rows that it meets, which takes as long as the
matmul and stays in memory. How many tokens are selected changes at every step, so that there the numbers are rounded up
to one of a few (`size_step`) and the places that this adds are filled with what nothing reads.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.dispatch import autocast_enabled, full_precision
from resnet_bk.ops.precision import HALF

# Numbers of rows that matmuls are compiled for: few, and the filling is 1.6% of all tokens on average.
SIZES = 32
# Rows that end before the longest one are filled up with at least this many places (`resnet_bk.layers.spacer`).
LEAST_FILLING = 2


@dataclass(frozen=True)
class Selection:
    """The selected tokens, in order, at the start of each row.

    Attributes:
        tokens: their places in the rows laid end to end (row b, token t: b T + t), int64 [M], rising.
        places: where they go (row b, place n: b N + n), int64 [M], rising.
        counts: how many each row has, int64 [B].
        width: N: the largest count; two or more above it if not all rows have as many, or where it is rounded up.
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
            with full_precision(rows.device):  # autocast to bfloat16 refuses float16 here
                rows = rows.new_zeros(batch * width, *rows.shape[1:]).index_copy(0, self.places, rows)
        return rows.unflatten(0, (batch, width))

    def real(self) -> Tensor:
        """True where a place holds a token, bool [B, N]."""
        return torch.arange(self.width, device=self.counts.device) < self.counts.unsqueeze(1)


def size_step(x: Tensor, tokens: int) -> int:
    """What a number of rows of a matmul of `x`, at most `tokens`, is to be a multiple of; 1 where any will do."""
    half = autocast_enabled(x.device) or x.dtype in HALF
    return max(math.ceil(tokens / SIZES), 1) if half and x.device.type == "cpu" else 1


def fill_up(tokens: Tensor, step: int) -> Tensor:
    """`tokens`, int64 [M], with the last repeated until their number is a multiple of `step`; [0] stays [0]."""
    missing = -tokens.numel() % step
    return torch.cat([tokens, tokens[-1:].expand(missing)]) if missing else tokens


def select(keep: Tensor, step: int = 1) -> Selection | None:
    """The tokens where `keep`, bool [B, T], is true; None if there are none. N is a multiple of `step`."""
    counts = keep.sum(dim=1)
    longest, total = int(counts.amax()) if keep.numel() else 0, int(counts.sum())
    if total == 0:
        return None
    batch, length = keep.shape
    width = longest
    if total < batch * longest or longest % step:
        width += LEAST_FILLING
        width += -width % step
    tokens = keep.flatten().nonzero().squeeze(1)
    # Tokens lie row after row; each row starts at its own place.
    starts = F.pad(counts.cumsum(0), (1, 0))[:-1]
    row = tokens // length
    places = row * width + torch.arange(total, device=keep.device) - starts[row]
    return Selection(tokens, places, counts, width, (batch, length))


def add_rows(x: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
    """x [B, T, D] with `rows` [M, D] added at `tokens`, int64 [M], places in the rows laid end to end."""
    return x.flatten(0, 1).index_add(0, tokens, rows.to(x.dtype)).view(x.shape)
