"""CPU kernels of the matrix state and its exact adjoint, fused with the surface Green's function.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks of CHUNK sites, W numbers in a vector.
Arrays are flat: query and key [B, T, H, K], value [B, T, H, V], the chain [B, T, H], output [B, T, H, V, 2], L [B, T,
H, 2], S [B, H, K, V, 2]; inside, a state is a tile of W columns: real parts [K, W], then imaginary parts [K, W].

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1})       tau_t = b_t L_t
    S_t = L_t k_t v_t^T + tau_t S_{t-1}             y_t = q_t^T S_t

Columns of S do not meet, so a forward task is one head of one batch row and W columns.

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

import numpy as np
from numba import prange

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.simd import lanes, load, load_pairs, ones, row_sums, spread, store, store_pairs, zeros
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
) -> None:
    """checkpoints [B, H, tiles, N, 2, K, W] receives the state at the start of each chunk if `keep`."""
    wide = lanes(green)
    tiles = (values + wide - 1) // wide
    chunks = (sites + CHUNK - 1) // CHUNK
    for task in prange(batch * heads * tiles):
        head, low = task // tiles, task % tiles * wide
        row, n = head // heads, values - low
        half = keys * wide
        state = np.empty(2 * half, green.dtype)
        for k in range(keys):
            re, im = load_pairs(initial_memory, 2 * ((head * keys + k) * values + low), n)
            store(state, k * wide, wide, re)
            store(state, half + k * wide, wide, im)
        # A number of the chain stands in all lanes: it meets vectors only.
        l_re, l_im = spread(initial_green, 2 * head), spread(initial_green, 2 * head + 1)
        for t in range(sites):
            if keep and t % CHUNK == 0:
                start = (task * chunks + t // CHUNK) * 2 * half
                for k in range(0, 2 * half, wide):
                    store(checkpoints, start + k, wide, load(state, k, wide))
            site = (row * sites + t) * heads + head % heads
            b = spread(hopping, site)
            x, y = spread(potential, site) - b * b * l_re, spread(absorption, site) + b * b * l_im
            inverse = ones(green) / (x * x + y * y)
            l_re, l_im = x * inverse, y * inverse
            if low == 0:
                store(green, 2 * site, 1, l_re)
                store(green, 2 * site + 1, 1, l_im)
            t_re, t_im = b * l_re, b * l_im
            v = load(value, site * values + low, n)
            v_re, v_im = l_re * v, l_im * v
            y_re, y_im = zeros(green), zeros(green)
            for k in range(keys):
                i, j = k * wide, half + k * wide
                k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                s_re, s_im = load(state, i, wide), load(state, j, wide)
                n_re, n_im = k_k * v_re + t_re * s_re - t_im * s_im, k_k * v_im + t_re * s_im + t_im * s_re
                store(state, i, wide, n_re)
                store(state, j, wide, n_im)
                y_re, y_im = y_re + q_k * n_re, y_im + q_k * n_im
            store_pairs(output, 2 * (site * values + low), n, y_re, y_im)
        for k in range(keys):
            re, im = load(state, k * wide, wide), load(state, half + k * wide, wide)
            store_pairs(memory, 2 * ((head * keys + k) * values + low), n, re, im)


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
) -> None:
    """green_bar [B, H, 2] and memory_bar [B, H, K, V, 2] belong to the final state."""
    wide = lanes(green)
    tiles = (values + wide - 1) // wide
    chunks = (sites + CHUNK - 1) // CHUNK
    rows = (keys + wide - 1) // wide * wide
    for head in prange(batch * heads):
        row = head // heads
        half = keys * wide
        carry = np.empty(tiles * 2 * half, green.dtype)  # b_{t+1} Wbar_{t+1}, tile by tile
        states = np.empty((CHUNK + 1) * 2 * half, green.dtype)  # before the chunk, then after each of its sites
        q_rows = np.zeros(rows * wide, green.dtype)  # summands of qbar_t and kbar_t, a row a key
        k_rows = np.zeros(rows * wide, green.dtype)
        site_rows = np.empty(3 * CHUNK * wide, green.dtype)  # summands of sum(conj(S) Wbar) and of bbar, a row a site
        site_sums = np.empty(3 * CHUNK, green.dtype)
        for tile in range(tiles):
            low = tile * wide
            for k in range(keys):
                re, im = load_pairs(memory_bar, 2 * ((head * keys + k) * values + low), values - low)
                store(carry, (2 * tile) * half + k * wide, wide, re)
                store(carry, (2 * tile + 1) * half + k * wide, wide, im)
        g_re, g_im = spread(green_bar, 2 * head), spread(green_bar, 2 * head + 1)
        for chunk in range(chunks - 1, -1, -1):
            first = chunk * CHUNK
            length = min(CHUNK, sites - first)
            for i in range(0, 3 * CHUNK * wide, wide):
                store(site_rows, i, wide, zeros(green))
            for tile in range(tiles):
                low = tile * wide
                n = values - low
                start = ((head * tiles + tile) * chunks + chunk) * 2 * half
                for k in range(0, 2 * half, wide):
                    store(states, k, wide, load(checkpoints, start + k, wide))
                for t in range(length):
                    site = (row * sites + first + t) * heads + head % heads
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
                    site = (row * sites + first + t) * heads + head % heads
                    l_re, l_im, b = spread(green, 2 * site), spread(green, 2 * site + 1), spread(hopping, site)
                    v = load(value, site * values + low, n)
                    y_re, y_im = zeros(green), zeros(green)
                    if has_output_bar:
                        y_re, y_im = load_pairs(output_bar, 2 * (site * values + low), n)
                    v_bar, b_bar = zeros(green), zeros(green)
                    d_re, d_im = zeros(green), zeros(green)  # -dbar
                    for k in range(keys):
                        i, j = t * 2 * half + k * wide, t * 2 * half + half + k * wide
                        c, d = 2 * tile * half + k * wide, 2 * tile * half + half + k * wide
                        k_k, q_k = spread(key, site * keys + k), spread(query, site * keys + k)
                        s_re, s_im = load(states, i + 2 * half, wide), load(states, j + 2 * half, wide)
                        store(q_rows, k * wide, wide, s_re * y_re + s_im * y_im)
                        x, y = load(carry, c, wide) + q_k * y_re, load(carry, d, wide) + q_k * y_im  # Sbar
                        w_re, w_im = l_re * x + l_im * y, l_re * y - l_im * x
                        store(k_rows, k * wide, wide, v * w_re)
                        v_bar = v_bar + k_k * w_re
                        d_re, d_im = d_re + s_re * w_re + s_im * w_im, d_im + s_re * w_im - s_im * w_re
                        b_bar = b_bar + load(states, i, wide) * w_re + load(states, j, wide) * w_im
                        store(carry, c, wide, b * w_re)
                        store(carry, d, wide, b * w_im)
                    store(value_bar, site * values + low, n, v_bar)
                    i, step = t * wide, CHUNK * wide
                    store(site_rows, i, wide, load(site_rows, i, wide) + d_re)
                    store(site_rows, i + step, wide, load(site_rows, i + step, wide) + d_im)
                    store(site_rows, i + 2 * step, wide, load(site_rows, i + 2 * step, wide) + b_bar)
                    for k in range(0, keys, wide):
                        i = site * keys + k
                        q_k, k_k = row_sums(q_rows, k * wide), row_sums(k_rows, k * wide)
                        if tile > 0:
                            q_k, k_k = load(query_bar, i, keys - k) + q_k, load(key_bar, i, keys - k) + k_k
                        store(query_bar, i, keys - k, q_k)
                        store(key_bar, i, keys - k, k_k)
            for i in range(0, 3 * CHUNK, wide):
                store(site_sums, i, wide, row_sums(site_rows, i * wide))
            for t in range(length - 1, -1, -1):
                site = (row * sites + first + t) * heads + head % heads
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
        store(initial_green_bar, 2 * head, 1, g_re)
        store(initial_green_bar, 2 * head + 1, 1, g_im)
        for tile in range(tiles):
            low = tile * wide
            for k in range(keys):
                re, im = (
                    load(carry, 2 * tile * half + k * wide, wide),
                    load(carry, (2 * tile + 1) * half + k * wide, wide),
                )
                store_pairs(initial_memory_bar, 2 * ((head * keys + k) * values + low), values - low, re, im)
