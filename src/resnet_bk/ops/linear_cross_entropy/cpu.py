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
depend on the number of threads. E is the only thing kept between the two walks: V x C numbers, 7.7 MB in float32 for
30,000 words, in a shared last-level cache.

The same with operands in bfloat16: `cpu_bfloat16.py`, and `cpu_amx.py` where the processor multiplies matrices.
"""

from numba import prange
from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.linear_cross_entropy.sizes import BLOCK, TOKENS
from resnet_bk.ops.linear_cross_entropy.steps import combine, gather_input_gradient, largest_of_rows
from resnet_bk.ops.simd import (
    exponential,
    lanes,
    load,
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
    with_parameters: bool,
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
    transposed = scratch(x, width * TOKENS)
    for first in range(0, tokens, TOKENS):
        for c in range(TOKENS):
            for d in range(width):
                transposed[d * TOKENS + c] = x[(first + c) * width + d]
        for block in prange(blocks):
            low = block * BLOCK
            words = min(BLOCK, vocabulary - low)
            for v in range(low, low + words, TILE_ROWS):
                for c in range(0, TOKENS, WIDEST * wide):
                    logits_tile(
                        exponentials,
                        v * TOKENS + c,
                        TOKENS,
                        bias,
                        v,
                        weight,
                        v * width,
                        width,
                        1,
                        transposed,
                        c,
                        TOKENS,
                        width,
                    )
            for c in range(0, TOKENS, wide):
                m = largest_of_rows(exponentials, low * TOKENS + c, words, TOKENS)
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
                at, start = block * width * TOKENS, low * TOKENS
                multiply(
                    partial,
                    at,
                    TOKENS,
                    weight,
                    low * width,
                    1,
                    width,
                    exponentials,
                    start,
                    TOKENS,
                    width,
                    TOKENS,
                    words,
                    False,
                )
        combine(largest, total, scale, extra, block_largest, block_total, factor, first, blocks, TOKENS)
        if with_gradients:
            # Shared out as before: what a thread left in its cache is of its own blocks.
            for block in prange(blocks):
                gather_input_gradient(partial, factor, grad_input, block, first, width, blocks, TOKENS)
                if with_parameters:
                    low = block * BLOCK
                    high = min(vocabulary, low + BLOCK)
                    scaled = scratch(x, TOKENS * width)
                    _scaled_input(x, factor, scaled, first, block, width)
                    at, start = low * width, low * TOKENS
                    multiply(
                        grad_weight,
                        at,
                        width,
                        exponentials,
                        start,
                        TOKENS,
                        1,
                        scaled,
                        0,
                        width,
                        high - low,
                        width,
                        TOKENS,
                        True,
                    )
                    if with_bias:
                        for v in range(low, high):
                            s = zeros(x)
                            for c in range(0, TOKENS, wide):
                                i = block * TOKENS + c
                                s = s + load(exponentials, v * TOKENS + c, TOKENS) * load(factor, i, TOKENS)
                            grad_bias[v] += sum_lanes(s)
