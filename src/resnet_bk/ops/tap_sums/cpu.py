"""CPU kernel of the gradient of the taps of a causal filter.

Shape legend: B batch, T tokens, C channels, K taps. Arrays are flat: grad [B, T, C], x [B, T, C] or [B, K - 1 + T, C],
bfloat16 as int16; out [C, K], float32 or float64.

A task has BLOCK vectors of channels, in bfloat16 a cache line. PIECE tokens are summed in the precision of `out`,
pieces in float64.
"""

from numba import prange

from resnet_bk.ops.kernels import Array, Floats, kernel
from resnet_bk.ops.simd import lanes, load, load_as, scratch, store, wide

BLOCK = 2
PIECE = 64


@kernel
def sums(grad: Array, x: Array, out: Floats, batch: int, length: int, inputs: int, channels: int, taps: int) -> None:
    """out [C, K]; `inputs` is the number of tokens of x."""
    width = lanes(out)
    block = BLOCK * width
    in_front = 0 if inputs > length else taps - 1  # zeros that x does not have
    for task in prange((channels + block - 1) // block):
        first = task * block
        total, part = wide.scratch(taps * block), scratch(out, taps * block)
        total.fill(0)
        for row in range(batch):
            for start in range(0, length, PIECE):
                part.fill(0)
                for t in range(start, min(start + PIECE, length)):
                    for c in range(0, min(block, channels - first), width):
                        n = channels - first - c
                        of_y = load_as(grad, (row * length + t) * channels + first + c, n, out)
                        for k in range(max(in_front - t, 0), taps):
                            z = load_as(x, (row * inputs + t + k - in_front) * channels + first + c, n, out)
                            store(part, k * block + c, width, load(part, k * block + c, width) + of_y * z)
                for i in range(0, taps * block, wide.LANES):
                    wide.store(total, i, wide.LANES, wide.load(total, i, wide.LANES) + wide.load(part, i, wide.LANES))
        for c in range(min(block, channels - first)):
            for k in range(taps):
                out[(first + c) * taps + k] = total[k * block + c]
