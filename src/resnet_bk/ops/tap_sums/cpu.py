"""CPU kernel of the gradient of the taps of a causal filter.

Shape legend: B batch, T tokens, C channels, K taps. Arrays are flat: grad [B, T, C], x [B, T, C] or [B, K - 1 + T, C],
bfloat16 as int16; out [C, K], float32 or float64.

A task has BLOCK vectors of channels, in bfloat16 a cache line. PIECE tokens are summed in the precision of `out`, four
taps at a time in registers, and pieces in float64.
"""

from resnet_bk.ops.kernels import Array, Floats, kernel
from resnet_bk.ops.simd import lanes, load_as, scratch, store, wide, zeros

BLOCK = 2
PIECE = 64


@kernel
def sums(
    begin: int,
    end: int,
    grad: Array,
    x: Array,
    out: Floats,
    batch: int,
    length: int,
    inputs: int,
    channels: int,
    taps: int,
) -> None:
    """out [C, K]; `inputs` is the number of tokens of x."""
    width = lanes(out)
    block = BLOCK * width
    in_front = 0 if inputs > length else taps - 1  # zeros that x does not have
    for task in range(begin, end):
        first = task * block
        total, part = wide.scratch(taps * block), scratch(out, taps * block)
        total.fill(0)
        part.fill(0)  # of which the last task may write no more than a vector
        for row in range(batch):
            for start in range(0, length, PIECE):
                stop = min(start + PIECE, length)
                for k in range(0, taps, 4):
                    count = taps - k
                    for c in range(0, min(block, channels - first), width):
                        n = channels - first - c
                        of_row = row * length * channels + first + c
                        of_tap = (row * inputs + k - in_front) * channels + first + c
                        s0, s1, s2, s3 = zeros(out), zeros(out), zeros(out), zeros(out)
                        for t in range(start, stop):
                            of_y = load_as(grad, of_row + t * channels, n, out)
                            i = of_tap + t * channels
                            missing = in_front - k - t  # taps from k on whose input lies before the first
                            if missing <= 0:
                                s0 = s0 + of_y * load_as(x, i, n, out)
                            if count > 1 and missing <= 1:
                                s1 = s1 + of_y * load_as(x, i + channels, n, out)
                            if count > 2 and missing <= 2:
                                s2 = s2 + of_y * load_as(x, i + 2 * channels, n, out)
                            if count > 3 and missing <= 3:
                                s3 = s3 + of_y * load_as(x, i + 3 * channels, n, out)
                        store(part, k * block + c, width, s0)
                        if count > 1:
                            store(part, (k + 1) * block + c, width, s1)
                        if count > 2:
                            store(part, (k + 2) * block + c, width, s2)
                        if count > 3:
                            store(part, (k + 3) * block + c, width, s3)
                for i in range(0, taps * block, wide.LANES):
                    wide.store(total, i, wide.LANES, wide.load(total, i, wide.LANES) + wide.load(part, i, wide.LANES))
        for c in range(min(block, channels - first)):
            for k in range(taps):
                out[(first + c) * taps + k] = total[k * block + c]
