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
    Wbar_t = conj(L_t) Sbar_t
    qbar_t = Re(conj(S_t) ybar_t)         kbar_t = Re(Wbar_t) v_t         vbar_t = Re(Wbar_t)^T k_t
    dbar_t = -sum(conj(S_t) Wbar_t) - conj(L_t)^2 g_t                     (g_t: the cotangent of L_t from later sites)
    bbar_t = Re sum(conj(S_{t-1}) Wbar_t) - 2 b_t Re(conj(L_{t-1}) dbar_t)
    abar_t = Re dbar_t        etabar_t = -Im dbar_t        g_{t-1} = -b_t^2 dbar_t

The states of all sites do not fit a cache: the forward sweep keeps the state at the start of each chunk, and the
backward sweep runs a chunk again from there, a tile at a time. Nothing is divided by tau or L.

Why not matmuls over a chunk: they need the propagator Gamma [CHUNK, CHUNK] of each head, its product with Q K^T and
complex products with V, about as many multiply-adds as the recurrence (8 K V a site), and pass several intermediates of
that size through memory, while a tile of the recurrence stays in the first-level cache. It also gives the same bits
however a sequence is cut into calls.
"""

from numba import prange

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.simd import lanes, load, load_pairs, ones, row_sums, scratch, spread, store, store_pairs, zeros
from resnet_bk.ops.sizes import PROPAGATE_CHUNK as CHUNK


@kernel
def forward(
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
    batch: int,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """checkpoints [B, H, tiles, N, 2, K, W] receives the state at the start of each chunk if `keep`."""
    wide = lanes(green)
    tiles = (values + wide - 1) // wide
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    half = keys * wide
    for task in prange(batch * groups):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        states = scratch(green, count * tiles * 2 * half)
        # L of each head, in all lanes as every number of the chain: it meets vectors only.
        chain = scratch(green, count * 2 * wide)
        for h in range(count):
            head = row * heads + base + h
            store(chain, 2 * h * wide, wide, spread(initial_green, 2 * head))
            store(chain, (2 * h + 1) * wide, wide, spread(initial_green, 2 * head + 1))
            for tile in range(tiles):
                low, state = tile * wide, (h * tiles + tile) * 2 * half
                for k in range(keys):
                    re, im = load_pairs(initial_memory, 2 * ((head * keys + k) * values + low), values - low)
                    store(states, state + k * wide, wide, re)
                    store(states, state + half + k * wide, wide, im)
        for step in range(chunks * count * tiles):
            chunk, h, tile = step // (count * tiles), step // tiles % count, step % tiles
            low, state = tile * wide, (h * tiles + tile) * 2 * half
            n = values - low
            if keep:
                start = (((row * heads + base + h) * tiles + tile) * chunks + chunk) * 2 * half
                for i in range(0, 2 * half, wide):
                    store(checkpoints, start + i, wide, load(states, state + i, wide))
            l_re, l_im = load(chain, 2 * h * wide, wide), load(chain, (2 * h + 1) * wide, wide)
            for t in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, sites)):
                site = (row * sites + t) * heads + base + h
                b = spread(hopping, site)
                x, y = spread(potential, site) - b * b * l_re, spread(absorption, site) + b * b * l_im
                inverse = ones(green) / (x * x + y * y)
                l_re, l_im = x * inverse, y * inverse
                t_re, t_im = b * l_re, b * l_im
                v = load(value, site * values + low, n)
                v_re, v_im = l_re * v, l_im * v
                y_re, y_im = zeros(green), zeros(green)
                for k in range(keys):
                    i, j = state + k * wide, state + half + k * wide
                    k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                    s_re, s_im = load(states, i, wide), load(states, j, wide)
                    n_re, n_im = k_k * v_re + t_re * s_re - t_im * s_im, k_k * v_im + t_re * s_im + t_im * s_re
                    store(states, i, wide, n_re)
                    store(states, j, wide, n_im)
                    y_re, y_im = y_re + q_k * n_re, y_im + q_k * n_im
                store_pairs(output, 2 * (site * values + low), n, y_re, y_im)
                if tile == 0:
                    store(green, 2 * site, 1, l_re)
                    store(green, 2 * site + 1, 1, l_im)
            if tile == tiles - 1:  # the other tiles begin the chunk with the same L
                store(chain, 2 * h * wide, wide, l_re)
                store(chain, (2 * h + 1) * wide, wide, l_im)
        for step in range(count * tiles):
            h, low = step // tiles, step % tiles * wide
            for k in range(keys):
                i = 2 * (((row * heads + base + h) * keys + k) * values + low)
                state = step * 2 * half + k * wide
                re, im = load(states, state, wide), load(states, state + half, wide)
                store_pairs(memory, i, values - low, re, im)


@kernel
def backward(
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
    batch: int,
    sites: int,
    heads: int,
    keys: int,
    values: int,
    group: int,
) -> None:
    """green_bar [B, H, 2] and memory_bar [B, H, K, V, 2] belong to the final state."""
    wide = lanes(green)
    tiles = (values + wide - 1) // wide
    chunks = (sites + CHUNK - 1) // CHUNK
    groups = (heads + group - 1) // group
    half = keys * wide
    rows = (keys + wide - 1) // wide * wide
    for task in prange(batch * groups):
        row, base = task // groups, task % groups * group
        count = min(group, heads - base)
        carries = scratch(green, count * tiles * 2 * half)  # b_{t+1} Wbar_{t+1} of each head and tile
        chain = scratch(green, count * 2 * wide)  # g of each head, in all lanes
        states = scratch(green, (CHUNK + 1) * 2 * half)  # before the chunk, then after each of its sites
        q_rows = scratch(green, rows * wide)  # summands of qbar_t and kbar_t, a row a key
        k_rows = scratch(green, rows * wide)
        q_rows.fill(0)
        k_rows.fill(0)
        site_rows = scratch(green, 3 * CHUNK * wide)  # summands of sum(conj(S) Wbar) and of bbar, a row a site
        site_sums = scratch(green, 3 * CHUNK)
        for h in range(count):
            head = row * heads + base + h
            store(chain, 2 * h * wide, wide, spread(green_bar, 2 * head))
            store(chain, (2 * h + 1) * wide, wide, spread(green_bar, 2 * head + 1))
            for tile in range(tiles):
                low, carry = tile * wide, (h * tiles + tile) * 2 * half
                for k in range(keys):
                    re, im = load_pairs(memory_bar, 2 * ((head * keys + k) * values + low), values - low)
                    store(carries, carry + k * wide, wide, re)
                    store(carries, carry + half + k * wide, wide, im)
        for step in range(chunks * count):
            chunk, h = chunks - 1 - step // count, step % count
            head, first = row * heads + base + h, chunk * CHUNK
            length = min(CHUNK, sites - first)
            for i in range(0, 3 * CHUNK * wide, wide):
                store(site_rows, i, wide, zeros(green))
            for tile in range(tiles):
                low, carry = tile * wide, (h * tiles + tile) * 2 * half
                n = values - low
                start = ((head * tiles + tile) * chunks + chunk) * 2 * half
                for i in range(0, 2 * half, wide):
                    store(states, i, wide, load(checkpoints, start + i, wide))
                for t in range(length):
                    site = (row * sites + first + t) * heads + base + h
                    l_re, l_im, b = spread(green, 2 * site), spread(green, 2 * site + 1), spread(hopping, site)
                    t_re, t_im = b * l_re, b * l_im
                    v = load(value, site * values + low, n)
                    v_re, v_im = l_re * v, l_im * v
                    for k in range(keys):
                        i, j = t * 2 * half + k * wide, t * 2 * half + half + k * wide
                        k_k = spread(key, site * keys + k)
                        s_re, s_im = load(states, i, wide), load(states, j, wide)
                        store(states, i + 2 * half, wide, k_k * v_re + t_re * s_re - t_im * s_im)
                        store(states, j + 2 * half, wide, k_k * v_im + t_re * s_im + t_im * s_re)
                for t in range(length - 1, -1, -1):
                    site = (row * sites + first + t) * heads + base + h
                    l_re, l_im, b = spread(green, 2 * site), spread(green, 2 * site + 1), spread(hopping, site)
                    v = load(value, site * values + low, n)
                    y_re, y_im = zeros(green), zeros(green)
                    if has_output_bar:
                        y_re, y_im = load_pairs(output_bar, 2 * (site * values + low), n)
                    v_bar, b_bar = zeros(green), zeros(green)
                    d_re, d_im = zeros(green), zeros(green)  # -dbar
                    for k in range(keys):
                        i, j = t * 2 * half + k * wide, t * 2 * half + half + k * wide
                        c, d = carry + k * wide, carry + half + k * wide
                        k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                        s_re, s_im = load(states, i + 2 * half, wide), load(states, j + 2 * half, wide)
                        store(q_rows, k * wide, wide, s_re * y_re + s_im * y_im)
                        x, y = load(carries, c, wide) + q_k * y_re, load(carries, d, wide) + q_k * y_im  # Sbar
                        w_re, w_im = l_re * x + l_im * y, l_re * y - l_im * x
                        store(k_rows, k * wide, wide, v * w_re)
                        v_bar = v_bar + k_k * w_re
                        d_re, d_im = d_re + s_re * w_re + s_im * w_im, d_im + s_re * w_im - s_im * w_re
                        b_bar = b_bar + load(states, i, wide) * w_re + load(states, j, wide) * w_im
                        store(carries, c, wide, b * w_re)
                        store(carries, d, wide, b * w_im)
                    store(value_bar, site * values + low, n, v_bar)
                    i, plane = t * wide, CHUNK * wide
                    store(site_rows, i, wide, load(site_rows, i, wide) + d_re)
                    store(site_rows, i + plane, wide, load(site_rows, i + plane, wide) + d_im)
                    store(site_rows, i + 2 * plane, wide, load(site_rows, i + 2 * plane, wide) + b_bar)
                    for k in range(0, keys, wide):
                        i = site * keys + k
                        q_k, k_k = row_sums(q_rows, k * wide), row_sums(k_rows, k * wide)
                        if tile > 0:
                            q_k, k_k = load(query_bar, i, keys - k) + q_k, load(key_bar, i, keys - k) + k_k
                        store(query_bar, i, keys - k, q_k)
                        store(key_bar, i, keys - k, k_k)
            for i in range(0, 3 * CHUNK, wide):
                store(site_sums, i, wide, row_sums(site_rows, i * wide))
            g_re, g_im = load(chain, 2 * h * wide, wide), load(chain, (2 * h + 1) * wide, wide)
            for t in range(length - 1, -1, -1):
                site = (row * sites + first + t) * heads + base + h
                l_re, l_im, b = spread(green, 2 * site), spread(green, 2 * site + 1), spread(hopping, site)
                if first + t > 0:
                    p_re, p_im = spread(green, 2 * (site - heads)), spread(green, 2 * (site - heads) + 1)
                else:
                    p_re, p_im = spread(initial_green, 2 * head), spread(initial_green, 2 * head + 1)
                x, y = l_im * l_im - l_re * l_re, (l_re + l_re) * l_im  # -conj(L)^2
                d_re = x * g_re - y * g_im - spread(site_sums, t)
                d_im = x * g_im + y * g_re - spread(site_sums, CHUNK + t)
                b_bar = spread(site_sums, 2 * CHUNK + t) - (b + b) * (p_re * d_re + p_im * d_im)
                store(potential_bar, site, 1, d_re)
                store(hopping_bar, site, 1, b_bar)
                store(absorption_bar, site, 1, zeros(green) - d_im)
                g_re, g_im = zeros(green) - b * b * d_re, zeros(green) - b * b * d_im
            store(chain, 2 * h * wide, wide, g_re)
            store(chain, (2 * h + 1) * wide, wide, g_im)
        for h in range(count):
            head = row * heads + base + h
            store(initial_green_bar, 2 * head, 1, load(chain, 2 * h * wide, wide))
            store(initial_green_bar, 2 * head + 1, 1, load(chain, (2 * h + 1) * wide, wide))
            for tile in range(tiles):
                low, carry = tile * wide, (h * tiles + tile) * 2 * half
                for k in range(keys):
                    i = 2 * ((head * keys + k) * values + low)
                    re, im = load(carries, carry + k * wide, wide), load(carries, carry + half + k * wide, wide)
                    store_pairs(initial_memory_bar, i, values - low, re, im)
