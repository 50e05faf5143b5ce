"""CPU kernel of a few vectors times a matrix.

Shape legend: B batch, D depth, R rows of the matrix. Arrays are flat: x [B, D], weight [R, D], y [B, R].
"""

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.one_token import product

ROWS = 64  # of a task: a few tens of KiB, so that all vectors meet them in a cache


@kernel
def forward(begin: int, end: int, x: Floats, weight: Floats, y: Floats, batch: int, depth: int) -> None:
    rows = y.size // batch
    for task in range(begin, end):
        first, last = task * ROWS, min((task + 1) * ROWS, rows)
        for b in range(batch):
            product(weight, first, last, x, b * depth, depth, y, b * rows)
