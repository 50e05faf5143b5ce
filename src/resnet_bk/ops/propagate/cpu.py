"""CPU kernels of the matrix state and its exact adjoint, fused with the surface Green's function.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks of CHUNK sites, W numbers in a vector.
Arrays are flat: query and key [B, T, H, K], value [B, T, H, V], the chain [B, T, H], output [B, T, H, V, 2], L [B, T,
H, 2], S [B, H, K, V, 2]; inside, a state is a tile of W columns: real parts [K, W], then imaginary parts [K, W].

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1})       tau_t = b_t L_t
    S_t = L_t k_t v_t^T + tau_t S_{t-1}             y_t = q_t^T S_t

Columns of S do not meet: the recurrence runs tile by tile. A task sweeps `group` heads of one batch row, chunk by
chunk, so that the numbers of neighbouring heads, which lie side by side, are fetched together.

Adjoint (bars are cotangents, dL/dRe + i dL/dIm), from the last site to the first. With W_t = k_t v_t^T + b_t S_{t-1}
and d_t = 1 / L_t, S_t = W_t / d_t gives d S_t / d d_t = -S_t L_t, and so

    Sbar_t = q_t ybar_t^T + b_{t+1} Wbar_{t+1}        (behind the last site: the cotangent of the final state)
    Wbar_t = conj(L_t) Sbar_t                         C_t = sum(conj(S_{t-1}) Wbar_t)
    qbar_t = Re(conj(S_t) ybar_t)         kbar_t = Re(Wbar_t) v_t         vbar_t = Re(Wbar_t)^T k_t
    M_t = sum(conj(S_t) Sbar_t) = conj(y_t) . ybar_t + b_{t+1} C_{t+1}
    dbar_t = -conj(L_t) M_t - conj(L_t)^2 g_t                             (g_t: the cotangent of L_t from later sites)
    bbar_t = Re C_t - 2 b_t Re(conj(L_{t-1}) dbar_t)
    abar_t = Re dbar_t        etabar_t = -Im dbar_t        g_{t-1} = -b_t^2 dbar_t

Precision. L, M, g and dbar are float64 whatever the inputs are: their recurrences are conditioned like 1/eta. C is
summed in float64: in bbar nearly all of it may cancel. S and Wbar are in the precision of the inputs. For float32 S
meets tau rounded to float32; where tau is the same at every site its rounding error is too, and would grow with the
1/eta sites that the state lives. What rounding takes from one tau is therefore given to the next (`rounding.py`), so
that every product of rounded transmissions equals the exact one to one rounding. The adjoint does the same from the
right with L, for b_t conj(L_t) is what it multiplies Sbar by. S_t and Wbar_t then lack the share f of their last
factor, and M and C have it back.

The states of all sites do not fit a cache: the forward sweep keeps the state at the start of each chunk, and the
backward sweep runs a chunk again from there, a tile at a time. Nothing is divided by tau or L.

Why not matmuls over a chunk: they need the propagator Gamma [CHUNK, CHUNK] of each head, its product with Q K^T and
complex products with V, about as many multiply-adds as the recurrence (8 K V a site), and pass several intermediates of
that size through memory, while a tile of the recurrence stays in the first-level cache. It also gives a document the
same bits wherever it stands in a packed row.
"""

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.propagate.rounding import exact, share, with_share, within
from resnet_bk.ops.simd import lanes, load, load_pairs, row_sums, scratch, spread, store, store_pairs, wide, zeros
from resnet_bk.ops.sizes import PROPAGATE_CHUNK as CHUNK


@kernel
def forward(
    begin: int,
    end: int,
    query: Floats,
    key: Floats,
    value: Floats,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    initial_green: Floats,
    initial_memory: Floats,
    output: Floats,
    green: Floats,
    memory: Floats,
    checkpoints: Floats,
    keep: bool,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """checkpoints [B, H, tiles, N, 2, K, W] receives the state at the start of each chunk if `keep`."""
    width, largest = lanes(query), wide.largest(query)
    tiles = (values + width - 1) // width
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    half = keys * width
    for task in range(begin, end):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        states = scratch(query, count * tiles * 2 * half)
        chain = wide.scratch(4 * count)  # of each head: L, and the share of the tau before
        steps = scratch(query, 4 * CHUNK * count)  # L and tau of a chunk, rounded
        for h in range(count):
            head = row * heads + base + h
            chain[4 * h], chain[4 * h + 1] = initial_green[2 * head], initial_green[2 * head + 1]
            chain[4 * h + 2] = chain[4 * h + 3] = 0
            for tile in range(tiles):
                low, state = tile * width, (h * tiles + tile) * 2 * half
                for k in range(keys):
                    re, im = load_pairs(initial_memory, 2 * ((head * keys + k) * values + low), values - low)
                    store(states, state + k * width, width, re)
                    store(states, state + half + k * width, width, im)
        for chunk in range(chunks):
            first = chunk * CHUNK
            length = min(CHUNK, sites - first)
            for step in range(length * count):
                h, site = step % count, (row * sites + first + step // count) * heads + base + step % count
                hop = exact(hopping, site)
                z_re, z_im = potential[site] - hop * hop * chain[4 * h], absorption[site] + hop * hop * chain[4 * h + 1]
                inverse = 1 / (z_re * z_re + z_im * z_im)
                z_re, z_im = z_re * inverse, z_im * inverse
                chain[4 * h] = green[2 * site] = z_re
                chain[4 * h + 1] = green[2 * site + 1] = z_im
                steps[4 * step], steps[4 * step + 1] = within(z_re, largest), within(z_im, largest)
                z_re, z_im = with_share(hop * z_re, hop * z_im, chain[4 * h + 2], chain[4 * h + 3])
                steps[4 * step + 2], steps[4 * step + 3] = within(z_re, largest), within(z_im, largest)
                f_re, f_im = share(z_re, z_im, steps[4 * step + 2], steps[4 * step + 3])
                chain[4 * h + 2], chain[4 * h + 3] = f_re, f_im
            for part in range(count * tiles):
                h, tile = part // tiles, part % tiles
                low, state = tile * width, part * 2 * half
                n = values - low
                if keep:
                    start = (((row * heads + base + h) * tiles + tile) * chunks + chunk) * 2 * half
                    for i in range(0, 2 * half, width):
                        store(checkpoints, start + i, width, load(states, state + i, width))
                for t in range(length):
                    site, step = (row * sites + first + t) * heads + base + h, 4 * (t * count + h)
                    t_re, t_im = spread(steps, step + 2), spread(steps, step + 3)
                    v = load(value, site * values + low, n)
                    v_re, v_im = spread(steps, step) * v, spread(steps, step + 1) * v
                    y_re, y_im = zeros(query), zeros(query)
                    for k in range(keys):
                        i, j = state + k * width, state + half + k * width
                        k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                        s_re, s_im = load(states, i, width), load(states, j, width)
                        n_re, n_im = k_k * v_re + t_re * s_re - t_im * s_im, k_k * v_im + t_re * s_im + t_im * s_re
                        store(states, i, width, n_re)
                        store(states, j, width, n_im)
                        y_re, y_im = y_re + q_k * n_re, y_im + q_k * n_im
                    store_pairs(output, 2 * (site * values + low), n, y_re, y_im)
        for part in range(count * tiles):
            h, low = part // tiles, part % tiles * width
            for k in range(keys):
                i = 2 * (((row * heads + base + h) * keys + k) * values + low)
                state = part * 2 * half + k * width
                re, im = load(states, state, width), load(states, state + half, width)
                store_pairs(memory, i, values - low, re, im)


@kernel
def backward(
    begin: int,
    end: int,
    output_bar: Floats,
    has_output_bar: bool,
    green_bar: Floats,
    memory_bar: Floats,
    query: Floats,
    key: Floats,
    value: Floats,
    hopping: Floats,
    initial_green: Floats,
    green: Floats,
    checkpoints: Floats,
    query_bar: Floats,
    key_bar: Floats,
    value_bar: Floats,
    potential_bar: Floats,
    hopping_bar: Floats,
    absorption_bar: Floats,
    initial_green_bar: Floats,
    initial_memory_bar: Floats,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """green_bar [B, H, 2] and memory_bar [B, H, K, V, 2] belong to the final state."""
    width, largest = lanes(query), wide.largest(query)
    tiles = (values + width - 1) // width
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    half = keys * width
    rows = (keys + width - 1) // width * width
    for task in range(begin, end):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        carries = scratch(query, count * tiles * 2 * half)  # b_{t+1} Wbar_{t+1} of each head and tile
        chain = wide.scratch(6 * count)  # of each head: g, b_{t+1} C_{t+1}, the share of the L behind
        steps = scratch(query, 6 * CHUNK)  # of a chunk, rounded: L and tau; L as Sbar meets it
        shares = wide.scratch(4 * CHUNK)  # the shares f of a site in S and in Wbar
        states = scratch(query, (CHUNK + 1) * 2 * half)  # before the chunk, then after each of its sites
        q_rows = scratch(query, rows * width)  # summands of qbar_t and kbar_t, a row a key
        k_rows = scratch(query, rows * width)
        q_rows.fill(0)
        k_rows.fill(0)
        y_rows = scratch(query, 2 * CHUNK * width)  # summands of conj(y_t) ybar_t, a row a site
        y_sums = scratch(query, 2 * CHUNK)
        c_rows = wide.scratch(2 * CHUNK * wide.LANES)  # summands of C_t
        c_sums = wide.scratch(2 * CHUNK)
        for h in range(count):
            head = row * heads + base + h
            chain[6 * h], chain[6 * h + 1] = green_bar[2 * head], green_bar[2 * head + 1]
            chain[6 * h + 2 : 6 * h + 6] = 0
            for tile in range(tiles):
                low, carry = tile * width, (h * tiles + tile) * 2 * half
                for k in range(keys):
                    re, im = load_pairs(memory_bar, 2 * ((head * keys + k) * values + low), values - low)
                    store(carries, carry + k * width, width, re)
                    store(carries, carry + half + k * width, width, im)
        for step in range(chunks * count):
            chunk, h = chunks - 1 - step // count, step % count
            head, first = row * heads + base + h, chunk * CHUNK
            length = min(CHUNK, sites - first)
            f_re = f_im = 0.0
            for t in range(length):
                site = (row * sites + first + t) * heads + base + h
                hop, z_re, z_im = exact(hopping, site), exact(green, 2 * site), exact(green, 2 * site + 1)
                steps[6 * t], steps[6 * t + 1] = within(z_re, largest), within(z_im, largest)
                z_re, z_im = with_share(hop * z_re, hop * z_im, f_re, f_im)
                steps[6 * t + 2], steps[6 * t + 3] = within(z_re, largest), within(z_im, largest)
                f_re, f_im = share(z_re, z_im, steps[6 * t + 2], steps[6 * t + 3])
                shares[4 * t], shares[4 * t + 1] = f_re, f_im
            f_re, f_im = chain[6 * h + 4], chain[6 * h + 5]
            for t in range(length - 1, -1, -1):
                site = (row * sites + first + t) * heads + base + h
                z_re, z_im = with_share(exact(green, 2 * site), exact(green, 2 * site + 1), f_re, f_im)
                steps[6 * t + 4], steps[6 * t + 5] = within(z_re, largest), within(z_im, largest)
                f_re, f_im = share(z_re, z_im, steps[6 * t + 4], steps[6 * t + 5])
                shares[4 * t + 2], shares[4 * t + 3] = f_re, f_im
            chain[6 * h + 4], chain[6 * h + 5] = f_re, f_im
            y_rows.fill(0)
            c_rows.fill(0)
            for tile in range(tiles):
                low, carry = tile * width, (h * tiles + tile) * 2 * half
                n = values - low
                start = ((head * tiles + tile) * chunks + chunk) * 2 * half
                for i in range(0, 2 * half, width):
                    store(states, i, width, load(checkpoints, start + i, width))
                for t in range(length):
                    site = (row * sites + first + t) * heads + base + h
                    t_re, t_im = spread(steps, 6 * t + 2), spread(steps, 6 * t + 3)
                    v = load(value, site * values + low, n)
                    v_re, v_im = spread(steps, 6 * t) * v, spread(steps, 6 * t + 1) * v
                    y_re, y_im = zeros(query), zeros(query)
                    for k in range(keys):
                        i, j = t * 2 * half + k * width, t * 2 * half + half + k * width
                        k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                        s_re, s_im = load(states, i, width), load(states, j, width)
                        n_re, n_im = k_k * v_re + t_re * s_re - t_im * s_im, k_k * v_im + t_re * s_im + t_im * s_re
                        store(states, i + 2 * half, width, n_re)
                        store(states, j + 2 * half, width, n_im)
                        y_re, y_im = y_re + q_k * n_re, y_im + q_k * n_im
                    if has_output_bar:
                        re, im = load_pairs(output_bar, 2 * (site * values + low), n)
                        i, j = t * width, (CHUNK + t) * width
                        store(y_rows, i, width, load(y_rows, i, width) + y_re * re + y_im * im)
                        store(y_rows, j, width, load(y_rows, j, width) + y_re * im - y_im * re)
                if chunk == chunks - 1:  # sum(conj(S) Sbar) of the final state
                    for i in range(length * 2 * half, length * 2 * half + half):
                        j = carry + i - length * 2 * half
                        z_re, z_im = exact(states, i), exact(states, i + half)
                        chain[6 * h + 2] += z_re * carries[j] + z_im * carries[j + half]
                        chain[6 * h + 3] += z_re * carries[j + half] - z_im * carries[j]
                for t in range(length - 1, -1, -1):
                    site = (row * sites + first + t) * heads + base + h
                    l_re, l_im, b = spread(steps, 6 * t + 4), spread(steps, 6 * t + 5), spread(hopping, site)
                    v = load(value, site * values + low, n)
                    y_re, y_im = zeros(query), zeros(query)
                    if has_output_bar:
                        y_re, y_im = load_pairs(output_bar, 2 * (site * values + low), n)
                    v_bar = zeros(query)
                    c_re, c_im, r_re, r_im = wide.zeros(), wide.zeros(), wide.zeros(), wide.zeros()
                    for k in range(keys):
                        i, j = t * 2 * half + k * width, t * 2 * half + half + k * width
                        c, d = carry + k * width, carry + half + k * width
                        k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                        s_re, s_im = load(states, i + 2 * half, width), load(states, j + 2 * half, width)
                        store(q_rows, k * width, width, s_re * y_re + s_im * y_im)
                        x, y = load(carries, c, width) + q_k * y_re, load(carries, d, width) + q_k * y_im  # Sbar
                        w_re, w_im = l_re * x + l_im * y, l_re * y - l_im * x
                        store(k_rows, k * width, width, v * w_re)
                        v_bar = v_bar + k_k * w_re
                        store(carries, c, width, b * w_re)
                        store(carries, d, width, b * w_im)
                        ls_re, hs_re = wide.halves(query, load(states, i, width))
                        ls_im, hs_im = wide.halves(query, load(states, j, width))
                        lw_re, hw_re = wide.halves(query, w_re)
                        lw_im, hw_im = wide.halves(query, w_im)
                        c_re, c_im = c_re + ls_re * lw_re + ls_im * lw_im, c_im + ls_re * lw_im - ls_im * lw_re
                        r_re, r_im = r_re + hs_re * hw_re + hs_im * hw_im, r_im + hs_re * hw_im - hs_im * hw_re
                    store(value_bar, site * values + low, n, v_bar)
                    i, j = t * wide.LANES, (CHUNK + t) * wide.LANES
                    wide.store(c_rows, i, wide.LANES, wide.load(c_rows, i, wide.LANES) + c_re + r_re)
                    wide.store(c_rows, j, wide.LANES, wide.load(c_rows, j, wide.LANES) + c_im + r_im)
                    for k in range(0, keys, width):
                        i = site * keys + k
                        q_k, k_k = row_sums(q_rows, k * width), row_sums(k_rows, k * width)
                        if tile > 0:
                            q_k, k_k = load(query_bar, i, keys - k) + q_k, load(key_bar, i, keys - k) + k_k
                        store(query_bar, i, keys - k, q_k)
                        store(key_bar, i, keys - k, k_k)
            for i in range(0, 2 * CHUNK, width):
                store(y_sums, i, width, row_sums(y_rows, i * width))
            for i in range(0, 2 * CHUNK, wide.LANES):
                store(c_sums, i, wide.LANES, row_sums(c_rows, i * wide.LANES))
            g_re, g_im, m_re, m_im = chain[6 * h], chain[6 * h + 1], chain[6 * h + 2], chain[6 * h + 3]
            for t in range(length - 1, -1, -1):
                site = (row * sites + first + t) * heads + base + h
                hop, green_re, green_im = exact(hopping, site), exact(green, 2 * site), exact(green, 2 * site + 1)
                if first + t > 0:
                    before_re, before_im = exact(green, 2 * (site - heads)), exact(green, 2 * (site - heads) + 1)
                else:
                    before_re, before_im = exact(initial_green, 2 * head), exact(initial_green, 2 * head + 1)
                z_re, z_im = with_share(y_sums[t], y_sums[CHUNK + t], shares[4 * t], -shares[4 * t + 1])
                m_re, m_im = m_re + z_re, m_im + z_im
                z_re, z_im = (
                    m_re + green_re * g_re + green_im * g_im,
                    m_im + green_re * g_im - green_im * g_re,
                )  # M + conj(L) g
                d_re, d_im = -green_re * z_re - green_im * z_im, green_im * z_re - green_re * z_im
                sum_re, sum_im = with_share(c_sums[t], c_sums[CHUNK + t], shares[4 * t + 2], -shares[4 * t + 3])
                if t > 0:
                    sum_re, sum_im = with_share(sum_re, sum_im, shares[4 * t - 4], -shares[4 * t - 3])
                potential_bar[site] = within(d_re, largest)
                hopping_bar[site] = within(sum_re - 2 * hop * (before_re * d_re + before_im * d_im), largest)
                absorption_bar[site] = within(-d_im, largest)
                g_re, g_im, m_re, m_im = -hop * hop * d_re, -hop * hop * d_im, hop * sum_re, hop * sum_im
            chain[6 * h], chain[6 * h + 1], chain[6 * h + 2], chain[6 * h + 3] = g_re, g_im, m_re, m_im
        for h in range(count):
            head = row * heads + base + h
            initial_green_bar[2 * head] = within(chain[6 * h], largest)
            initial_green_bar[2 * head + 1] = within(chain[6 * h + 1], largest)
            for tile in range(tiles):
                low, carry = tile * width, (h * tiles + tile) * 2 * half
                for k in range(keys):
                    i = 2 * ((head * keys + k) * values + low)
                    re, im = load(carries, carry + k * width, width), load(carries, carry + half + k * width, width)
                    store_pairs(initial_memory_bar, i, values - low, re, im)
