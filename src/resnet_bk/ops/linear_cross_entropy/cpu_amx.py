"""The fused head on AMX, the matrix unit of Intel's servers: `cpu_bfloat16.py` in squares of 32 x 32.

Shape legend: N tokens, D width, V vocabulary, C tokens in a chunk, K blocks of BLOCK words. Arrays are flat.

A square takes its left operand as rows of pairs along the summed index, its right one as rows of pairs over columns. E
has both forms, as pairs of tokens and as pairs of words; W has the first, and here its transpose too, for d x.
"""

import numpy as np

from resnet_bk.ops.kernels import Floats, Integers, kernel
from resnet_bk.ops.linear_cross_entropy.pairs import (
    add_bias_gradient,
    leave_out_labels,
    scaled_input,
    store_exponentials,
)
from resnet_bk.ops.linear_cross_entropy.sizes import BLOCK
from resnet_bk.ops.linear_cross_entropy.steps import ALL_LANES, gather_input_gradient
from resnet_bk.ops.simd import (
    lanes,
    scratch,
    spread,
    squares_close,
    squares_onto,
    squares_open,
    squares_zero,
    store,
)
from resnet_bk.ops.sizes import SQUARE


@kernel
def first_walk(
    begin: int,
    end: int,
    transposed: Integers,
    weight: Integers,
    weight_columns: Integers,
    label: Integers,
    bias: Floats,
    exponentials: Integers,
    block_largest: Floats,
    block_total: Floats,
    partial: Floats,
    chunk: int,
    width: int,
    vocabulary: int,
    with_gradients: bool,
) -> None:
    """`cpu_bfloat16.first_walk`, D and V multiples of SQUARE.

    Args:
        weight_columns: [K, D, BLOCK / 2], the transpose of each block of words, pairs along V.
        chunk: C, a multiple of SQUARE; N is a multiple of it.
    """
    half, pairs = width // 2, chunk // 2
    for block in range(begin, end):
        low = block * BLOCK
        words = min(BLOCK, vocabulary - low)
        logits = scratch(bias, words * chunk)
        joined = scratch(bias, words * pairs).view(np.int32)
        squares_open()
        for v in range(0, words, SQUARE):
            for r in range(v, v + SQUARE):
                b = spread(bias, low + r)
                for c in range(0, chunk, lanes(bias)):
                    store(logits, r * chunk + c, ALL_LANES, b)
            for c in range(0, chunk, SQUARE):
                at, row = v * chunk + c, (low + v) * half
                squares_onto(logits, at, chunk, weight, row, half, transposed, c, chunk, half)
        store_exponentials(
            logits, exponentials, joined, block_largest, block_total, block, words, chunk, with_gradients
        )
        if with_gradients:
            leave_out_labels(label, exponentials, joined, block, words, chunk)
            for d in range(0, width, SQUARE):
                row = (block * width + d) * (BLOCK // 2)
                for c in range(0, chunk, SQUARE):
                    at = (block * width + d) * chunk + c
                    squares_zero(partial, at, chunk, weight_columns, row, BLOCK // 2, joined, c, chunk, words // 2)
        squares_close()


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
    chunk: int,
    width: int,
    vocabulary: int,
    with_parameters: bool,
    with_bias: bool,
) -> None:
    """`cpu_bfloat16.second_walk`, D and V multiples of SQUARE."""
    pairs = chunk // 2
    blocks = (vocabulary + BLOCK - 1) // BLOCK
    for block in range(begin, end):
        gather_input_gradient(partial, factor, grad_input, block, first, width, blocks, chunk)
        if with_parameters:
            low = block * BLOCK
            high = min(vocabulary, low + BLOCK)
            scaled = scratch(x, pairs * width).view(np.int32)
            scaled_input(x, factor, scaled, first, block, width, chunk)
            squares_open()
            for v in range(low, high, SQUARE):
                for d in range(0, width, SQUARE):
                    at = v * width + d
                    squares_onto(grad_weight, at, width, exponentials, v * pairs, pairs, scaled, d, width, pairs)
            squares_close()
            if with_bias:
                add_bias_gradient(exponentials, factor, grad_bias, block, low, high, chunk)
