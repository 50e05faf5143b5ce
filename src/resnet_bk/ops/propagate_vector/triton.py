"""Triton kernels of the vector state and its exact adjoint, fused with the surface Green's function.

Shape legend: B batch, T sites, H chains, N pieces of a chain, lanes = B N H (see `triton_kernels.py`).

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1}),   psi_t = L_t (u_t + b_t psi_{t-1})

The map of a piece s..e, in the notation of `surface_green/triton.py`: with x = G u for the piece alone, far = x_e and
near = b_s x_s, a chain with L and psi in front of it gives

    psi_e = far + E (psi + L near) / (1 - s L)

(the last site before the piece then holds y = psi + L (near + s y), and sends b_s y to site s). One sweep gives both:
far_t = l_t (u_t + b_t far_{t-1}), near += b_t E_{t-1} far_t.

Adjoint (derived in `cpu.py`). The cotangents that flow to the left obey, with alpha = conj(b_t L_t) and
beta = b_t^2 conj(psi_t L_t),

    p_{t-1} = alpha (p_t + psibar_t)          g_{t-1} = alpha^2 g_t + beta (p_t + psibar_t)

The map of a piece, (p, g) -> (A p + P, A^2 g + C p + D), is put together from the left: A' = A alpha,
C' = A^2 beta + C alpha, P' = P + A' psibar, D' = D + C' psibar. L and psi are computed again from the state kept before
each piece; while a piece is swept they wait, rounded to float32, in the memory of the results.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnet_bk.ops.triton_kernels import (
    divide,
    green_step,
    launched,
    load_chain,
    load_pair,
    load_planes,
    load_real,
    minus_conj_square,
    multiply,
    multiply_conj,
    pass_piece,
    piece_of,
    real,
    store_pair,
    store_planes,
    sweep,
)
from resnet_bk.ops.triton_sizes import piece_length, pieces


@triton.jit
def psi_step(u, b, l_re, l_im, p_re, p_im):
    """psi_t from psi_{t-1} and L_t."""
    return multiply(l_re, l_im, u + b * p_re, b * p_im)


@launched
def summarise(
    source, potential, hopping, absorption, summary, sites, chains, count, length, lanes, BLOCK: tl.constexpr
):
    """summary [10, lanes] receives l, E, s, far and near of each piece."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    zero = tl.full([BLOCK], 0.0, tl.float64)
    l_re, l_im, e_re, e_im, s_re, s_im = zero, zero, zero + 1.0, zero, zero, zero
    f_re, f_im, n_re, n_im = zero, zero, zero, zero
    for t in range(length):
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        u = load_real(source, at, mask)
        x, y = green_step(a, b, eta, l_re, l_im)
        l_re, l_im = tl.where(mask, x, l_re), tl.where(mask, y, l_im)
        x, y = psi_step(u, b, l_re, l_im, f_re, f_im)
        f_re, f_im = tl.where(mask, x, f_re), tl.where(mask, y, f_im)
        b_re, b_im = b * e_re, b * e_im  # 0 where there is no site
        x, y = multiply(b_re, b_im, f_re, f_im)
        n_re, n_im = n_re + x, n_im + y
        x, y = multiply(l_re, l_im, b_re, b_im)
        e_re, e_im = tl.where(mask, x, e_re), tl.where(mask, y, e_im)
        x, y = multiply(b_re, b_im, e_re, e_im)
        s_re, s_im = s_re + x, s_im + y
    live = lane < lanes
    store_planes(summary, lane, lanes, l_re, l_im, live)
    store_planes(summary + 2 * lanes, lane, lanes, e_re, e_im, live)
    store_planes(summary + 4 * lanes, lane, lanes, s_re, s_im, live)
    store_planes(summary + 6 * lanes, lane, lanes, f_re, f_im, live)
    store_planes(summary + 8 * lanes, lane, lanes, n_re, n_im, live)


@launched
def enter(summary, initial_green, initial_psi, entering, chains, count, total, lanes, BLOCK: tl.constexpr):
    """entering [4, total] receives L and psi before each piece. A lane is a chain here, `lanes` = B H and
    `total` = B N H."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    l_re, l_im = load_pair(initial_green, lane, live)
    p_re, p_im = load_pair(initial_psi, lane, live)
    physical = l_im >= 0.0
    for n in range(count):
        at = (lane // chains * count + n) * chains + lane % chains
        store_planes(entering, at, total, l_re, l_im, live)
        store_planes(entering + 2 * total, at, total, p_re, p_im, live)
        use = live & (tl.full([BLOCK], n + 1, tl.int32) < count)
        far_re, far_im = load_planes(summary, at, total, use)
        e_re, e_im = load_planes(summary + 2 * total, at, total, use)
        s_re, s_im = load_planes(summary + 4 * total, at, total, use)
        f_re, f_im = load_planes(summary + 6 * total, at, total, use)
        n_re, n_im = load_planes(summary + 8 * total, at, total, use)
        x, y = multiply(l_re, l_im, n_re, n_im)
        d_re, d_im = multiply(l_re, l_im, s_re, s_im)
        x, y = divide(p_re + x, p_im + y, 1.0 - d_re, -d_im)
        x, y = multiply(e_re, e_im, x, y)
        p_re, p_im = f_re + x, f_im + y
        l_re, l_im = pass_piece(l_re, l_im, far_re, far_im, e_re, e_im, s_re, s_im, physical)


@launched
def run(
    source,
    potential,
    hopping,
    absorption,
    entering,
    psi,
    last_green,
    sites,
    chains,
    count,
    length,
    lanes,
    BLOCK: tl.constexpr,
):
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    l_re, l_im = load_planes(entering, lane, lanes, live)
    p_re, p_im = load_planes(entering + 2 * lanes, lane, lanes, live)
    for t in range(length):
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        u = load_real(source, at, mask)
        x, y = green_step(a, b, eta, l_re, l_im)
        l_re, l_im = tl.where(mask, x, l_re), tl.where(mask, y, l_im)
        p_re, p_im = psi_step(u, b, l_re, l_im, p_re, p_im)
        store_pair(psi, at, p_re, p_im, mask)
    chain = lane // (chains * count) * chains + lane % chains
    store_pair(last_green, chain, l_re, l_im, live & (lane // chains % count == count - 1))


@launched
def adjoint_summarise(
    psi_bar,
    source,
    potential,
    hopping,
    absorption,
    entering,
    summary,
    sites,
    chains,
    count,
    length,
    lanes,
    BLOCK: tl.constexpr,
):
    """summary [8, lanes] receives A, C, P and D of each piece."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    l_re, l_im = load_planes(entering, lane, lanes, live)
    p_re, p_im = load_planes(entering + 2 * lanes, lane, lanes, live)
    zero = tl.full([BLOCK], 0.0, tl.float64)
    a_re, a_im, c_re, c_im = zero + 1.0, zero, zero, zero
    sp_re, sp_im, sd_re, sd_im = zero, zero, zero, zero
    for t in range(length):
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        u = load_real(source, at, mask)
        l_re, l_im = green_step(a, b, eta, l_re, l_im)
        p_re, p_im = psi_step(u, b, l_re, l_im, p_re, p_im)
        t_re, t_im = b * l_re, b * l_im
        n_re, n_im = multiply_conj(t_re, t_im, a_re, a_im)  # A alpha
        x, y = multiply(a_re, a_im, n_re, n_im)
        x, y = multiply_conj(b * p_re, b * p_im, x, y)  # A^2 beta = conj(b psi) A (A alpha)
        z_re, z_im = multiply_conj(t_re, t_im, c_re, c_im)
        c_re, c_im = tl.where(mask, x + z_re, c_re), tl.where(mask, y + z_im, c_im)
        a_re, a_im = tl.where(mask, n_re, a_re), tl.where(mask, n_im, a_im)
        bar_re, bar_im = load_pair(psi_bar, at, mask)
        x, y = multiply(a_re, a_im, bar_re, bar_im)
        sp_re, sp_im = sp_re + x, sp_im + y
        x, y = multiply(c_re, c_im, bar_re, bar_im)
        sd_re, sd_im = sd_re + x, sd_im + y
    store_planes(summary, lane, lanes, a_re, a_im, live)
    store_planes(summary + 2 * lanes, lane, lanes, c_re, c_im, live)
    store_planes(summary + 4 * lanes, lane, lanes, sp_re, sp_im, live)
    store_planes(summary + 6 * lanes, lane, lanes, sd_re, sd_im, live)


@launched
def adjoint_enter(summary, green_bar, behind, chains, count, total, lanes, BLOCK: tl.constexpr):
    """behind [4, total] receives g and p behind each piece; behind the last one g is the cotangent of the last L."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    g_re, g_im = load_pair(green_bar, lane, live)
    p_re = tl.full([BLOCK], 0.0, tl.float64)
    p_im = tl.full([BLOCK], 0.0, tl.float64)
    for step in range(count):
        n = count - 1 - step
        at = (lane // chains * count + n) * chains + lane % chains
        store_planes(behind, at, total, g_re, g_im, live)
        store_planes(behind + 2 * total, at, total, p_re, p_im, live)
        use = live & (tl.full([BLOCK], n, tl.int32) > 0)
        a_re, a_im = load_planes(summary, at, total, use)
        c_re, c_im = load_planes(summary + 2 * total, at, total, use)
        x, y = multiply(a_re, a_im, g_re, g_im)
        x, y = multiply(a_re, a_im, x, y)
        g_re, g_im = multiply(c_re, c_im, p_re, p_im)
        g_re, g_im = g_re + x, g_im + y
        x, y = load_planes(summary + 6 * total, at, total, use)
        g_re, g_im = g_re + x, g_im + y
        p_re, p_im = multiply(a_re, a_im, p_re, p_im)
        x, y = load_planes(summary + 4 * total, at, total, use)
        p_re, p_im = p_re + x, p_im + y


@launched
def adjoint_run(
    psi_bar,
    source,
    potential,
    hopping,
    absorption,
    entering,
    behind,
    source_bar,
    potential_bar,
    hopping_bar,
    absorption_bar,
    initial_green_bar,
    initial_psi_bar,
    sites,
    chains,
    count,
    length,
    lanes,
    BLOCK: tl.constexpr,
):
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    l_re0, l_im0 = load_planes(entering, lane, lanes, live)
    s_re0, s_im0 = load_planes(entering + 2 * lanes, lane, lanes, live)
    l_re, l_im, s_re, s_im = l_re0, l_im0, s_re0, s_im0  # s: psi
    for i in range(length):
        mask = i < own
        at = offset + i * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        u = load_real(source, at, mask)
        x, y = green_step(a, b, eta, l_re, l_im)
        l_re, l_im = tl.where(mask, x, l_re), tl.where(mask, y, l_im)
        x, y = psi_step(u, b, l_re, l_im, s_re, s_im)
        s_re, s_im = tl.where(mask, x, s_re), tl.where(mask, y, s_im)
        tl.store(potential_bar + at, l_re, mask=mask)
        tl.store(absorption_bar + at, l_im, mask=mask)
        tl.store(source_bar + at, s_re, mask=mask)
        tl.store(hopping_bar + at, s_im, mask=mask)
    tl.debug_barrier()
    g_re, g_im = load_planes(behind, lane, lanes, live)
    p_re, p_im = load_planes(behind + 2 * lanes, lane, lanes, live)
    for step in range(length):
        t = tl.full([BLOCK], length - 1 - step, tl.int32)
        mask = t < own
        at = offset + t * chains
        inner = mask & (t > 0)
        bl_re = tl.where(t > 0, tl.load(potential_bar + at - chains, mask=inner, other=0.0), l_re0)
        bl_im = tl.where(t > 0, tl.load(absorption_bar + at - chains, mask=inner, other=0.0), l_im0)
        bs_re = tl.where(t > 0, tl.load(source_bar + at - chains, mask=inner, other=0.0), s_re0)
        bs_im = tl.where(t > 0, tl.load(hopping_bar + at - chains, mask=inner, other=0.0), s_im0)
        b = load_real(hopping, at, mask)
        x, y = load_pair(psi_bar, at, mask)
        w_re, w_im = multiply_conj(l_re, l_im, p_re + x, p_im + y)
        x, y = minus_conj_square(l_re, l_im)
        d_re, d_im = multiply(x, y, g_re, g_im)
        x, y = multiply_conj(s_re, s_im, w_re, w_im)
        d_re, d_im = d_re - x, d_im - y
        tl.store(source_bar + at, w_re, mask=mask)
        tl.store(potential_bar + at, d_re, mask=mask)
        tl.store(absorption_bar + at, -d_im, mask=mask)
        b_bar = bs_re * w_re + bs_im * w_im - 2.0 * b * (bl_re * d_re + bl_im * d_im)
        tl.store(hopping_bar + at, b_bar, mask=mask)
        p_re, p_im = tl.where(mask, b * w_re, p_re), tl.where(mask, b * w_im, p_im)
        g_re, g_im = tl.where(mask, -b * b * d_re, g_re), tl.where(mask, -b * b * d_im, g_im)
        l_re, l_im = tl.where(mask, bl_re, l_re), tl.where(mask, bl_im, l_im)
        s_re, s_im = tl.where(mask, bs_re, s_re), tl.where(mask, bs_im, s_im)
    chain = lane // (chains * count) * chains + lane % chains
    first = live & (lane // chains % count == 0)
    store_pair(initial_green_bar, chain, g_re, g_im, first)
    store_pair(initial_psi_bar, chain, p_re, p_im, first)


def forward(
    source: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, initial_green: Tensor, initial_psi: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """psi [B, T, H] and the last L [B, H], complex64; the states before each piece, float64 [4, B, N, H]."""
    batch, sites, chains = source.shape
    count, length, device = pieces(*source.shape), piece_length(*source.shape), source.device
    inputs = tuple(map(real, (source, potential, hopping, absorption)))
    psi = torch.empty(source.shape, dtype=torch.complex64, device=device)
    last = torch.empty((batch, chains), dtype=torch.complex64, device=device)
    entering = torch.empty((4, batch, count, chains), dtype=torch.float64, device=device)
    shape, lanes = (sites, chains, count, length), batch * count * chains
    summary = torch.empty((10 if count > 1 else 0, batch, count, chains), dtype=torch.float64, device=device)
    if count > 1:
        sweep(summarise, device, lanes, *inputs, summary, *shape)
    states = real(initial_green), real(initial_psi)
    sweep(enter, device, batch * chains, summary, *states, entering, chains, count, lanes)
    sweep(run, device, lanes, *inputs, entering, real(psi), real(last), *shape)
    return psi, last, entering


def backward(
    psi_bar: Tensor,
    green_bar: Tensor,
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    entering: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cotangents of source, potential, hopping and absorption, float32, and of the states, complex64."""
    batch, sites, chains = source.shape
    count, length, device = entering.shape[2], piece_length(*source.shape), source.device
    inputs = tuple(map(real, (psi_bar, source, potential, hopping, absorption)))
    u, a, b, eta = (torch.empty(source.shape, dtype=torch.float32, device=device) for _ in range(4))
    green, psi = (torch.empty((batch, chains), dtype=torch.complex64, device=device) for _ in range(2))
    behind = torch.empty_like(entering)
    shape, lanes = (sites, chains, count, length), batch * count * chains
    summary = torch.empty((8 if count > 1 else 0, batch, count, chains), dtype=torch.float64, device=device)
    if count > 1:
        sweep(adjoint_summarise, device, lanes, *inputs, entering, summary, *shape)
    sweep(adjoint_enter, device, batch * chains, summary, real(green_bar), behind, chains, count, lanes)
    sweep(adjoint_run, device, lanes, *inputs, entering, behind, u, a, b, eta, real(green), real(psi), *shape)
    return u, a, b, eta, green, psi
