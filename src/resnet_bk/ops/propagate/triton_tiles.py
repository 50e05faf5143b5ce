"""What the Triton kernels of the matrix state share: tiles of inputs and states, and the propagator of a chunk.

Shape legend: B batch, T sites, H heads, N chunks of C sites, K key size, V value size; BK and BV columns of a tile.
"""

import triton
import triton.language as tl

from resnet_bk.ops.triton_kernels import multiply


@triton.jit
def dot(a, b):
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def score(q, k):
    """Q K^T of a tile. Half types have no more digits than tf32: their products are exact at a third of the work."""
    if q.dtype == tl.float32:
        scores = dot(q, tl.trans(k))
    else:
        scores = tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)), input_precision="tf32")
    return scores


@triton.jit
def transmission(hopping, green, site, chains, t, own):
    """tau of the site t of a chunk of `own` sites; 1 behind them."""
    at = site + t * chains
    inside = t < own
    b = tl.load(hopping + at, mask=inside, other=0.0).to(tl.float32)
    re = b * tl.load(green + 2 * at, mask=inside, other=0.0)
    im = b * tl.load(green + 2 * at + 1, mask=inside, other=0.0)
    return tl.where(inside, re, 1.0), im


@triton.jit
def load_green(green, site, chains, own, C: tl.constexpr):
    """L [C] of a chunk; 0 behind its sites."""
    t = tl.arange(0, C)
    at = site + t * chains
    re = tl.load(green + 2 * at, mask=t < own, other=0.0)
    return re, tl.load(green + 2 * at + 1, mask=t < own, other=0.0)


@triton.jit
def propagator(hopping, green, site, chains, own, C: tl.constexpr):
    """P [C, C] and gamma [C], then the same one row up (P_{t-1,j} and gamma_{t-1}, from 0 and 1)."""
    col = tl.arange(0, C)
    rows = tl.arange(0, C)[:, None]
    p_re = tl.full([C, C], 0.0, tl.float32)
    p_im = tl.full([C, C], 0.0, tl.float32)
    up_re = tl.full([C, C], 0.0, tl.float32)
    up_im = tl.full([C, C], 0.0, tl.float32)
    r_re = tl.full([C], 0.0, tl.float32)
    r_im = tl.full([C], 0.0, tl.float32)
    g_re = tl.full([C], 0.0, tl.float32)
    g_im = tl.full([C], 0.0, tl.float32)
    h_re = tl.full([C], 0.0, tl.float32)
    h_im = tl.full([C], 0.0, tl.float32)
    s_re = tl.full([C], 1.0, tl.float32)  # gamma of the row, in every entry
    s_im = tl.full([C], 0.0, tl.float32)
    for t in range(C):
        t_re, t_im = transmission(hopping, green, site, chains, t, own)
        up_re, up_im = tl.where(rows == t, r_re[None, :], up_re), tl.where(rows == t, r_im[None, :], up_im)
        h_re, h_im = tl.where(col == t, s_re, h_re), tl.where(col == t, s_im, h_im)
        r_re, r_im = multiply(t_re, t_im, r_re, r_im)
        r_re, r_im = tl.where(col == t, 1.0, r_re), tl.where(col == t, 0.0, r_im)
        s_re, s_im = multiply(t_re, t_im, s_re, s_im)
        p_re, p_im = tl.where(rows == t, r_re[None, :], p_re), tl.where(rows == t, r_im[None, :], p_im)
        g_re, g_im = tl.where(col == t, s_re, g_re), tl.where(col == t, s_im, g_im)
    return p_re, p_im, g_re, g_im, up_re, up_im, h_re, h_im


@triton.jit
def load_tile(pointer, site, chains, size, low, own, C: tl.constexpr, BLOCK: tl.constexpr):
    """Columns low ... low + BLOCK of a chunk of [B, T, H, size], in its own dtype; 0 outside."""
    t = tl.arange(0, C)[:, None]
    column = low + tl.arange(0, BLOCK)[None, :]
    return tl.load(pointer + (site + t * chains) * size + column, mask=(t < own) & (column < size), other=0.0)


@triton.jit
def store_tile(pointer, tile, site, chains, size, low, own, C: tl.constexpr, BLOCK: tl.constexpr):
    t = tl.arange(0, C)[:, None]
    column = low + tl.arange(0, BLOCK)[None, :]
    tl.store(pointer + (site + t * chains) * size + column, tile, mask=(t < own) & (column < size))


@triton.jit
def load_pairs(pointer, site, chains, size, low, own, C: tl.constexpr, BLOCK: tl.constexpr):
    """As `load_tile`, of complex [B, T, H, size]."""
    t = tl.arange(0, C)[:, None]
    column = low + tl.arange(0, BLOCK)[None, :]
    at = pointer + 2 * ((site + t * chains) * size + column)
    mask = (t < own) & (column < size)
    return tl.load(at, mask=mask, other=0.0), tl.load(at + 1, mask=mask, other=0.0)


@triton.jit
def state_tile(keys, values, k_low, v_low, BK: tl.constexpr, BV: tl.constexpr):
    """Offsets and mask of a tile of a plane [K, V]."""
    row = k_low + tl.arange(0, BK)[:, None]
    column = v_low + tl.arange(0, BV)[None, :]
    return row * values + column, (row < keys) & (column < values)


@triton.jit
def load_state(states, chunk, keys, values, k_low, v_low, BK: tl.constexpr, BV: tl.constexpr):
    """A tile of the state of a chunk, real and imaginary part."""
    at, mask = state_tile(keys, values, k_low, v_low, BK, BV)
    plane = states + chunk.to(tl.int64) * 2 * keys * values + at
    return tl.load(plane, mask=mask, other=0.0), tl.load(plane + keys * values, mask=mask, other=0.0)


@triton.jit
def store_state(states, re, im, chunk, keys, values, k_low, v_low, BK: tl.constexpr, BV: tl.constexpr):
    at, mask = state_tile(keys, values, k_low, v_low, BK, BV)
    plane = states + chunk.to(tl.int64) * 2 * keys * values + at
    tl.store(plane, re, mask=mask)
    tl.store(plane + keys * values, im, mask=mask)


@triton.jit
def chunk_of(chunk, sites, heads, count, C: tl.constexpr):
    """First site of a chunk, as an offset into [B, T, H], and how many sites it has. Chunks are numbered [B, H, N]."""
    first = chunk % count * C
    row = (chunk // (count * heads)).to(tl.int64)
    return (row * sites + first) * heads + chunk // count % heads, tl.minimum(sites - first, C)


@triton.jit
def score_tile(query, key, site, heads, keys, own, C: tl.constexpr, BK: tl.constexpr):
    """A = Q K^T [C, C]."""
    scores = tl.full([C, C], 0.0, tl.float32)
    for k_low in range(0, keys, BK):
        q = load_tile(query, site, heads, keys, k_low, own, C, BK)
        scores += score(q, load_tile(key, site, heads, keys, k_low, own, C, BK))
    return scores
