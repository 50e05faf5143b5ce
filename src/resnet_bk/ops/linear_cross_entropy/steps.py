"""What the sweeps of the fused head have in common, whatever the precision of their operands.

Shape legend: C tokens in a chunk, D width, K blocks of words. Arrays are flat; the symbols are those of `cpu.py`.
"""

import numpy as np
from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats
from resnet_bk.ops.simd import lanes, load, maximum, scratch, spread, store, zeros
from resnet_bk.ops.sizes import VECTOR_BYTES

# The largest logit of a block starts here, so that a block of -inf gives -inf - LOWEST = -inf and not NaN. Also stands
# for the logarithm of 0.
LOWEST = -3.0e38
ALL_LANES = VECTOR_BYTES  # a count of numbers to load or store that no vector exceeds, whatever they are


@register_jitable
def largest_of_rows(logits: Floats, start: int, words: int, chunk: int):  # type: ignore[no-untyped-def]
    """Lane-wise maximum of rows `start`, `start + chunk`, ...; an even number of rows."""
    first = maximum(load(logits, start, ALL_LANES), _lowest(logits))
    second = first
    for v in range(0, words, 2):
        i = start + v * chunk
        first = maximum(load(logits, i, ALL_LANES), first)
        second = maximum(load(logits, i + chunk, ALL_LANES), second)
    return maximum(first, second)


@register_jitable
def _lowest(array: Floats):  # type: ignore[no-untyped-def]
    """LOWEST in every lane."""
    one = np.full(1, LOWEST, array.dtype)
    return spread(one, 0)


@register_jitable
def gather_input_gradient(
    partial: Floats, factor: Floats, grad_input: Floats, task: int, first: int, width: int, blocks: int, chunk: int
) -> None:
    """d x of the chunk, the columns of one of `blocks` tasks: sum_k f_k (dx)_k, out of (dx)_k^T [K, D, C]."""
    row = scratch(partial, chunk)
    for d in range(task * width // blocks, (task + 1) * width // blocks):
        for c in range(0, chunk, lanes(partial)):
            x = zeros(partial)
            for k in range(blocks):
                x = x + load(partial, (k * width + d) * chunk + c, ALL_LANES) * load(factor, k * chunk + c, ALL_LANES)
            store(row, c, ALL_LANES, x)
        for c in range(chunk):
            grad_input[(first + c) * width + d] = row[c]
