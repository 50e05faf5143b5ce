"""CPU kernels of a root-mean-square norm with an affine gate, and their adjoint.

Shape legend: N tokens, H heads, V value size. Arrays are flat: y [N, H, V], weight [V], gate [N, H, V] or empty, output
[N, H, V]; gate and output may be bfloat16, as int16.

    o = n (1 + g),    n = r w y,    r = (y . y / V + eps)^(-1/2)

and o = n without a gate; products of vectors are entry by entry. From dr = -r^3 (y . dy) / V, with cotangents,

    nbar = obar (1 + g)        gbar = obar n        wbar = nbar r y, summed
    ybar = r (w nbar - y r^2 (y . w nbar) / V)
"""

from math import sqrt

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Array, Floats, kernel
from resnet_bk.ops.simd import lanes, load, load_as, multiply_add, scratch, spread, store, store_as, sum_lanes, zeros
from resnet_bk.ops.sizes import TASK_TOKENS as TOKENS


@register_jitable
def _passing(gate: Array, place: int, count: int, ones: Floats) -> Floats:
    """1 + g"""
    return load(ones, 0, ones.size) + load_as(gate, place, count, ones) if gate.size > 0 else load(ones, 0, ones.size)


@kernel
def forward(
    begin: int,
    end: int,
    y: Floats,
    weight: Floats,
    gate: Array,
    output: Array,
    tokens: int,
    heads: int,
    values: int,
    eps: float,
) -> None:
    width = lanes(y)
    for task in range(begin, end):
        factor, ones = scratch(y, 1), scratch(y, width)
        ones.fill(1)
        for row in range(task * TOKENS * heads, min((task + 1) * TOKENS, tokens) * heads):
            start, total = row * values, zeros(y)
            for i in range(0, values, width):
                part = load(y, start + i, values - i)
                total = total + part * part
            factor[0] = 1 / sqrt(sum_lanes(total) / values + eps)
            r = spread(factor, 0)
            for i in range(0, values, width):
                count = values - i
                normed = r * load(y, start + i, count) * load(weight, i, count)
                store_as(output, start + i, count, normed * _passing(gate, start + i, count, ones))


@kernel
def backward(
    begin: int,
    end: int,
    output_bar: Array,
    y: Floats,
    weight: Floats,
    gate: Array,
    y_bar: Floats,
    weight_bar: Floats,
    gate_bar: Array,
    tokens: int,
    heads: int,
    values: int,
    eps: float,
) -> None:
    """weight_bar [tasks, V] has the sums of a task's tokens."""
    width = lanes(y)
    padded = (values + width - 1) // width * width
    for task in range(begin, end):
        factor, ones, sums = scratch(y, 2), scratch(y, width), scratch(y, padded)
        ones.fill(1)
        sums.fill(0)
        for row in range(task * TOKENS * heads, min((task + 1) * TOKENS, tokens) * heads):
            start, squares, along = row * values, zeros(y), zeros(y)
            for i in range(0, values, width):
                place, count = start + i, values - i
                part, bar = load(y, place, count), load_as(output_bar, place, count, y)
                squares = squares + part * part
                along = along + part * load(weight, i, count) * bar * _passing(gate, place, count, ones)
            r = 1 / sqrt(sum_lanes(squares) / values + eps)
            factor[0], factor[1] = r, -r * r * sum_lanes(along) / values
            by_r, by_y = spread(factor, 0), spread(factor, 1)
            for i in range(0, values, width):
                place, count = start + i, values - i
                part, bar = load(y, place, count), load_as(output_bar, place, count, y)
                unit, n_bar = by_r * part, bar * _passing(gate, place, count, ones)
                w = load(weight, i, count)
                # Says which product is fused with the sum: the compiler's choice may change with its version.
                store(y_bar, place, count, by_r * multiply_add(by_y, part, w * n_bar))
                store(sums, i, width, load(sums, i, width) + n_bar * unit)
                if gate.size > 0:
                    store_as(gate_bar, place, count, bar * (unit * w))
        for i in range(values):
            weight_bar[task * values + i] = sums[i]
