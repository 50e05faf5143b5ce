"""What the sweeps of the fused head with operands in bfloat16 have in common.

Shape legend: C tokens in a chunk, D width, V vocabulary, K blocks of BLOCK words. Arrays are flat; the symbols are
those of `cpu.py`.

The processor multiplies pairs of neighbours along the summed index and adds both to a float32 sum. An array of such
pairs is an int32 array; E is rounded to bfloat16 as it is stored, once in pairs of words (for d x) and once in pairs of
tokens (for d W). The label's share of the gradients is left out (`sweep.py`).
"""

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, Integers
from resnet_bk.ops.linear_cross_entropy.sizes import BLOCK
from resnet_bk.ops.linear_cross_entropy.steps import ALL_LANES, largest_of_rows
from resnet_bk.ops.simd import (
    exponential,
    lanes,
    load,
    load_halves,
    spread,
    store,
    store_halves,
    store_joined,
    sum_lanes,
    zeros,
)


@register_jitable
def store_exponentials(
    logits: Floats,
    exponentials: Integers,
    joined: Integers,
    block_largest: Floats,
    block_total: Floats,
    block: int,
    words: int,
    chunk: int,
    with_gradients: bool,
) -> None:
    """m_k and s_k of a block out of its logits [BLOCK, C]; with gradients E^T rounded, into its rows of `exponentials`
    [V, C / 2] as pairs of tokens, into `joined` [BLOCK / 2, C] as pairs of words."""
    for c in range(0, chunk, lanes(logits)):
        m = largest_of_rows(logits, c, words, chunk)
        s, odd = zeros(logits), zeros(logits)
        for v in range(0, words, 2):
            i = v * chunk + c
            e, f = exponential(load(logits, i, ALL_LANES) - m), exponential(load(logits, i + chunk, ALL_LANES) - m)
            s, odd = s + e, odd + f
            if with_gradients:
                at = (block * BLOCK + v) * (chunk // 2) + c // 2
                store_halves(exponentials, at, e)
                store_halves(exponentials, at + chunk // 2, f)
                store_joined(joined, v // 2 * chunk + c, e, f)
        store(block_largest, block * chunk + c, ALL_LANES, m)
        store(block_total, block * chunk + c, ALL_LANES, s + odd)


@register_jitable
def leave_out_labels(
    label: Integers, exponentials: Integers, joined: Integers, block: int, words: int, chunk: int
) -> None:
    """Zero for the labels of the chunk in what `store_exponentials` wrote."""
    for c in range(chunk):
        v = label[c] - block * BLOCK
        if v >= 0 and v < words:
            _clear_half(exponentials, (block * BLOCK + v) * (chunk // 2) + c // 2, c % 2)
            _clear_half(joined, v // 2 * chunk + c, v % 2)


@register_jitable
def _clear_half(array: Integers, i: int, high: int) -> None:
    """Zero in the low or high half of a pair of bfloat16."""
    array[i] &= 0x0000FFFF if high else ~0x0000FFFF


@register_jitable
def scaled_input(x: Floats, factor: Floats, scaled: Integers, first: int, block: int, width: int, chunk: int) -> None:
    """f_k x of the chunk, rounded, into `scaled` [C / 2, D] as pairs of tokens."""
    for c in range(0, chunk, 2):
        f, g = spread(factor, block * chunk + c), spread(factor, block * chunk + c + 1)
        for d in range(0, width, lanes(x)):
            i = (first + c) * width + d
            store_joined(scaled, c // 2 * width + d, load(x, i, width) * f, load(x, i + width, width) * g)


@register_jitable
def add_bias_gradient(
    exponentials: Integers, factor: Floats, grad_bias: Floats, block: int, low: int, high: int, chunk: int
) -> None:
    """Adds d b_k = E_k^T f_k to words `low` to `high`."""
    for v in range(low, high):
        s = zeros(factor)
        for c in range(0, chunk, lanes(factor)):
            e = load_halves(exponentials, v * (chunk // 2) + c // 2, s)
            s = s + e * load(factor, block * chunk + c, ALL_LANES)
        grad_bias[v] += sum_lanes(s)
