"""Products of small matrices that lie in an array row by row, out of tiles summed in registers."""

from numba.extending import register_jitable

from resnet_bk.ops.dispatch import cpu_has
from resnet_bk.ops.simd import (
    lanes,
    tile_onto,
    tile_onto_half,
    tile_onto_narrow,
    tile_zero,
    tile_zero_half,
    tile_zero_narrow,
)
from resnet_bk.ops.simd.uncompiled import Floats
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS

# Without the registers of AVX-512 the sums of a tile more than one vector wide would not stay in registers.
WIDEST = TILE_COLUMNS if cpu_has("avx512f") else 1


@register_jitable
def multiply(
    out: Floats,
    io: int,
    so: int,
    left: Floats,
    il: int,
    row: int,
    step: int,
    right: Floats,
    ir: int,
    sr: int,
    rows: int,
    columns: int,
    depth: int,
    add: bool,
) -> None:
    """out[io + m so + n] = sum_{k < depth} left[il + m row + k step] right[ir + k sr + n], added to `out` if `add`.

    Rows are computed in fours and columns in vectors: `out` has room for them, `left` and `right` have numbers there,
    and what those give is not to be read. At least one product: depth >= 1.
    """
    wide = lanes(out)
    for n in range(0, columns, WIDEST * wide):
        vectors = min((columns - n + wide - 1) // wide, WIDEST)
        for m in range(0, rows, TILE_ROWS):
            o, i, r = io + m * so + n, il + m * row, ir + n
            if vectors >= TILE_COLUMNS:
                if add:
                    tile_onto(out, o, so, out, 0, left, i, row, step, right, r, sr, depth)
                else:
                    tile_zero(out, o, so, out, 0, left, i, row, step, right, r, sr, depth)
                continue
            if vectors >= TILE_COLUMNS // 2:
                if add:
                    tile_onto_half(out, o, so, out, 0, left, i, row, step, right, r, sr, depth)
                else:
                    tile_zero_half(out, o, so, out, 0, left, i, row, step, right, r, sr, depth)
                o, r = o + TILE_COLUMNS // 2 * wide, r + TILE_COLUMNS // 2 * wide
            if vectors % (TILE_COLUMNS // 2) > 0:
                if add:
                    tile_onto_narrow(out, o, so, out, 0, left, i, row, step, right, r, sr, depth)
                else:
                    tile_zero_narrow(out, o, so, out, 0, left, i, row, step, right, r, sr, depth)
