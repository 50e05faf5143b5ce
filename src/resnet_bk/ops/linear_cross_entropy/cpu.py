"""CPU kernels of the fused head: logits, softmax and all gradients in one pass over tokens, on AVX-512.

Shape legend: N tokens, D width, V vocabulary, C = TOKENS in a chunk, K blocks of BLOCK words. Arrays are flat.

The derivation is in `chunked.py`; here is what is done differently. A thread takes a block of words at a time and has
the logits of a chunk only for that block, transposed, E^T [BLOCK, C], tokens in the lanes of a vector: neither the
largest logit nor a sum needs a step across lanes, and W is read as it lies in memory. Without the other blocks the
largest logit m of a token is not known, so each block takes its own, m_k, and leaves

    E_k = exp(Z_k - m_k),    s_k = E_k 1,    (dx)_k = E_k W_k

Once all blocks of the chunk are done, m = max m_k, s = sum s_k exp(m_k - m), and with f_k = scale exp(m_k - m) / s,

    d x = sum_k f_k (dx)_k       d W_k = E_k^T (f_k x)       d b_k = E_k^T f_k

in a second walk over the blocks. Where a target has more than its softmax (`log_extra`), the scale of its token is
multiplied by the share of the softmax once s is known. The blocks' order in each sum is fixed: the results do not
depend on the number of threads. E is the only thing kept between the two walks: V x C numbers, 7.7 MB in float32 for
30,000 words, in a shared last-level cache.

With bfloat16 operands the processor multiplies pairs of neighbours along the summed index and adds both to a float32
sum. An array of such pairs is an int32 array; E is rounded to bfloat16 as it is stored, once in pairs of words (for
d x) and once in pairs of tokens (for d W).
"""

import math

import numpy as np
from numba import prange
from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, Integers, kernel
from resnet_bk.ops.linear_cross_entropy.sizes import BLOCK, TOKENS
from resnet_bk.ops.simd import (
    exponential,
    lanes,
    load,
    load_halves,
    maximum,
    scratch,
    spread,
    store,
    store_halves,
    store_joined,
    sum_lanes,
    tile_from,
    tile_onto,
    tile_onto_narrow,
    tile_zero,
    zeros,
)
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS

# The largest logit of a block starts here, so that a block of -inf gives -inf - LOWEST = -inf and not NaN. Also stands
# for the logarithm of 0.
LOWEST = -3.0e38
HIGHEST = 80.0  # logarithm of the odds against a word, whose exponential float32 holds


@register_jitable
def _largest(logits: Floats, start: int, words: int):  # type: ignore[no-untyped-def]
    """Lane-wise maximum of rows `start`, `start + TOKENS`, ...; an even number of rows."""
    first = maximum(load(logits, start, TOKENS), _lowest(logits))
    second = first
    for v in range(0, words, 2):
        i = start + v * TOKENS
        first = maximum(load(logits, i, TOKENS), first)
        second = maximum(load(logits, i + TOKENS, TOKENS), second)
    return maximum(first, second)


@register_jitable
def _lowest(array: Floats):  # type: ignore[no-untyped-def]
    """LOWEST in every lane."""
    one = np.full(1, LOWEST, array.dtype)
    return spread(one, 0)


@register_jitable
def _combine(
    largest: Floats,
    total: Floats,
    scale: Floats,
    extra: Floats,
    block_largest: Floats,
    block_total: Floats,
    factor: Floats,
    first: int,
    blocks: int,
) -> None:
    """m and s of the chunk's tokens into `largest` and `total` from `first` on, f_k into `factor` [K, C]; `scale`
    becomes the softmax's share of it."""
    for c in range(0, TOKENS, lanes(scale)):
        m = load(block_largest, c, TOKENS)
        for k in range(1, blocks):
            m = maximum(load(block_largest, k * TOKENS + c, TOKENS), m)
        s = zeros(scale)
        for k in range(blocks):
            i = k * TOKENS + c
            f = exponential(load(block_largest, i, TOKENS) - m)
            s = s + load(block_total, i, TOKENS) * f
            store(factor, i, TOKENS, f)
        store(largest, first + c, TOKENS, m)
        store(total, first + c, TOKENS, s)
        for i in range(first + c, first + c + lanes(scale)):
            if extra[i] > LOWEST:
                scale[i] /= 1.0 + math.exp(min(extra[i] + math.log(total[i]) + largest[i], HIGHEST))
        share = load(scale, first + c, TOKENS) / s
        for k in range(blocks):
            i = k * TOKENS + c
            store(factor, i, TOKENS, load(factor, i, TOKENS) * share)


@register_jitable
def _gather_input_gradient(
    partial: Floats, factor: Floats, grad_input: Floats, low: int, first: int, width: int, blocks: int
) -> None:
    """d x of the chunk, columns `low` to `low + TILE_ROWS`: sum_k f_k (dx)_k, out of (dx)_k^T [K, D, C]."""
    row = scratch(partial, TOKENS)
    for d in range(low, low + TILE_ROWS):
        for c in range(0, TOKENS, lanes(partial)):
            x = zeros(partial)
            for k in range(blocks):
                x = x + load(partial, (k * width + d) * TOKENS + c, TOKENS) * load(factor, k * TOKENS + c, TOKENS)
            store(row, c, TOKENS, x)
        for c in range(TOKENS):
            grad_input[(first + c) * width + d] = row[c]


@register_jitable
def _scaled_input(x: Floats, factor: Floats, scaled: Floats, first: int, block: int, width: int) -> None:
    """f_k x of the chunk into `scaled` [C, D]."""
    for c in range(TOKENS):
        f = spread(factor, block * TOKENS + c)
        for d in range(0, width, lanes(x)):
            store(scaled, c * width + d, width, load(x, (first + c) * width + d, width) * f)


@register_jitable
def _clear_half(array: Integers, i: int, high: int) -> None:
    """Zero in the low or high half of a pair of bfloat16."""
    array[i] &= 0x0000FFFF if high else ~0x0000FFFF


@kernel
def sweep_float32(
    x: Floats,
    weight: Floats,
    bias: Floats,
    scale: Floats,
    extra: Floats,
    largest: Floats,
    total: Floats,
    grad_input: Floats,
    grad_weight: Floats,
    grad_bias: Floats,
    exponentials: Floats,
    block_largest: Floats,
    block_total: Floats,
    factor: Floats,
    partial: Floats,
    tokens: int,
    width: int,
    vocabulary: int,
    with_gradients: bool,
    with_bias: bool,
) -> None:
    """The whole pass. `grad_weight` [V, D] and `grad_bias` [V] are added to, everything else is written.

    Args:
        x: [N, D], N a multiple of TOKENS, D of a vector.
        weight: [V, D], V a multiple of TILE_ROWS.
        bias: [V]; zeros where there is none.
        scale: [N], cotangent of each token's loss; overwritten.
        extra: [N], `log_extra` less the logit of the target; LOWEST where there is none.
        largest, total: [N], m and s.
        exponentials: room for E^T [V, C]; block_largest, block_total, factor: for [K, C]; partial: for [K, D, C].
    """
    blocks = (vocabulary + BLOCK - 1) // BLOCK
    wide = lanes(x)
    columns = TILE_COLUMNS * wide
    transposed = scratch(x, width * TOKENS)
    for first in range(0, tokens, TOKENS):
        for c in range(TOKENS):
            for d in range(width):
                transposed[d * TOKENS + c] = x[(first + c) * width + d]
        for block in prange(blocks):
            low = block * BLOCK
            words = min(BLOCK, vocabulary - low)
            for v in range(low, low + words, TILE_ROWS):
                tile_from(
                    exponentials, v * TOKENS, TOKENS, bias, v, weight, v * width, width, 1, transposed, 0, TOKENS, width
                )
            for c in range(0, TOKENS, wide):
                m = _largest(exponentials, low * TOKENS + c, words)
                s, odd = zeros(x), zeros(x)
                for v in range(low, low + words, 2):
                    i = v * TOKENS + c
                    e, f = (
                        exponential(load(exponentials, i, TOKENS) - m),
                        exponential(load(exponentials, i + TOKENS, TOKENS) - m),
                    )
                    s, odd = s + e, odd + f
                    store(exponentials, i, TOKENS, e)
                    store(exponentials, i + TOKENS, TOKENS, f)
                store(block_largest, block * TOKENS + c, TOKENS, m)
                store(block_total, block * TOKENS + c, TOKENS, s + odd)
            if with_gradients:
                for d in range(0, width, TILE_ROWS):
                    at = (block * width + d) * TOKENS
                    start = low * TOKENS
                    tile_zero(
                        partial,
                        at,
                        TOKENS,
                        bias,
                        0,
                        weight,
                        low * width + d,
                        1,
                        width,
                        exponentials,
                        start,
                        TOKENS,
                        words,
                    )
        _combine(largest, total, scale, extra, block_largest, block_total, factor, first, blocks)
        if with_gradients:
            for task in prange(blocks + width // TILE_ROWS):
                if task >= blocks:
                    _gather_input_gradient(
                        partial, factor, grad_input, (task - blocks) * TILE_ROWS, first, width, blocks
                    )
                else:
                    low = task * BLOCK
                    high = min(vocabulary, low + BLOCK)
                    scaled = scratch(x, TOKENS * width)
                    _scaled_input(x, factor, scaled, first, task, width)
                    full = width // columns * columns
                    for d in range(0, full, columns):
                        for v in range(low, high, TILE_ROWS):
                            at = v * width + d
                            tile_onto(
                                grad_weight,
                                at,
                                width,
                                bias,
                                0,
                                exponentials,
                                v * TOKENS,
                                TOKENS,
                                1,
                                scaled,
                                d,
                                width,
                                TOKENS,
                            )
                    for d in range(full, width, wide):
                        for v in range(low, high, TILE_ROWS):
                            at = v * width + d
                            tile_onto_narrow(
                                grad_weight,
                                at,
                                width,
                                bias,
                                0,
                                exponentials,
                                v * TOKENS,
                                TOKENS,
                                1,
                                scaled,
                                d,
                                width,
                                TOKENS,
                            )
                    if with_bias:
                        for v in range(low, high):
                            s = zeros(x)
                            for c in range(0, TOKENS, wide):
                                i = task * TOKENS + c
                                s = s + load(exponentials, v * TOKENS + c, TOKENS) * load(factor, i, TOKENS)
                            grad_bias[v] += sum_lanes(s)


@kernel
def sweep_bfloat16(
    x: Floats,
    x_pairs: Integers,
    weight: Integers,
    weight_pairs: Integers,
    label: Integers,
    bias: Floats,
    scale: Floats,
    extra: Floats,
    largest: Floats,
    total: Floats,
    grad_input: Floats,
    grad_weight: Floats,
    grad_bias: Floats,
    exponentials: Integers,
    block_largest: Floats,
    block_total: Floats,
    factor: Floats,
    partial: Floats,
    tokens: int,
    width: int,
    vocabulary: int,
    with_gradients: bool,
    with_bias: bool,
) -> None:
    """`sweep_float32` with operands in bfloat16, and without the label's share of the gradients (`sweep.py`).

    Args:
        x: [N, D] float32.
        x_pairs: [N, D / 2], x rounded, pairs along D.
        weight: [V, D / 2], pairs along D.
        weight_pairs: [V / 2, D], pairs along V.
        label: [N], the word whose share is left out.
        exponentials: room for E^T [V, C / 2], pairs along C.
    """
    blocks = (vocabulary + BLOCK - 1) // BLOCK
    wide = lanes(x)
    half, pairs = width // 2, TOKENS // 2
    columns = TILE_COLUMNS * wide
    transposed = np.empty(half * TOKENS, weight.dtype)
    for first in range(0, tokens, TOKENS):
        for c in range(TOKENS):
            for d in range(half):
                transposed[d * TOKENS + c] = x_pairs[(first + c) * half + d]
        for block in prange(blocks):
            low = block * BLOCK
            words = min(BLOCK, vocabulary - low)
            logits = scratch(x, words * TOKENS)
            joined = scratch(x, words * pairs).view(np.int32)
            for v in range(0, words, TILE_ROWS):
                tile_from(
                    logits,
                    v * TOKENS,
                    TOKENS,
                    bias,
                    low + v,
                    weight,
                    (low + v) * half,
                    half,
                    1,
                    transposed,
                    0,
                    TOKENS,
                    half,
                )
            for c in range(0, TOKENS, wide):
                m = _largest(logits, c, words)
                s, odd = zeros(x), zeros(x)
                for v in range(0, words, 2):
                    i = v * TOKENS + c
                    e, f = exponential(load(logits, i, TOKENS) - m), exponential(load(logits, i + TOKENS, TOKENS) - m)
                    s, odd = s + e, odd + f
                    if with_gradients:
                        at = (low + v) * pairs + c // 2
                        store_halves(exponentials, at, e)
                        store_halves(exponentials, at + pairs, f)
                        store_joined(joined, v // 2 * TOKENS + c, e, f)
                store(block_largest, block * TOKENS + c, TOKENS, m)
                store(block_total, block * TOKENS + c, TOKENS, s + odd)
            if with_gradients:
                for c in range(TOKENS):
                    v = label[first + c] - low
                    if v >= 0 and v < words:
                        _clear_half(exponentials, (low + v) * pairs + c // 2, c % 2)
                        _clear_half(joined, v // 2 * TOKENS + c, v % 2)
                for d in range(0, width, TILE_ROWS):
                    at = (block * width + d) * TOKENS
                    start = low // 2 * width + d
                    tile_zero(
                        partial, at, TOKENS, bias, 0, weight_pairs, start, 1, width, joined, 0, TOKENS, words // 2
                    )
        _combine(largest, total, scale, extra, block_largest, block_total, factor, first, blocks)
        if with_gradients:
            for task in prange(blocks + width // TILE_ROWS):
                if task >= blocks:
                    _gather_input_gradient(
                        partial, factor, grad_input, (task - blocks) * TILE_ROWS, first, width, blocks
                    )
                else:
                    low = task * BLOCK
                    high = min(vocabulary, low + BLOCK)
                    scaled = scratch(x, pairs * width).view(np.int32)
                    for c in range(0, TOKENS, 2):
                        f, g = spread(factor, task * TOKENS + c), spread(factor, task * TOKENS + c + 1)
                        for d in range(0, width, wide):
                            i = (first + c) * width + d
                            even, odd = load(x, i, width) * f, load(x, i + width, width) * g
                            store_joined(scaled, c // 2 * width + d, even, odd)
                    full = width // columns * columns
                    for d in range(0, full, columns):
                        for v in range(low, high, TILE_ROWS):
                            at = v * width + d
                            tile_onto(
                                grad_weight,
                                at,
                                width,
                                bias,
                                0,
                                exponentials,
                                v * pairs,
                                pairs,
                                1,
                                scaled,
                                d,
                                width,
                                pairs,
                            )
                    for d in range(full, width, wide):
                        for v in range(low, high, TILE_ROWS):
                            at = v * width + d
                            tile_onto_narrow(
                                grad_weight,
                                at,
                                width,
                                bias,
                                0,
                                exponentials,
                                v * pairs,
                                pairs,
                                1,
                                scaled,
                                d,
                                width,
                                pairs,
                            )
                    if with_bias:
                        for v in range(low, high):
                            s = zeros(x)
                            for c in range(0, TOKENS, wide):
                                e = load_halves(exponentials, v * pairs + c // 2, s)
                                s = s + e * load(factor, task * TOKENS + c, TOKENS)
                            grad_bias[v] += sum_lanes(s)
