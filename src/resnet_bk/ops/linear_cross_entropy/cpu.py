"""The fused head on AVX-512 in float32: logits, softmax and all gradients in one pass over tokens.

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
    tile_onto,
    tile_onto_narrow,
    tile_zero,
    zeros,
)
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS


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
        combine(largest, total, scale, extra, block_largest, block_total, factor, first, blocks, TOKENS)
        if with_gradients:
            # Weights that need no gradient have no tasks.
            for task in prange(0 if with_parameters else blocks, blocks + width // TILE_ROWS):
                if task >= blocks:
                    gather_input_gradient(
                        partial, factor, grad_input, (task - blocks) * TILE_ROWS, first, width, blocks, TOKENS
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
