"""The fused head on AVX512-BF16: `cpu.py` with operands in bfloat16.

Shape legend: N tokens, D width, V vocabulary, C = TOKENS in a chunk, K blocks of BLOCK words. Arrays are flat.
"""

import numpy as np

from resnet_bk.ops.kernels import Floats, Integers, kernel
from resnet_bk.ops.linear_cross_entropy.pairs import (
    add_bias_gradient,
    leave_out_labels,
    scaled_input,
    store_exponentials,
)
from resnet_bk.ops.linear_cross_entropy.sizes import BLOCK, TOKENS
from resnet_bk.ops.linear_cross_entropy.steps import gather_input_gradient
from resnet_bk.ops.simd import lanes, scratch, tile_from, tile_onto, tile_onto_narrow, tile_zero
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS

PAIRS = TOKENS // 2


@kernel
def first_walk(
    begin: int,
    end: int,
    transposed: Integers,
    weight: Integers,
    weight_pairs: Integers,
    label: Integers,
    bias: Floats,
    exponentials: Integers,
    block_largest: Floats,
    block_total: Floats,
    partial: Floats,
    width: int,
    vocabulary: int,
    with_gradients: bool,
) -> None:
    """`cpu.first_walk` with operands in bfloat16, and without the label's share of the gradients.

    Args:
        transposed: [D / 2, C], x of the chunk, rounded, pairs along D.
        weight: [V, D / 2], pairs along D.
        weight_pairs: [V / 2, D], pairs along V.
        label: [C], the words whose share is left out.
        exponentials: E^T [V, C / 2], pairs along C.
    """
    half = width // 2
    for block in range(begin, end):
        low = block * BLOCK
        words = min(BLOCK, vocabulary - low)
        logits = scratch(bias, words * TOKENS)
        joined = scratch(bias, words * PAIRS).view(np.int32)
        for v in range(0, words, TILE_ROWS):
            at, row = v * TOKENS, (low + v) * half
            tile_from(logits, at, TOKENS, bias, low + v, weight, row, half, 1, transposed, 0, TOKENS, half)
        store_exponentials(
            logits, exponentials, joined, block_largest, block_total, block, words, TOKENS, with_gradients
        )
        if with_gradients:
            leave_out_labels(label, exponentials, joined, block, words, TOKENS)
            for d in range(0, width, TILE_ROWS):
                at, start = (block * width + d) * TOKENS, low // 2 * width + d
                tile_zero(partial, at, TOKENS, bias, 0, weight_pairs, start, 1, width, joined, 0, TOKENS, words // 2)


@kernel
def second_walk(
    begin: int,
    end: int,
    first: int,
    x: Floats,
    factor: Floats,
    partial: Floats,
    exponentials: Integers,
    grad_input: Floats,
    grad_weight: Floats,
    grad_bias: Floats,
    width: int,
    vocabulary: int,
    with_parameters: bool,
    with_bias: bool,
) -> None:
    """`cpu.second_walk` with operands in bfloat16."""
    columns = TILE_COLUMNS * lanes(x)
    blocks = (vocabulary + BLOCK - 1) // BLOCK
    for block in range(begin, end):
        gather_input_gradient(partial, factor, grad_input, block, first, width, blocks, TOKENS)
        if with_parameters:
            low = block * BLOCK
            high = min(vocabulary, low + BLOCK)
            scaled = scratch(x, PAIRS * width).view(np.int32)
            scaled_input(x, factor, scaled, first, block, width, TOKENS)
            full = width // columns * columns
            for d in range(0, full, columns):
                for v in range(low, high, TILE_ROWS):
                    at, row = v * width + d, v * PAIRS
                    tile_onto(grad_weight, at, width, factor, 0, exponentials, row, PAIRS, 1, scaled, d, width, PAIRS)
            for d in range(full, width, lanes(x)):
                for v in range(low, high, TILE_ROWS):
                    at, row = v * width + d, v * PAIRS
                    tile_onto_narrow(
                        grad_weight, at, width, factor, 0, exponentials, row, PAIRS, 1, scaled, d, width, PAIRS
                    )
            if with_bias:
                add_bias_gradient(exponentials, factor, grad_bias, block, low, high, TOKENS)
