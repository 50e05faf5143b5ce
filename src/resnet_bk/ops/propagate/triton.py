"""Triton kernels of the matrix state and its exact adjoint: matmuls inside a chunk, a scan of states between chunks.

Shape legend: B batch, T sites, H heads, N chunks of C sites, K key size, V value size; BK and BV columns of a tile.

The surface Green's function comes from its own kernels (`surface_green/triton.py`); its chains are few, one a head.
With tau_t = b_t L_t and, inside a chunk that starts from the state S,

    P_tj = tau_t tau_{t-1} ... tau_{j+1}   (j <= t)        Gamma_tj = P_tj L_j        gamma_t = tau_t ... tau_first

the chunk is (A = Q K^T, and `last` for its last row)

    Y  = (A o Gamma) V + gamma Q S              S' = K^T diag(Gamma_last) V + gamma_last S

P is built row by row, only by products, so that a hopping of 0 cuts exactly and an underflow is harmless. Three
kernels: `write` (what every chunk adds to the state), `scan_states` (chunk after chunk), `read` (Y of every chunk from
the state before it). Only those states are kept: memory O(T/C K V).

Why matmuls here and a plain recurrence on the CPU: the recurrence is sequential in T with a sum over threads at every
site, and most of a GPU's arithmetic is in its matmul units. Products are formed in tf32x3, which keeps the digits of
float32.

Adjoint (bars are cotangents, dL/dRe + i dL/dIm; Z that of S', found by the scan from the right with conj(gamma_last)
of X = (conj(gamma) Q)^T Ybar, the direct part of Sbar). With M = Ybar V^T,

    Abar = Re(conj(Gamma) o M)
    Qbar = Abar K + Re(conj(gamma) Ybar S^H)            Kbar = Abar^T Q + Re(conj(Gamma_last) V Z^T)
    Vbar = Re((A o Gamma)^H Ybar) + Re(conj(Gamma_last) K Z)
    Gammabar = A o M                             (for j <= t; in the last row + rowsum(K Z o V))
    gammabar = rowsum(Ybar o conj(Q S))          (in the last row + sum(conj(S) o Z))

The rows of Gamma obey Gamma_t = tau_t Gamma_{t-1} + L_t e_t, with gamma as one more column that starts from 1. So

    R_t = Gammabar_t + conj(tau_{t+1}) R_{t+1}, or R = P^H Gammabar        Lbar_t = R_tt + b_t taubar_t
    taubar_t = sum_j conj(Gamma_{t-1,j}) R_tj                               bbar_t = Re(conj(L_t) taubar_t)

and Lbar goes through the adjoint of the surface Green's function, which adds the rest of bbar. Sites that fill up the
last chunk transmit all (tau = 1) and write nothing (L = 0): its last row is that of its last site.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnet_bk.ops.propagate.triton_adjoint import adjoint_chain, adjoint_heads, adjoint_read
from resnet_bk.ops.propagate.triton_tiles import (
    chunk_of,
    dot,
    load_green,
    load_state,
    load_tile,
    propagator,
    score,
    store_state,
    transmission,
)
from resnet_bk.ops.surface_green import triton as surface_green
from resnet_bk.ops.triton_kernels import launch, launched, multiply, multiply_conj, real
from resnet_bk.ops.triton_sizes import CHUNK

# A matmul unit takes 16 columns at least; with wider tiles, or with tiles loaded ahead, ptxas spills registers.
CONSTANTS = {"C": CHUNK, "BK": 16, "BV": 16, "num_warps": 4, "num_stages": 1}
# Numbers of a state that one program of the scan carries, one a thread.
SCAN_BLOCK = 128


@triton.jit
def last_row(hopping, green, site, chains, own, C: tl.constexpr):
    """Gamma_last [C] and gamma_last (in every entry of [C])."""
    col = tl.arange(0, C)
    r_re = tl.full([C], 0.0, tl.float32)
    r_im = tl.full([C], 0.0, tl.float32)
    s_re = tl.full([C], 1.0, tl.float32)
    s_im = tl.full([C], 0.0, tl.float32)
    for step in range(C):
        t = C - 1 - step
        r_re, r_im = tl.where(col == t, s_re, r_re), tl.where(col == t, s_im, r_im)
        t_re, t_im = transmission(hopping, green, site, chains, t, own)
        s_re, s_im = multiply(t_re, t_im, s_re, s_im)
    l_re, l_im = load_green(green, site, chains, own, C)
    r_re, r_im = multiply(r_re, r_im, l_re, l_im)
    return r_re, r_im, s_re, s_im


@launched
def write(
    key,
    value,
    hopping,
    green,
    states,
    factors,
    sites,
    heads,
    count,
    keys,
    values,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """states [B, H, N, 2, K, V] receives what a chunk adds to the state, factors [B, H, N, 2] gamma_last."""
    tiles = (values + BV - 1) // BV
    chunk, v_low = tl.program_id(0) // tiles, tl.program_id(0) % tiles * BV
    site, own = chunk_of(chunk, sites, heads, count, C)
    r_re, r_im, s_re, s_im = last_row(hopping, green, site, heads, own, C)
    one = tl.arange(0, C)
    tl.store(factors + 2 * chunk + one, tl.where(one == 0, s_re, s_im), mask=one < 2)
    v = load_tile(value, site, heads, values, v_low, own, C, BV).to(tl.float32)
    for k_low in range(0, keys, BK):
        k = tl.trans(load_tile(key, site, heads, keys, k_low, own, C, BK).to(tl.float32))
        w_re = dot(k, r_re[:, None] * v)
        w_im = dot(k, r_im[:, None] * v)
        store_state(states, w_re, w_im, chunk, keys, values, k_low, v_low, BK, BV)


@launched
def scan_states(states, factors, initial, final, count, size, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """Replaces what each chunk adds by the state before it, for `size` = K V numbers; with REVERSE from the right, with
    conjugate factors: the state behind it. initial and final are complex [B, H, K, V]."""
    tiles = (size + BLOCK - 1) // BLOCK
    head = tl.program_id(0) // tiles
    column = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    ends = head.to(tl.int64) * size + column
    s_re = tl.load(initial + 2 * ends, mask=mask, other=0.0)
    s_im = tl.load(initial + 2 * ends + 1, mask=mask, other=0.0)
    for step in range(count):
        chunk = head * count + step
        if REVERSE:
            chunk = head * count + count - 1 - step
        plane = states + chunk.to(tl.int64) * 2 * size + column
        x, y = tl.load(plane, mask=mask, other=0.0), tl.load(plane + size, mask=mask, other=0.0)
        f_re, f_im = tl.load(factors + 2 * chunk), tl.load(factors + 2 * chunk + 1)
        tl.store(plane, s_re, mask=mask)
        tl.store(plane + size, s_im, mask=mask)
        if REVERSE:
            s_re, s_im = multiply_conj(f_re, f_im, s_re, s_im)
        else:
            s_re, s_im = multiply(f_re, f_im, s_re, s_im)
        s_re, s_im = s_re + x, s_im + y
    tl.store(final + 2 * ends, s_re, mask=mask)
    tl.store(final + 2 * ends + 1, s_im, mask=mask)


@launched
def read(
    query,
    key,
    value,
    hopping,
    green,
    states,
    output,
    sites,
    heads,
    count,
    keys,
    values,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    tiles = (values + BV - 1) // BV
    chunk, v_low = tl.program_id(0) // tiles, tl.program_id(0) % tiles * BV
    site, own = chunk_of(chunk, sites, heads, count, C)
    p_re, p_im, g_re, g_im, _, _, _, _ = propagator(hopping, green, site, heads, own, C)
    scores = tl.full([C, C], 0.0, tl.float32)
    s_re = tl.full([C, BV], 0.0, tl.float32)
    s_im = tl.full([C, BV], 0.0, tl.float32)
    for k_low in range(0, keys, BK):
        q = load_tile(query, site, heads, keys, k_low, own, C, BK)
        k = load_tile(key, site, heads, keys, k_low, own, C, BK)
        scores += score(q, k)
        m_re, m_im = load_state(states, chunk, keys, values, k_low, v_low, BK, BV)
        s_re += dot(q.to(tl.float32), m_re)
        s_im += dot(q.to(tl.float32), m_im)
    l_re, l_im = load_green(green, site, heads, own, C)
    p_re, p_im = multiply(p_re, p_im, l_re[None, :], l_im[None, :])
    v = load_tile(value, site, heads, values, v_low, own, C, BV).to(tl.float32)
    y_re, y_im = multiply(g_re[:, None], g_im[:, None], s_re, s_im)
    y_re += dot(scores * p_re, v)
    y_im += dot(scores * p_im, v)
    t = tl.arange(0, C)[:, None]
    column = v_low + tl.arange(0, BV)[None, :]
    at = output + 2 * ((site + t * heads) * values + column)
    mask = (t < own) & (column < values)
    tl.store(at, y_re, mask=mask)
    tl.store(at + 1, y_im, mask=mask)


def _inputs(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Query, key and value as kernels read them, in one dtype."""
    mixed = len({x.dtype for x in tensors}) > 1
    return tuple(real(x.float() if mixed else x) for x in tensors)


def _scan(states: Tensor, factors: Tensor, initial: Tensor, final: Tensor, reverse: bool) -> None:
    batch, heads, count, _, keys, values = states.shape
    size = keys * values
    programs = batch * heads * triton.cdiv(size, SCAN_BLOCK)
    arguments = (states, factors, real(initial), real(final), count, size)
    launch(scan_states, states.device, programs, *arguments, REVERSE=reverse, BLOCK=SCAN_BLOCK, num_warps=4)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y [B, T, H, V], the last L [B, H] and the last S [B, H, K, V], complex64; for the adjoint L [B, T, H], its states
    before each piece, S before each chunk, float32 [B, H, N, 2, K, V], and gamma_last, float32 [B, H, N, 2]."""
    batch, sites, heads, keys = query.shape
    values, device = value.shape[3], query.device
    count = triton.cdiv(sites, CHUNK)
    green, entering = surface_green.forward(potential, hopping, absorption, initial_green)
    q, k, v = _inputs(query, key, value)
    states = torch.empty((batch, heads, count, 2, keys, values), dtype=torch.float32, device=device)
    factors = torch.empty((batch, heads, count, 2), dtype=torch.float32, device=device)
    memory = torch.empty((batch, heads, keys, values), dtype=torch.complex64, device=device)
    output = torch.empty(value.shape, dtype=torch.complex64, device=device)
    chain, shape = (real(hopping), real(green)), (sites, heads, count, keys, values)
    programs = batch * heads * count * triton.cdiv(values, CONSTANTS["BV"])
    launch(write, device, programs, k, v, *chain, states, factors, *shape, **CONSTANTS)
    _scan(states, factors, initial_memory, memory, False)
    launch(read, device, programs, q, k, v, *chain, states, real(output), *shape, **CONSTANTS)
    last = torch.empty((batch, heads), dtype=torch.complex64, device=device).copy_(green[:, -1])
    return output, last, memory, green, entering, states, factors


def backward(
    output_bar: Tensor | None,
    last_green_bar: Tensor | None,
    memory_bar: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    green: Tensor,
    entering: Tensor,
    states: Tensor,
    factors: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cotangents of the eight inputs from those of y, the last L and the last S; None stands for zeros."""
    batch, sites, heads, keys = query.shape
    values, device = value.shape[3], query.device
    count = states.shape[2]
    q, k, v = _inputs(query, key, value)
    bars = [torch.empty(x.shape, dtype=x.dtype, device=device) for x in (query, key, value)]
    hopping_bar = torch.empty(hopping.shape, dtype=torch.float32, device=device)
    green_bar = torch.empty_like(green)
    initial_memory_bar = torch.empty((batch, heads, keys, values), dtype=torch.complex64, device=device)
    if output_bar is None:
        output_bar = torch.zeros(value.shape, dtype=torch.complex64, device=device)
    if memory_bar is None:
        memory_bar = torch.zeros_like(initial_memory_bar)
    y_bar, chain, shape = real(output_bar), (real(hopping), real(green)), (sites, heads, count, keys, values)
    states_bar = torch.empty_like(states)
    programs = batch * heads * count
    tiles = programs * triton.cdiv(values, CONSTANTS["BV"])
    launch(adjoint_read, device, tiles, q, y_bar, *chain, states_bar, *shape, **CONSTANTS)
    _scan(states_bar, factors, memory_bar, initial_memory_bar, True)
    inputs = (q, k, v, y_bar, *chain, states, states_bar)
    launch(adjoint_chain, device, programs, *inputs, hopping_bar, real(green_bar), *shape, **CONSTANTS)
    launch(adjoint_heads, device, programs, *inputs, *bars, *shape, **CONSTANTS)
    if last_green_bar is not None:
        green_bar[:, -1] += last_green_bar
    a, b, eta, initial_green_bar = surface_green.backward(green_bar, potential, hopping, absorption, entering)
    return bars[0], bars[1], bars[2], a, b + hopping_bar, eta, initial_green_bar, initial_memory_bar
