"""Triton kernels of the surface Green's function and its exact adjoint.

Shape legend: B batch, T sites, H chains, N pieces of a chain, lanes = B N H (see `triton_kernels.py`).

The map of a piece. Let G be the resolvent of the sites s..e of the piece alone. A chain with the surface Green's
function L in front of it couples to site s by b_s, and the resolvent of the joined chain has the corner (Dyson's
equation, or decimation of the piece)

    L_e = G_ee + b_s^2 G_es^2 L / (1 - b_s^2 G_ss L)

With E = b_s G_es and s = b_s^2 G_ss, one sweep gives all three, from l_{s-1} = 0, E = 1, s = 0:

    l_t = 1 / (a_t - i eta_t - b_t^2 l_{t-1})        (G_ee of the sites up to t)
    s  += (b_t E)^2 l_t         E = b_t l_t E

Corner entries of a resolvent are bounded by 1/eta, a hopping of 0 makes E and what follows exactly 0, and nothing is
divided by a product of transmissions.

Adjoint (derived in `chunked.py`): the cotangent g of L obeys, from the right, with c_t = conj(b_t L_t)^2,

    g_{t-1} = Lbar_{t-1} + c_t g_t            dbar_t = -conj(L_t)^2 g_t

an affine map; that of a piece, applied from the left, is the running product P = prod c and the sum of P_t Lbar_t. L is
computed again from the state kept before each piece; while a piece is swept it waits, rounded to float32, in the memory
of two results.
"""

import torch
import triton.language as tl
from torch import Tensor

from resnet_bk.ops.triton_kernels import (
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


@launched
def summarise(potential, hopping, absorption, summary, sites, chains, count, length, lanes, BLOCK: tl.constexpr):
    """summary [6, lanes] receives l, E and s of each piece."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    zero = tl.full([BLOCK], 0.0, tl.float64)
    l_re, l_im, e_re, e_im, s_re, s_im = zero, zero, zero + 1.0, zero, zero, zero
    for t in range(length):
        mask = t < own
        a, b, eta = load_chain(potential, hopping, absorption, offset + t * chains, mask)
        n_re, n_im = green_step(a, b, eta, l_re, l_im)
        b_re, b_im = b * e_re, b * e_im
        f_re, f_im = multiply(n_re, n_im, b_re, b_im)
        p_re, p_im = multiply(b_re, b_im, f_re, f_im)
        s_re, s_im = s_re + tl.where(mask, p_re, 0.0), s_im + tl.where(mask, p_im, 0.0)
        l_re, l_im = tl.where(mask, n_re, l_re), tl.where(mask, n_im, l_im)
        e_re, e_im = tl.where(mask, f_re, e_re), tl.where(mask, f_im, e_im)
    live = lane < lanes
    store_planes(summary, lane, lanes, l_re, l_im, live)
    store_planes(summary + 2 * lanes, lane, lanes, e_re, e_im, live)
    store_planes(summary + 4 * lanes, lane, lanes, s_re, s_im, live)


@launched
def enter(summary, initial, entering, chains, count, total, lanes, BLOCK: tl.constexpr):
    """entering [2, total] receives L before each piece. A lane is a chain here, `lanes` = B H and `total` = B N H."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    l_re, l_im = load_pair(initial, lane, live)
    physical = l_im >= 0.0
    for n in range(count):
        at = (lane // chains * count + n) * chains + lane % chains
        store_planes(entering, at, total, l_re, l_im, live)
        use = live & (tl.full([BLOCK], n + 1, tl.int32) < count)
        far_re, far_im = load_planes(summary, at, total, use)
        e_re, e_im = load_planes(summary + 2 * total, at, total, use)
        s_re, s_im = load_planes(summary + 4 * total, at, total, use)
        l_re, l_im = pass_piece(l_re, l_im, far_re, far_im, e_re, e_im, s_re, s_im, physical)


@launched
def run(potential, hopping, absorption, entering, green, sites, chains, count, length, lanes, BLOCK: tl.constexpr):
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    l_re, l_im = load_planes(entering, lane, lanes, lane < lanes)
    for t in range(length):
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        l_re, l_im = green_step(a, b, eta, l_re, l_im)
        store_pair(green, at, l_re, l_im, mask)


@launched
def adjoint_summarise(
    green_bar,
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
    """summary [4, lanes] receives the product of c and what the piece's own cotangents add to g in front of it."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    l_re, l_im = load_planes(entering, lane, lanes, lane < lanes)
    zero = tl.full([BLOCK], 0.0, tl.float64)
    p_re, p_im, g_re, g_im = zero + 1.0, zero, zero, zero
    for t in range(length):
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        l_re, l_im = green_step(a, b, eta, l_re, l_im)
        n_re, n_im = multiply_conj(b * l_re, b * l_im, p_re, p_im)
        n_re, n_im = multiply_conj(b * l_re, b * l_im, n_re, n_im)
        p_re, p_im = tl.where(mask, n_re, p_re), tl.where(mask, n_im, p_im)
        x, y = load_pair(green_bar, at, mask)
        x, y = multiply(p_re, p_im, x, y)
        g_re, g_im = g_re + x, g_im + y
    live = lane < lanes
    store_planes(summary, lane, lanes, p_re, p_im, live)
    store_planes(summary + 2 * lanes, lane, lanes, g_re, g_im, live)


@launched
def adjoint_enter(summary, behind, chains, count, total, lanes, BLOCK: tl.constexpr):
    """behind [2, total] receives what later pieces add to the cotangent of L behind each piece."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    g_re = tl.full([BLOCK], 0.0, tl.float64)
    g_im = tl.full([BLOCK], 0.0, tl.float64)
    for step in range(count):
        n = count - 1 - step
        at = (lane // chains * count + n) * chains + lane % chains
        store_planes(behind, at, total, g_re, g_im, live)
        use = live & (tl.full([BLOCK], n, tl.int32) > 0)
        p_re, p_im = load_planes(summary, at, total, use)
        x, y = load_planes(summary + 2 * total, at, total, use)
        g_re, g_im = multiply(p_re, p_im, g_re, g_im)
        g_re, g_im = g_re + x, g_im + y


@launched
def adjoint_run(
    green_bar,
    potential,
    hopping,
    absorption,
    entering,
    behind,
    potential_bar,
    hopping_bar,
    absorption_bar,
    initial_bar,
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
    in_re, in_im = load_planes(entering, lane, lanes, live)
    l_re, l_im = in_re, in_im
    for i in range(length):
        mask = i < own
        at = offset + i * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        n_re, n_im = green_step(a, b, eta, l_re, l_im)
        l_re, l_im = tl.where(mask, n_re, l_re), tl.where(mask, n_im, l_im)
        tl.store(potential_bar + at, l_re, mask=mask)
        tl.store(absorption_bar + at, l_im, mask=mask)
    tl.debug_barrier()
    g_re, g_im = load_planes(behind, lane, lanes, live)
    for step in range(length):
        t = tl.full([BLOCK], length - 1 - step, tl.int32)
        mask = t < own
        at = offset + t * chains
        before_re = tl.load(potential_bar + at - chains, mask=mask & (t > 0), other=0.0)
        before_im = tl.load(absorption_bar + at - chains, mask=mask & (t > 0), other=0.0)
        before_re, before_im = tl.where(t > 0, before_re, in_re), tl.where(t > 0, before_im, in_im)
        b = load_real(hopping, at, mask)
        x, y = load_pair(green_bar, at, mask)
        c_re, c_im = minus_conj_square(l_re, l_im)
        d_re, d_im = multiply(c_re, c_im, g_re + x, g_im + y)
        tl.store(potential_bar + at, d_re, mask=mask)
        tl.store(absorption_bar + at, -d_im, mask=mask)
        tl.store(hopping_bar + at, -2.0 * b * (before_re * d_re + before_im * d_im), mask=mask)
        g_re, g_im = tl.where(mask, -b * b * d_re, g_re), tl.where(mask, -b * b * d_im, g_im)
        l_re, l_im = tl.where(mask, before_re, l_re), tl.where(mask, before_im, l_im)
    chain = lane // (chains * count) * chains + lane % chains
    store_pair(initial_bar, chain, g_re, g_im, live & (lane // chains % count == 0))


def forward(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """L complex64 [B, T, H] and the states before each piece, float64 [2, B, N, H]."""
    batch, sites, chains = potential.shape
    count, length, device = pieces(*potential.shape), piece_length(*potential.shape), potential.device
    chain = tuple(map(real, (potential, hopping, absorption)))
    green = torch.empty(potential.shape, dtype=torch.complex64, device=device)
    entering = torch.empty((2, batch, count, chains), dtype=torch.float64, device=device)
    shape, lanes = (sites, chains, count, length), batch * count * chains
    summary = torch.empty((6 if count > 1 else 0, batch, count, chains), dtype=torch.float64, device=device)
    if count > 1:
        sweep(summarise, device, lanes, *chain, summary, *shape)
    sweep(enter, device, batch * chains, summary, real(initial), entering, chains, count, lanes)
    sweep(run, device, lanes, *chain, entering, real(green), *shape)
    return green, entering


def backward(
    green_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, entering: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cotangents of potential, hopping and absorption, float32, and of the initial state, complex64."""
    batch, sites, chains = potential.shape
    count, length, device = entering.shape[2], piece_length(*potential.shape), potential.device
    inputs = tuple(map(real, (green_bar, potential, hopping, absorption)))
    bars = [torch.empty(potential.shape, dtype=torch.float32, device=device) for _ in range(3)]
    initial_bar = torch.empty((batch, chains), dtype=torch.complex64, device=device)
    behind = torch.zeros_like(entering)
    shape, lanes = (sites, chains, count, length), batch * count * chains
    if count > 1:
        summary = torch.empty((4, batch, count, chains), dtype=torch.float64, device=device)
        sweep(adjoint_summarise, device, lanes, *inputs, entering, summary, *shape)
        sweep(adjoint_enter, device, batch * chains, summary, behind, chains, count, lanes)
    sweep(adjoint_run, device, lanes, *inputs, entering, behind, *bars, real(initial_bar), *shape)
    return bars[0], bars[1], bars[2], initial_bar
