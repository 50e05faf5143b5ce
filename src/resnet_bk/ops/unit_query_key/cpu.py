"""CPU kernels of queries and keys of unit length, and their adjoint.

Shape legend: N tokens, S = `stride` numbers from one token to the next, H heads, K key size. Arrays are flat: x [N, S],
of which the first 2 H K of a row are read, bfloat16 as int16; bias [2, H, K] or empty; query and key [N, H, K].

With c the bias of a head and eps of `sizes.py`, both lengths follow from scalar products of x and c:

    u = r x,    r = (x . x + eps)^(-1/2)
    y = s w,    w = u + c,    s = (w . w + eps)^(-1/2),    w . w = r^2 x . x + 2 r x . c + c . c

and y = u without a bias. From dr = -r^3 (x . dx) one has du = r (dx - u (u . dx)), a symmetric map, and so

    cbar = wbar = s (ybar - a w),    a = s^2 (w . ybar),    w . ybar = r x . ybar + c . ybar
    xbar = r (wbar - u (u . wbar)),    u . wbar = r s (x . ybar - a (r x . x + x . c))

The scalar products are summed in float64: where u and c nearly cancel, w . w is a small difference. No two products of
vectors are added to each other: which of them is fused with the sum would be the compiler's choice, which may change
with its version.
"""

from math import sqrt

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Array, Floats, kernel
from resnet_bk.ops.simd import lanes, load, load_as, scratch, spread, store, store_as, sum_lanes, wide, zeros
from resnet_bk.ops.sizes import TASK_TOKENS as TOKENS
from resnet_bk.ops.unit_query_key.sizes import EPSILON


@register_jitable
def _bias(bias: Floats, start: int, count: int) -> Floats:
    return load(bias, start, count) if bias.size > 0 else zeros(bias)


@register_jitable
def _dot(total: Floats, like: Floats, a: Floats, b: Floats) -> Floats:
    a_low, a_high = wide.halves(like, a)
    b_low, b_high = wide.halves(like, b)
    return total + a_low * b_low + a_high * b_high


@kernel
def forward(
    begin: int,
    end: int,
    x: Array,
    bias: Floats,
    query: Floats,
    key: Floats,
    tokens: int,
    stride: int,
    heads: int,
    keys: int,
) -> None:
    width = lanes(query)
    for task in range(begin, end):
        factors = scratch(query, 2)
        for t in range(task * TOKENS, min((task + 1) * TOKENS, tokens)):
            for part in range(2 * heads):
                row, own = t * stride + part * keys, part * keys
                xx, xc, cc = wide.zeros(), wide.zeros(), wide.zeros()
                for i in range(0, keys, width):
                    of_x, c = load_as(x, row + i, keys - i, query), _bias(bias, own + i, keys - i)
                    xx, xc, cc = _dot(xx, query, of_x, of_x), _dot(xc, query, of_x, c), _dot(cc, query, c, c)
                r, s = 1 / sqrt(sum_lanes(xx) + EPSILON), 1.0
                if bias.size > 0:
                    s = 1 / sqrt(r * (r * sum_lanes(xx) + 2 * sum_lanes(xc)) + sum_lanes(cc) + EPSILON)
                factors[0], factors[1] = r, s
                out, place = (query if part < heads else key), (t * heads + part % heads) * keys
                by_r, by_s = spread(factors, 0), spread(factors, 1)
                for i in range(0, keys, width):
                    of_x, c = load_as(x, row + i, keys - i, query), _bias(bias, own + i, keys - i)
                    store(out, place + i, keys - i, by_s * (by_r * of_x + c))


@kernel
def backward(
    begin: int,
    end: int,
    query_bar: Floats,
    key_bar: Floats,
    x: Array,
    bias: Floats,
    x_bar: Array,
    bias_bar: Floats,
    tokens: int,
    stride: int,
    heads: int,
    keys: int,
) -> None:
    """x_bar is [N, 2 H K] in the precision of x; bias_bar [tasks, 2, H, K] has the sums of a task's tokens."""
    width = lanes(query_bar)
    padded = (keys + width - 1) // width * width
    for task in range(begin, end):
        factors, total = scratch(query_bar, 4), scratch(query_bar, 2 * heads * padded)
        total.fill(0)
        for t in range(task * TOKENS, min((task + 1) * TOKENS, tokens)):
            for part in range(2 * heads):
                row, own = t * stride + part * keys, part * keys
                bar, place = (query_bar if part < heads else key_bar), (t * heads + part % heads) * keys
                xx, xc, cc, x_bars, c_bars = wide.zeros(), wide.zeros(), wide.zeros(), wide.zeros(), wide.zeros()
                for i in range(0, keys, width):
                    of_x, c = load_as(x, row + i, keys - i, query_bar), _bias(bias, own + i, keys - i)
                    y_bar = load(bar, place + i, keys - i)
                    xx, xc, cc = (
                        _dot(xx, query_bar, of_x, of_x),
                        _dot(xc, query_bar, of_x, c),
                        _dot(cc, query_bar, c, c),
                    )
                    x_bars, c_bars = _dot(x_bars, query_bar, of_x, y_bar), _dot(c_bars, query_bar, c, y_bar)
                of_xx, of_xc, of_x_bar = sum_lanes(xx), sum_lanes(xc), sum_lanes(x_bars)
                r, s, a = 1 / sqrt(of_xx + EPSILON), 1.0, 0.0
                if bias.size > 0:
                    s = 1 / sqrt(r * (r * of_xx + 2 * of_xc) + sum_lanes(cc) + EPSILON)
                    a = s * s * float(r * of_x_bar + sum_lanes(c_bars))
                along = r * s * (of_x_bar - a * (r * of_xx + of_xc))  # u . wbar
                factors[0], factors[1], factors[2], factors[3] = r, s, -a, -r * along
                by_r, by_s, by_w, by_x = spread(factors, 0), spread(factors, 1), spread(factors, 2), spread(factors, 3)
                for i in range(0, keys, width):
                    of_x, c = load_as(x, row + i, keys - i, query_bar), _bias(bias, own + i, keys - i)
                    w_bar = by_s * (load(bar, place + i, keys - i) + by_w * (by_r * of_x + c))
                    sums = part * padded + i
                    store(total, sums, width, load(total, sums, width) + w_bar)
                    of_x_out = (t * 2 * heads + part) * keys + i
                    store_as(x_bar, of_x_out, keys - i, by_r * (w_bar + by_x * of_x))
        if bias.size > 0:
            for part in range(2 * heads):
                for i in range(keys):
                    bias_bar[(task * 2 * heads + part) * keys + i] = total[part * padded + i]
