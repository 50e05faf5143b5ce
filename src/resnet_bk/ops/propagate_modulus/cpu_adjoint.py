"""The adjoint of `cpu.forward` where nothing is erased, in products of matrices, chunk by chunk.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks of C = CHUNK sites, W numbers in a vector.
Arrays are flat, with the shapes of `cpu.py`; inside, rows of a matrix are whole vectors, zeros behind: K' numbers for K
and V' for V.

Going back from site to site, as `cpu.backward_erasing` does, touches all of S and Sbar each time. Here a chunk that S
enters, and behind which the cotangent of the state is Sbar, is done at once. With

    P_tj = decay_t ... decay_{j+1}  for j <= t, 0 beyond      p_t = decay_t ... decay_first      u_j = gain_j v_j

the chunk is y_t = sum_j P_tj (q_t . k_j) u_j + p_t S^T q_t and S' = p_last S + sum_j P_last,j k_j u_j^T. In matrices of
the chunk, * entry by entry, with A = Q K^T, D = Ybar U^T, and w_j = P_last,j,

    Y = (A * P) U + (p Q) S                       S' = p_last S + (w K)^T U
    Qbar = (D * P) K + p (Ybar S^T)               Kbar = (D * P)^T Q + w (U Sbar^T)
    Ubar = (A * P)^T Ybar + (w K) Sbar            vbar = gain ubar,  gainbar = v . ubar
    S receives p_last Sbar + (p Q)^T Ybar

The triangle above the diagonal, where P is 0, is left out of the products, up to whole tiles. Every decay is a factor
of entries of P, of p, w and p_last. These are one matrix with a column `in` before the others, for S, and a row `out`
behind them, for S', as if decay_out were 1: P_t,in = p_t, P_out,j = w_j, P_out,in = p_last. With

    Z_tj = A_tj D_tj     Z_t,in = q_t . (Ybar S^T)_t     Z_out,j = k_j . (U Sbar^T)_j     Z_out,in = sum(S * Sbar)

decaybar is the derivative of sum(Z * P), which needs no division by a decay (a chain is cut where it is 0):

    F_tj = sum_{i >= t} P_it Z_ij = Z_tj + decay_{t+1} F_{t+1,j}      decaybar_t = sum_{j < t, in too} F_tj P_{t-1,j}

P and p are computed, and F and decaybar summed, in float64, for most of decaybar may cancel in the gradient of a
hopping; entries of P are rounded once. What passes on no more than 2^-100 is taken to pass on nothing: subnormal
numbers are slow. From chunk to chunk p_last is rounded so that its products do not drift (`propagate/rounding.py`).
"""

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.propagate.rounding import exact, share, within
from resnet_bk.ops.simd import lanes, load, maximum, scratch, spread, store, sum_lanes, transpose, wide
from resnet_bk.ops.simd.products import multiply
from resnet_bk.ops.sizes import PROPAGATE_CHUNK as CHUNK
from resnet_bk.ops.sizes import TILE_ROWS

NOTHING = 2.0**-100


@register_jitable
def _zeros(like: Floats, size: int) -> Floats:
    array = scratch(like, size)
    array.fill(0)
    return array


@register_jitable
def _gather(source: Floats, start: int, stride: int, count: int, length: int, to: Floats, columns: int) -> None:
    """`length` rows of `count` numbers, `stride` apart, as a matrix; zeros in the columns behind, and in the rows to
    the end of a tile."""
    width = lanes(to)
    for t in range((length + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS):
        for i in range(0, columns, width):
            n = count - i if t < length else 0
            store(to, t * columns + i, width, load(source, start + t * stride + i, n))


@register_jitable
def _scatter(matrix: Floats, columns: int, length: int, to: Floats, start: int, stride: int, count: int) -> None:
    width = lanes(matrix)
    for t in range(length):
        for i in range(0, count, width):
            store(to, start + t * stride + i, count - i, load(matrix, t * columns + i, width))


@register_jitable
def _scale(matrix: Floats, columns: int, rows: int, factors: Floats, to: Floats) -> None:
    """Row t times factor t."""
    width = lanes(matrix)
    for t in range(rows):
        factor = spread(factors, t)
        for i in range(t * columns, (t + 1) * columns, width):
            store(to, i, width, factor * load(matrix, i, width))


@register_jitable
def _transpose(matrix: Floats, rows: int, columns: int, to: Floats) -> None:
    for t in range(0, rows, lanes(matrix)):
        for i in range(0, columns, lanes(matrix)):
            transpose(to, i * rows + t, rows, matrix, t * columns + i, columns)


@register_jitable
def _dots(left: Floats, right: Floats, columns: int, rows: int, to: Floats) -> None:
    """Row by row, in float64."""
    for t in range(rows):
        total = wide.zeros()
        for i in range(t * columns, (t + 1) * columns, wide.LANES):
            total = total + wide.load(left, i, wide.LANES) * wide.load(right, i, wide.LANES)
        to[t] = sum_lanes(total)


@register_jitable
def _reach(t: int, width: int) -> int:
    """Columns of row t of a lower triangle that are computed: to the end of its tile, in whole vectors."""
    tile = t // TILE_ROWS * TILE_ROWS + TILE_ROWS
    return (tile + width - 1) // width * width


@register_jitable
def _triangle(left: Floats, columns: int, depth: int, right: Floats, rows: int, to: Floats) -> None:
    """left [C, columns] times right [depth, C], as far as `_reach` says."""
    for t in range(0, rows, TILE_ROWS):
        reach = _reach(t, lanes(to))
        multiply(to, t * CHUNK, CHUNK, left, t * columns, columns, 1, right, 0, CHUNK, TILE_ROWS, reach, depth, False)


@register_jitable
def _add_lower(triangle: Floats, right: Floats, columns: int, rows: int, to: Floats) -> None:
    """Adds a lower triangle [C, C] times right [C, columns]."""
    for t in range(0, rows, TILE_ROWS):
        depth, to_row = t + TILE_ROWS, t * columns
        multiply(to, to_row, columns, triangle, t * CHUNK, CHUNK, 1, right, 0, columns, TILE_ROWS, columns, depth, True)


@register_jitable
def _add_upper(triangle: Floats, right: Floats, columns: int, rows: int, to: Floats) -> None:
    """Adds the transpose of a lower triangle [C, C] times right [C, columns]."""
    for t in range(0, rows, TILE_ROWS):
        corner, i = t * CHUNK + t, t * columns
        multiply(to, i, columns, triangle, corner, 1, CHUNK, right, i, columns, TILE_ROWS, columns, rows - t, True)


@register_jitable
def _passed_on(
    decay: Floats, start: int, stride: int, length: int, rows: int, p: Floats, entering: Floats, row: Floats
) -> None:
    """P [rows, C], and p_t as entering[t + 1], behind entering[0] = 1; zeros in the rows behind `length`.

    `row` has room for C numbers and one that is to be spread over a vector.
    """
    row.fill(0)
    row[CHUNK], entering[0] = NOTHING, 1.0
    nothing = spread(row, CHUNK)
    for t in range(rows):
        site = start + min(t, length - 1) * stride
        d = spread(decay, site)
        for j in range(0, t, wide.LANES):
            x = d * load(row, j, wide.LANES)
            # Towards 0 by 2^-100, of either sign; in this order a NaN stays.
            above, below = maximum(wide.zeros(), x - nothing), maximum(wide.zeros(), wide.zeros() - x - nothing)
            store(row, j, wide.LANES, above - below)
        row[t] = 1.0
        entering[t + 1] = decay[site] * entering[t]
        if abs(entering[t + 1]) <= NOTHING:
            entering[t + 1] = 0.0
        if t >= length:
            row[:CHUNK].fill(0)
            entering[t + 1] = 0.0
        for j in range(0, CHUNK, wide.LANES):
            wide.store(p, t * CHUNK + j, wide.LANES, load(row, j, wide.LANES))


@kernel
def backward(
    begin: int,
    end: int,
    output_bar: Floats,
    has_output_bar: bool,
    memory_bar: Floats,
    query: Floats,
    key: Floats,
    value: Floats,
    gain: Floats,
    decay: Floats,
    checkpoints: Floats,
    query_bar: Floats,
    key_bar: Floats,
    value_bar: Floats,
    gain_bar: Floats,
    decay_bar: Floats,
    initial_memory_bar: Floats,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """As `cpu.backward_erasing`, without what is erased."""
    width, largest = lanes(query), wide.largest(query)
    tiles = (values + width - 1) // width
    ks, vs = (keys + width - 1) // width * width, tiles * width  # K' and V'
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    for task in range(begin, end):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        q, k, kw, k_bar = (
            _zeros(query, CHUNK * ks),
            _zeros(query, CHUNK * ks),
            _zeros(query, CHUNK * ks),
            _zeros(query, CHUNK * ks),
        )
        v, u, y, u_bar = (
            _zeros(query, CHUNK * vs),
            _zeros(query, CHUNK * vs),
            _zeros(query, CHUNK * vs),
            _zeros(query, CHUNK * vs),
        )
        a, d, z, p = (
            _zeros(query, CHUNK * CHUNK),
            _zeros(query, CHUNK * CHUNK),
            _zeros(query, CHUNK * CHUNK),
            _zeros(query, CHUNK * CHUNK),
        )
        k_across, u_across, s_across = (
            _zeros(query, ks * CHUNK),
            _zeros(query, vs * CHUNK),
            _zeros(query, vs * ks),
        )
        s, s_bars = _zeros(query, ks * vs), _zeros(query, count * ks * vs)  # Sbar of every head of the group
        gains, enters, leaves = _zeros(query, CHUNK), _zeros(query, CHUNK), _zeros(query, CHUNK)  # gain, p and w
        shares = wide.scratch(count)  # of the decays behind, in whole chunks
        entering, f_row = wide.scratch(CHUNK + 1), wide.scratch(CHUNK + 1)
        z_in, z_out, dots = wide.scratch(CHUNK), wide.scratch(CHUNK), wide.scratch(CHUNK)
        for h in range(count):
            shares[h] = 0
            s_bar = s_bars[h * ks * vs : (h + 1) * ks * vs]
            _gather(memory_bar, (row * heads + base + h) * keys * values, values, values, keys, s_bar, vs)
        for step in range(chunks * count):
            chunk, h = chunks - 1 - step // count, step % count
            head, s_bar = row * heads + base + h, s_bars[h * ks * vs : (h + 1) * ks * vs]
            first = (row * sites + chunk * CHUNK) * heads + base + h
            length = min(CHUNK, sites - chunk * CHUNK)
            rows = (length + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
            for tile in range(tiles):
                start = ((head * tiles + tile) * chunks + chunk) * keys * width
                for i in range(keys):
                    store(s, i * vs + tile * width, width, load(checkpoints, start + i * width, width))
            _gather(query, first * keys, heads * keys, keys, length, q, ks)
            _gather(key, first * keys, heads * keys, keys, length, k, ks)
            _gather(value, first * values, heads * values, values, length, v, vs)
            if has_output_bar:
                _gather(output_bar, first * values, heads * values, values, length, y, vs)
            _passed_on(decay, first, heads, length, rows, p, entering, f_row)
            for t in range(rows):
                gains[t] = within(gain[first + t * heads], largest) if t < length else 0.0
                enters[t], leaves[t] = within(entering[t + 1], largest), p[(length - 1) * CHUNK + t]

            _scale(v, vs, rows, gains, u)
            _transpose(k, CHUNK, ks, k_across)
            _transpose(u, CHUNK, vs, u_across)
            _triangle(q, ks, keys, k_across, rows, a)
            _triangle(y, vs, values, u_across, rows, d)
            for t in range(rows):
                for i in range(t * CHUNK, t * CHUNK + _reach(t, width), width):
                    of_a, of_d, of_p = load(a, i, width), load(d, i, width), load(p, i, width)
                    store(z, i, width, of_a * of_d)
                    store(a, i, width, of_a * of_p)
                    store(d, i, width, of_d * of_p)

            _scale(k, ks, rows, leaves, kw)
            multiply(u_bar, 0, vs, kw, 0, ks, 1, s_bar, 0, vs, rows, vs, keys, False)
            _add_upper(a, y, vs, rows, u_bar)
            _dots(v, u_bar, vs, length, dots)
            _scale(u_bar, vs, rows, gains, u_bar)
            _scatter(u_bar, vs, length, value_bar, first * values, heads * values, values)

            _transpose(s_bar, ks, vs, s_across)
            multiply(k_bar, 0, ks, u, 0, vs, 1, s_across, 0, ks, rows, ks, values, False)
            _dots(k, k_bar, ks, length, z_out)
            _scale(k_bar, ks, rows, leaves, k_bar)
            _add_upper(d, q, ks, rows, k_bar)
            _scatter(k_bar, ks, length, key_bar, first * keys, heads * keys, keys)

            _transpose(s, ks, vs, s_across)
            multiply(k_bar, 0, ks, y, 0, vs, 1, s_across, 0, ks, rows, ks, values, False)  # now of the query
            _dots(q, k_bar, ks, length, z_in)
            _scale(k_bar, ks, rows, enters, k_bar)
            _add_lower(d, k, ks, rows, k_bar)
            _scatter(k_bar, ks, length, query_bar, first * keys, heads * keys, keys)

            total = wide.zeros()
            for i in range(0, keys * vs, wide.LANES):
                total = total + wide.load(s, i, wide.LANES) * wide.load(s_bar, i, wide.LANES)
            f_in = sum_lanes(total)
            for t in range(length):
                f_row[t] = z_out[t]
                gain_bar[first + t * heads] = dots[t]
            for t in range(length - 1, -1, -1):
                f_row[CHUNK] = 1.0 if t == length - 1 else decay[first + (t + 1) * heads]
                f_in = z_in[t] + f_row[CHUNK] * f_in
                d_later, total = spread(f_row, CHUNK), wide.zeros()
                for j in range(0, t, wide.LANES):
                    f = wide.load(z, t * CHUNK + j, wide.LANES) + d_later * load(f_row, j, wide.LANES)
                    store(f_row, j, wide.LANES, f)
                    total = total + f * wide.load(p, (t - 1) * CHUNK + j, wide.LANES)
                decay_bar[first + t * heads] = f_in * entering[t] + sum_lanes(total)

            _scale(q, ks, rows, enters, q)
            p_last = entering[length] + entering[length] * shares[h]
            enters[0] = within(p_last, largest)
            shares[h], _ = share(p_last, 0.0, exact(enters, 0), 0.0)
            through = spread(enters, 0)
            for i in range(0, keys * vs, width):
                store(s_bar, i, width, through * load(s_bar, i, width))
            multiply(s_bar, 0, vs, q, 0, 1, ks, y, 0, vs, keys, vs, rows, True)
        for h in range(count):
            s_bar = s_bars[h * ks * vs : (h + 1) * ks * vs]
            _scatter(s_bar, vs, keys, initial_memory_bar, (row * heads + base + h) * keys * values, values, values)
