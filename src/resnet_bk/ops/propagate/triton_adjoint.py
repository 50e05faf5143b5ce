"""Triton kernels of the adjoint of the matrix state; derived in `triton.py`.

Shape legend: B batch, T sites, H heads, N chunks of C sites, K key size, V value size; BK and BV columns of a tile.
"""

import triton.language as tl

from resnet_bk.ops.propagate.triton_tiles import (
    chunk_of,
    dot,
    load_green,
    load_pairs,
    load_state,
    load_tile,
    propagator,
    score_tile,
    store_state,
    store_tile,
    transmission,
)
from resnet_bk.ops.triton_kernels import launched, multiply, multiply_conj


@launched
def adjoint_read(
    query,
    output_bar,
    hopping,
    green,
    states_bar,
    sites,
    heads,
    count,
    keys,
    values,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """states_bar [B, H, N, 2, K, V] receives X, what the reads of a chunk add to the cotangent of the state before."""
    tiles = (values + BV - 1) // BV
    chunk, v_low = tl.program_id(0) // tiles, tl.program_id(0) % tiles * BV
    site, own = chunk_of(chunk, sites, heads, count, C)
    col = tl.arange(0, C)
    g_re = tl.full([C], 0.0, tl.float32)
    g_im = tl.full([C], 0.0, tl.float32)
    s_re = tl.full([C], 1.0, tl.float32)
    s_im = tl.full([C], 0.0, tl.float32)
    for t in range(C):
        t_re, t_im = transmission(hopping, green, site, heads, t, own)
        s_re, s_im = multiply(t_re, t_im, s_re, s_im)
        g_re, g_im = tl.where(col == t, s_re, g_re), tl.where(col == t, s_im, g_im)
    y_re, y_im = load_pairs(output_bar, site, heads, values, v_low, own, C, BV)
    y_re, y_im = multiply_conj(g_re[:, None], g_im[:, None], y_re, y_im)
    for k_low in range(0, keys, BK):
        q = tl.trans(load_tile(query, site, heads, keys, k_low, own, C, BK).to(tl.float32))
        store_state(states_bar, dot(q, y_re), dot(q, y_im), chunk, keys, values, k_low, v_low, BK, BV)


@launched
def adjoint_chain(
    query,
    key,
    value,
    output_bar,
    hopping,
    green,
    states,
    states_bar,
    hopping_bar,
    green_bar,
    sites,
    heads,
    count,
    keys,
    values,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """Lbar and the part of bbar that goes through tau; a program a chunk. states: S before it; states_bar: Z, the
    cotangent of the state behind it."""
    chunk = tl.program_id(0)
    site, own = chunk_of(chunk, sites, heads, count, C)
    rows = tl.arange(0, C)[:, None]
    cols = tl.arange(0, C)[None, :]
    col = tl.arange(0, C)
    m_re = tl.full([C, C], 0.0, tl.float32)
    m_im = tl.full([C, C], 0.0, tl.float32)
    gb_re = tl.full([C], 0.0, tl.float32)  # gammabar
    gb_im = tl.full([C], 0.0, tl.float32)
    lb_re = tl.full([C], 0.0, tl.float32)  # rowsum(K Z o V)
    lb_im = tl.full([C], 0.0, tl.float32)
    sz_re = tl.full([BV], 0.0, tl.float32)  # columns of sum(conj(S) o Z)
    sz_im = tl.full([BV], 0.0, tl.float32)
    for v_low in range(0, values, BV):
        v = load_tile(value, site, heads, values, v_low, own, C, BV).to(tl.float32)
        y_re, y_im = load_pairs(output_bar, site, heads, values, v_low, own, C, BV)
        m_re += dot(y_re, tl.trans(v))
        m_im += dot(y_im, tl.trans(v))
        for k_low in range(0, keys, BK):
            q = load_tile(query, site, heads, keys, k_low, own, C, BK).to(tl.float32)
            k = load_tile(key, site, heads, keys, k_low, own, C, BK).to(tl.float32)
            s_re, s_im = load_state(states, chunk, keys, values, k_low, v_low, BK, BV)
            z_re, z_im = load_state(states_bar, chunk, keys, values, k_low, v_low, BK, BV)
            u_re, u_im = dot(q, s_re), dot(q, s_im)
            gb_re += tl.sum(y_re * u_re + y_im * u_im, 1)
            gb_im += tl.sum(y_im * u_re - y_re * u_im, 1)
            lb_re += tl.sum(dot(k, z_re) * v, 1)
            lb_im += tl.sum(dot(k, z_im) * v, 1)
            sz_re += tl.sum(s_re * z_re + s_im * z_im, 0)
            sz_im += tl.sum(s_re * z_im - s_im * z_re, 0)
    gb_re += tl.where(col == C - 1, tl.sum(sz_re, 0), 0.0)
    gb_im += tl.where(col == C - 1, tl.sum(sz_im, 0), 0.0)

    scores = score_tile(query, key, site, heads, keys, own, C, BK)
    last = rows == C - 1
    x = tl.where(rows >= cols, scores * m_re, 0.0) + tl.where(last, lb_re[None, :], 0.0)  # Gammabar
    y = tl.where(rows >= cols, scores * m_im, 0.0) + tl.where(last, lb_im[None, :], 0.0)
    p_re, p_im, _, _, up_re, up_im, h_re, h_im = propagator(hopping, green, site, heads, own, C)
    in_re = tl.sum(p_re * gb_re[:, None] + p_im * gb_im[:, None], 0)  # the column of gamma in R
    in_im = tl.sum(p_re * gb_im[:, None] - p_im * gb_re[:, None], 0)
    p_re, p_im = tl.trans(p_re), tl.trans(p_im)
    r_re = dot(p_re, x) + dot(p_im, y)
    r_im = dot(p_re, y) - dot(p_im, x)
    l_re, l_im = load_green(green, site, heads, own, C)
    up_re, up_im = multiply(up_re, up_im, l_re[None, :], l_im[None, :])
    x, y = multiply_conj(up_re, up_im, r_re, r_im)
    t_re, t_im = multiply_conj(h_re, h_im, in_re, in_im)
    t_re, t_im = t_re + tl.sum(x, 1), t_im + tl.sum(y, 1)  # taubar
    at = site + col * heads
    inside = col < own
    b = tl.load(hopping + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(hopping_bar + at, l_re * t_re + l_im * t_im, mask=inside)
    tl.store(green_bar + 2 * at, tl.sum(tl.where(rows == cols, r_re, 0.0), 1) + b * t_re, mask=inside)
    tl.store(green_bar + 2 * at + 1, tl.sum(tl.where(rows == cols, r_im, 0.0), 1) + b * t_im, mask=inside)


@launched
def adjoint_heads(
    query,
    key,
    value,
    output_bar,
    hopping,
    green,
    states,
    states_bar,
    query_bar,
    key_bar,
    value_bar,
    sites,
    heads,
    count,
    keys,
    values,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """Qbar, Kbar and Vbar; a program a chunk, with the states of `adjoint_chain`."""
    chunk = tl.program_id(0)
    site, own = chunk_of(chunk, sites, heads, count, C)
    last = tl.arange(0, C)[:, None] == C - 1
    p_re, p_im, g_re, g_im, _, _, _, _ = propagator(hopping, green, site, heads, own, C)
    l_re, l_im = load_green(green, site, heads, own, C)
    p_re, p_im = multiply(p_re, p_im, l_re[None, :], l_im[None, :])  # Gamma
    w_re = tl.sum(tl.where(last, p_re, 0.0), 0)
    w_im = tl.sum(tl.where(last, p_im, 0.0), 0)

    scores = score_tile(query, key, site, heads, keys, own, C, BK)
    x, y = tl.trans(scores * p_re), tl.trans(scores * p_im)
    for v_low in range(0, values, BV):
        y_re, y_im = load_pairs(output_bar, site, heads, values, v_low, own, C, BV)
        v_bar = dot(x, y_re) + dot(y, y_im)
        for k_low in range(0, keys, BK):
            k = load_tile(key, site, heads, keys, k_low, own, C, BK).to(tl.float32)
            z_re, z_im = load_state(states_bar, chunk, keys, values, k_low, v_low, BK, BV)
            v_bar += w_re[:, None] * dot(k, z_re) + w_im[:, None] * dot(k, z_im)
        store_tile(value_bar, v_bar, site, heads, values, v_low, own, C, BV)

    scores_bar = tl.full([C, C], 0.0, tl.float32)
    for v_low in range(0, values, BV):
        v = tl.trans(load_tile(value, site, heads, values, v_low, own, C, BV).to(tl.float32))
        y_re, y_im = load_pairs(output_bar, site, heads, values, v_low, own, C, BV)
        scores_bar += p_re * dot(y_re, v) + p_im * dot(y_im, v)
    for k_low in range(0, keys, BK):
        q_bar = dot(scores_bar, load_tile(key, site, heads, keys, k_low, own, C, BK).to(tl.float32))
        k_bar = dot(tl.trans(scores_bar), load_tile(query, site, heads, keys, k_low, own, C, BK).to(tl.float32))
        for v_low in range(0, values, BV):
            v = load_tile(value, site, heads, values, v_low, own, C, BV).to(tl.float32)
            y_re, y_im = load_pairs(output_bar, site, heads, values, v_low, own, C, BV)
            y_re, y_im = multiply_conj(g_re[:, None], g_im[:, None], y_re, y_im)
            s_re, s_im = load_state(states, chunk, keys, values, k_low, v_low, BK, BV)
            z_re, z_im = load_state(states_bar, chunk, keys, values, k_low, v_low, BK, BV)
            q_bar += dot(y_re, tl.trans(s_re)) + dot(y_im, tl.trans(s_im))
            k_bar += w_re[:, None] * dot(v, tl.trans(z_re)) + w_im[:, None] * dot(v, tl.trans(z_im))
        store_tile(query_bar, q_bar, site, heads, keys, k_low, own, C, BK)
        store_tile(key_bar, k_bar, site, heads, keys, k_low, own, C, BK)
