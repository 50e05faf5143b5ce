"""The fused head in float32, on AVX-512 or AVX2: logits, softmax and all gradients in one pass over tokens.

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
depend on the number of threads. Between the two walks E is kept, V x C numbers, 7.7 MB in float32 for 30,000 words, and
(dx)_k, K x D x C, in a shared last-level cache.

The same with operands in bfloat16: `cpu_bfloat16.py`, and `cpu_amx.py` where the processor multiplies matrices.
"""

import math

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.linear_cross_entropy.sizes import BLOCK, TOKENS
from resnet_bk.ops.linear_cross_entropy.steps import ALL_LANES, LOWEST, gather_input_gradient, largest_of_rows
from resnet_bk.ops.simd import (
    exponential,
    lanes,
    load,
    maximum,
    scratch,
    spread,
    store,
    sum_lanes,
    tile_from,
    tile_from_narrow,
    zeros,
)
from resnet_bk.ops.simd.products import WIDEST, multiply
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS

HIGHEST = 80.0  # logarithm of the odds against a word, whose exponential float32 holds

# As wide as `multiply` makes its tiles.
logits_tile = tile_from if WIDEST == TILE_COLUMNS else tile_from_narrow


@register_jitable
def _scaled_input(x: Floats, factor: Floats, scaled: Floats, first: int, block: int, width: int) -> None:
    """f_k x of the chunk into `scaled` [C, D]."""
    for c in range(TOKENS):
        f = spread(factor, block * TOKENS + c)
        for d in range(0, width, lanes(x)):
            store(scaled, c * width + d, width, load(x, (first + c) * width + d, width) * f)


@kernel
def first_walk(
    begin: int,
    end: int,
    transposed: Floats,
    weight: Floats,
    bias: Floats,
    exponentials: Floats,
    block_largest: Floats,
    block_total: Floats,
    partial: Floats,
    width: int,
    vocabulary: int,
    with_gradients: bool,
) -> None:
    """E, m_k, s_k and, with gradients, (dx)_k of a chunk; a task is a block of words.

    Args:
        transposed: [D, C], x of the chunk, D a multiple of a vector.
        weight: [V, D], V a multiple of TILE_ROWS.
        bias: [V]; zeros where there is none.
        exponentials: E^T [V, C]; block_largest, block_total: [K, C]; partial: (dx)_k^T, [K, D, C].
    """
    wide = lanes(bias)
    for block in range(begin, end):
        low = block * BLOCK
        words = min(BLOCK, vocabulary - low)
        for v in range(low, low + words, TILE_ROWS):
            for c in range(0, TOKENS, WIDEST * wide):
                at, row = v * TOKENS + c, v * width
                logits_tile(exponentials, at, TOKENS, bias, v, weight, row, width, 1, transposed, c, TOKENS, width)
        for c in range(0, TOKENS, wide):
            m = largest_of_rows(exponentials, low * TOKENS + c, words, TOKENS)
            s, odd = zeros(bias), zeros(bias)
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
            at, row, start = block * width * TOKENS, low * width, low * TOKENS
            multiply(
                partial, at, TOKENS, weight, row, 1, width, exponentials, start, TOKENS, width, TOKENS, words, False
            )


@kernel
def combine(
    begin: int,
    end: int,
    first: int,
    largest: Floats,
    total: Floats,
    scale: Floats,
    extra: Floats,
    block_largest: Floats,
    block_total: Floats,
    factor: Floats,
    blocks: int,
    chunk: int,
) -> None:
    """Between the walks, in any precision: m and s of the chunk's tokens into `largest` and `total` [N] from `first`
    on, f_k into `factor` [K, C]; `scale` [N], the cotangent of a token's loss, becomes the softmax's share of it.

    A task is a vector of tokens. `extra` [N] is `log_extra` less the logit of the target; LOWEST where there is none.
    """
    for task in range(begin, end):
        c = task * lanes(scale)
        m = load(block_largest, c, ALL_LANES)
        for k in range(1, blocks):
            m = maximum(load(block_largest, k * chunk + c, ALL_LANES), m)
        s = zeros(scale)
        for k in range(blocks):
            i = k * chunk + c
            f = exponential(load(block_largest, i, ALL_LANES) - m)
            s = s + load(block_total, i, ALL_LANES) * f
            store(factor, i, ALL_LANES, f)
        store(largest, first + c, ALL_LANES, m)
        store(total, first + c, ALL_LANES, s)
        for i in range(first + c, first + c + lanes(scale)):
            if extra[i] > LOWEST:
                scale[i] /= 1.0 + math.exp(min(extra[i] + math.log(total[i]) + largest[i], HIGHEST))
        share = load(scale, first + c, ALL_LANES) / s
        for k in range(blocks):
            i = k * chunk + c
            store(factor, i, ALL_LANES, load(factor, i, ALL_LANES) * share)


@kernel
def second_walk(
    begin: int,
    end: int,
    first: int,
    x: Floats,
    factor: Floats,
    partial: Floats,
    exponentials: Floats,
    grad_input: Floats,
    grad_weight: Floats,
    grad_bias: Floats,
    width: int,
    vocabulary: int,
    with_parameters: bool,
    with_bias: bool,
) -> None:
    """The gradients of the chunk of tokens from `first` on; a task is a block of words and a share of dx's columns.

    Args:
        x: [N, D].
        factor: f_k, [K, C]; partial, exponentials: as the first walk left them.
        grad_input: [N, D], written; grad_weight: [V, D], grad_bias: [V], added to.
    """
    wide = lanes(x)
    blocks = (vocabulary + BLOCK - 1) // BLOCK
    for block in range(begin, end):
        gather_input_gradient(partial, factor, grad_input, block, first, width, blocks, TOKENS)
        if with_parameters:
            low = block * BLOCK
            words = min(BLOCK, vocabulary - low)
            scaled = scratch(x, TOKENS * width)
            _scaled_input(x, factor, scaled, first, block, width)
            at, start = low * width, low * TOKENS
            multiply(
                grad_weight, at, width, exponentials, start, TOKENS, 1, scaled, 0, width, words, width, TOKENS, True
            )
            if with_bias:
                for v in range(low, low + words):
                    s = zeros(x)
                    for c in range(0, TOKENS, wide):
                        i = block * TOKENS + c
                        s = s + load(exponentials, v * TOKENS + c, TOKENS) * load(factor, i, TOKENS)
                    grad_bias[v] += sum_lanes(s)
