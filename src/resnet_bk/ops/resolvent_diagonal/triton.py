"""Triton kernels of the two-sided diagonal of the resolvent and its exact adjoint.

Shape legend: B batch, T sites, H chains, N pieces of a chain, lanes = B N H (see `triton_kernels.py`).

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1})       R_t = 1 / (a_t - i eta_t - r_t),   r_t = b_{t+1}^2 R_{t+1}
    G_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1} - r_t)

The summary of a piece, (l, E, s) of `surface_green/triton.py`, serves both directions: a piece with r behind it hands

    s + E^2 r / (1 - l r)

to the piece before it, where the roles of its two corners are exchanged. A lane sweeps to the right for L, which waits
in the memory of the result, then to the left for R and G.

Adjoint (derived in `cpu.py`). With D, E, F for the cotangents of the denominators of G, L and R, the carries are
lambda_t, the cotangent of L_t, from the right, and nu_t = -(D_t + F_t), the cotangent of r_t, from the left:

    E_t = -conj(L_t)^2 lambda_t                             F_t = -conj(b_t R_t)^2 nu_{t-1}      (r_{t-1} = b_t^2 R_t)
    lambda_{t-1} = -b_t^2 D_t + conj(b_t L_t)^2 lambda_t
    nu_t = -D_t + conj(b_t R_t)^2 nu_{t-1}
    abar_t - i etabar_t = D_t + E_t + F_t  (Re and Im apart)
    bbar_t = -2 b_t Re[conj(L_{t-1}) (D_t + E_t)] + 2 b_t Re[conj(R_t) nu_{t-1}]

Both maps of a piece are affine. L, R and G are computed again from the states kept before and behind each piece.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resnet_bk.ops.surface_green.triton import summarise
from resnet_bk.ops.triton_kernels import (
    green_step,
    invert,
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
def enter(summary, entering, chains, count, total, lanes, BLOCK: tl.constexpr):
    """entering [4, total] receives L before each piece and r behind it; both ends of the chain see nothing. A lane is a
    chain here, `lanes` = B H and `total` = B N H."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    l_re = tl.full([BLOCK], 0.0, tl.float64)
    l_im = tl.full([BLOCK], 0.0, tl.float64)
    r_re = tl.full([BLOCK], 0.0, tl.float64)
    r_im = tl.full([BLOCK], 0.0, tl.float64)
    for n in range(count):
        at = (lane // chains * count + n) * chains + lane % chains
        store_planes(entering, at, total, l_re, l_im, live)
        use = live & (tl.full([BLOCK], n + 1, tl.int32) < count)
        far_re, far_im = load_planes(summary, at, total, use)
        e_re, e_im = load_planes(summary + 2 * total, at, total, use)
        s_re, s_im = load_planes(summary + 4 * total, at, total, use)
        l_re, l_im = pass_piece(l_re, l_im, far_re, far_im, e_re, e_im, s_re, s_im, live)
        at = (lane // chains * count + count - 1 - n) * chains + lane % chains
        store_planes(entering + 2 * total, at, total, r_re, r_im, live)
        far_re, far_im = load_planes(summary, at, total, use)
        e_re, e_im = load_planes(summary + 2 * total, at, total, use)
        s_re, s_im = load_planes(summary + 4 * total, at, total, use)
        r_re, r_im = pass_piece(r_re, r_im, s_re, s_im, e_re, e_im, far_re, far_im, live)


@launched
def run(potential, hopping, absorption, entering, diagonal, sites, chains, count, length, lanes, BLOCK: tl.constexpr):
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    in_re, in_im = load_planes(entering, lane, lanes, live)
    l_re, l_im = in_re, in_im
    for i in range(length):
        mask = i < own
        at = offset + i * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        l_re, l_im = green_step(a, b, eta, l_re, l_im)
        store_pair(diagonal, at, l_re, l_im, mask)
    tl.debug_barrier()
    r_re, r_im = load_planes(entering + 2 * lanes, lane, lanes, live)
    for step in range(length):
        t = tl.full([BLOCK], length - 1 - step, tl.int32)
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        l_re, l_im = load_pair(diagonal, at - chains, mask & (t > 0))
        l_re, l_im = tl.where(t > 0, l_re, in_re), tl.where(t > 0, l_im, in_im)
        x, y = a - r_re, eta + r_im
        g_re, g_im = invert(x - b * b * l_re, y + b * b * l_im)
        store_pair(diagonal, at, g_re, g_im, mask)
        x, y = invert(x, y)
        r_re, r_im = tl.where(mask, b * b * x, r_re), tl.where(mask, b * b * y, r_im)


@triton.jit
def adjoint_site(a, b, eta, l_re, l_im, r_re, r_im, bar_re, bar_im):
    """R_t and D_t from L_{t-1}, r_t and the cotangent of G_t."""
    x, y = a - r_re, eta + r_im
    g_re, g_im = invert(x - b * b * l_re, y + b * b * l_im)
    g_re, g_im = minus_conj_square(g_re, g_im)
    d_re, d_im = multiply(g_re, g_im, bar_re, bar_im)
    r_re, r_im = invert(x, y)
    return r_re, r_im, d_re, d_im


@launched
def adjoint_summarise(
    diagonal_bar,
    potential,
    hopping,
    absorption,
    entering,
    scratch_re,
    scratch_im,
    summary,
    sites,
    chains,
    count,
    length,
    lanes,
    BLOCK: tl.constexpr,
):
    """summary [8, lanes] receives the factor and the constant of the map of lambda, then those of nu."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    in_re, in_im = load_planes(entering, lane, lanes, live)
    l_re, l_im = in_re, in_im
    for i in range(length):
        mask = i < own
        at = offset + i * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        x, y = green_step(a, b, eta, l_re, l_im)
        l_re, l_im = tl.where(mask, x, l_re), tl.where(mask, y, l_im)
        tl.store(scratch_re + at, l_re, mask=mask)
        tl.store(scratch_im + at, l_im, mask=mask)
    tl.debug_barrier()
    zero = tl.full([BLOCK], 0.0, tl.float64)
    p_re, p_im, c_re, c_im = zero + 1.0, zero, zero, zero
    q_re, q_im, n_re, n_im = zero + 1.0, zero, zero, zero
    r_re, r_im = load_planes(entering + 2 * lanes, lane, lanes, live)
    for step in range(length):
        t = tl.full([BLOCK], length - 1 - step, tl.int32)
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        before_re = tl.where(t > 0, tl.load(scratch_re + at - chains, mask=mask & (t > 0), other=0.0), in_re)
        before_im = tl.where(t > 0, tl.load(scratch_im + at - chains, mask=mask & (t > 0), other=0.0), in_im)
        x, y = load_pair(diagonal_bar, at, mask)
        f_re, f_im, d_re, d_im = adjoint_site(a, b, eta, before_re, before_im, r_re, r_im, x, y)
        x, y = multiply_conj(b * l_re, b * l_im, c_re, c_im)
        x, y = multiply_conj(b * l_re, b * l_im, x, y)
        c_re, c_im = tl.where(mask, x - b * b * d_re, c_re), tl.where(mask, y - b * b * d_im, c_im)
        x, y = multiply_conj(b * l_re, b * l_im, p_re, p_im)
        x, y = multiply_conj(b * l_re, b * l_im, x, y)
        p_re, p_im = tl.where(mask, x, p_re), tl.where(mask, y, p_im)
        x, y = multiply(q_re, q_im, d_re, d_im)
        n_re, n_im = tl.where(mask, n_re - x, n_re), tl.where(mask, n_im - y, n_im)
        x, y = multiply_conj(b * f_re, b * f_im, q_re, q_im)
        x, y = multiply_conj(b * f_re, b * f_im, x, y)
        q_re, q_im = tl.where(mask, x, q_re), tl.where(mask, y, q_im)
        r_re, r_im = tl.where(mask, b * b * f_re, r_re), tl.where(mask, b * b * f_im, r_im)
        l_re, l_im = tl.where(mask, before_re, l_re), tl.where(mask, before_im, l_im)
    store_planes(summary, lane, lanes, p_re, p_im, live)
    store_planes(summary + 2 * lanes, lane, lanes, c_re, c_im, live)
    store_planes(summary + 4 * lanes, lane, lanes, q_re, q_im, live)
    store_planes(summary + 6 * lanes, lane, lanes, n_re, n_im, live)


@launched
def adjoint_enter(summary, carries, chains, count, total, lanes, BLOCK: tl.constexpr):
    """carries [4, total] receives lambda behind each piece and nu before it."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    l_re = tl.full([BLOCK], 0.0, tl.float64)
    l_im = tl.full([BLOCK], 0.0, tl.float64)
    n_re = tl.full([BLOCK], 0.0, tl.float64)
    n_im = tl.full([BLOCK], 0.0, tl.float64)
    for n in range(count):
        use = live & (tl.full([BLOCK], n + 1, tl.int32) < count)
        at = (lane // chains * count + count - 1 - n) * chains + lane % chains
        store_planes(carries, at, total, l_re, l_im, live)
        p_re, p_im = load_planes(summary, at, total, use)
        x, y = load_planes(summary + 2 * total, at, total, use)
        l_re, l_im = multiply(p_re, p_im, l_re, l_im)
        l_re, l_im = l_re + x, l_im + y
        at = (lane // chains * count + n) * chains + lane % chains
        store_planes(carries + 2 * total, at, total, n_re, n_im, live)
        p_re, p_im = load_planes(summary + 4 * total, at, total, use)
        x, y = load_planes(summary + 6 * total, at, total, use)
        n_re, n_im = multiply(p_re, p_im, n_re, n_im)
        n_re, n_im = n_re + x, n_im + y


@launched
def adjoint_run(
    diagonal_bar,
    potential,
    hopping,
    absorption,
    entering,
    carries,
    right,
    denominators,
    potential_bar,
    hopping_bar,
    absorption_bar,
    sites,
    chains,
    count,
    length,
    lanes,
    BLOCK: tl.constexpr,
):
    """right and denominators [B, T, H, 2] hand R and D from the sweep to the left to the one to the right."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < lanes
    offset, own = piece_of(lane, sites, chains, count, length, lanes)
    in_re, in_im = load_planes(entering, lane, lanes, live)
    l_re, l_im = in_re, in_im
    for i in range(length):
        mask = i < own
        at = offset + i * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        x, y = green_step(a, b, eta, l_re, l_im)
        l_re, l_im = tl.where(mask, x, l_re), tl.where(mask, y, l_im)
        tl.store(potential_bar + at, l_re, mask=mask)
        tl.store(absorption_bar + at, l_im, mask=mask)
    tl.debug_barrier()
    r_re, r_im = load_planes(entering + 2 * lanes, lane, lanes, live)
    c_re, c_im = load_planes(carries, lane, lanes, live)  # lambda
    for step in range(length):
        t = tl.full([BLOCK], length - 1 - step, tl.int32)
        mask = t < own
        at = offset + t * chains
        a, b, eta = load_chain(potential, hopping, absorption, at, mask)
        before_re = tl.where(t > 0, tl.load(potential_bar + at - chains, mask=mask & (t > 0), other=0.0), in_re)
        before_im = tl.where(t > 0, tl.load(absorption_bar + at - chains, mask=mask & (t > 0), other=0.0), in_im)
        x, y = load_pair(diagonal_bar, at, mask)
        f_re, f_im, d_re, d_im = adjoint_site(a, b, eta, before_re, before_im, r_re, r_im, x, y)
        store_pair(right, at, f_re, f_im, mask)
        store_pair(denominators, at, d_re, d_im, mask)
        x, y = minus_conj_square(l_re, l_im)
        x, y = multiply(x, y, c_re, c_im)
        d_re, d_im = d_re + x, d_im + y  # D + E
        tl.store(potential_bar + at, d_re, mask=mask)
        tl.store(absorption_bar + at, -d_im, mask=mask)
        tl.store(hopping_bar + at, -2.0 * b * (before_re * d_re + before_im * d_im), mask=mask)
        c_re, c_im = tl.where(mask, -b * b * d_re, c_re), tl.where(mask, -b * b * d_im, c_im)
        r_re, r_im = tl.where(mask, b * b * f_re, r_re), tl.where(mask, b * b * f_im, r_im)
        l_re, l_im = tl.where(mask, before_re, l_re), tl.where(mask, before_im, l_im)
    tl.debug_barrier()
    n_re, n_im = load_planes(carries + 2 * lanes, lane, lanes, live)
    for i in range(length):
        mask = i < own
        at = offset + i * chains
        b = load_real(hopping, at, mask)
        r_re, r_im = load_pair(right, at, mask)
        d_re, d_im = load_pair(denominators, at, mask)
        b_bar = tl.load(hopping_bar + at, mask=mask, other=0.0) + 2.0 * b * (r_re * n_re + r_im * n_im)
        tl.store(hopping_bar + at, b_bar, mask=mask)
        x, y = multiply_conj(b * r_re, b * r_im, n_re, n_im)
        x, y = multiply_conj(b * r_re, b * r_im, x, y)  # -F
        tl.store(potential_bar + at, tl.load(potential_bar + at, mask=mask, other=0.0) - x, mask=mask)
        tl.store(absorption_bar + at, tl.load(absorption_bar + at, mask=mask, other=0.0) + y, mask=mask)
        n_re, n_im = x - d_re, y - d_im


def forward(potential: Tensor, hopping: Tensor, absorption: Tensor) -> tuple[Tensor, Tensor]:
    """G_tt complex64 [B, T, H] and what each piece sees on its left and right, float64 [4, B, N, H]."""
    batch, sites, chains = potential.shape
    count, length, device = pieces(*potential.shape), piece_length(*potential.shape), potential.device
    inputs = tuple(map(real, (potential, hopping, absorption)))
    diagonal = torch.empty(potential.shape, dtype=torch.complex64, device=device)
    entering = torch.zeros((4, batch, count, chains), dtype=torch.float64, device=device)
    shape, lanes = (sites, chains, count, length), batch * count * chains
    if count > 1:
        summary = torch.empty((6, batch, count, chains), dtype=torch.float64, device=device)
        sweep(summarise, device, lanes, *inputs, summary, *shape)
        sweep(enter, device, batch * chains, summary, entering, chains, count, lanes)
    sweep(run, device, lanes, *inputs, entering, real(diagonal), *shape)
    return diagonal, entering


def backward(
    diagonal_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, entering: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of potential, hopping and absorption, float32."""
    batch, sites, chains = potential.shape
    count, length, device = entering.shape[2], piece_length(*potential.shape), potential.device
    inputs = tuple(map(real, (diagonal_bar, potential, hopping, absorption)))
    a, b, eta = (torch.empty(potential.shape, dtype=torch.float32, device=device) for _ in range(3))
    right, denominators = (torch.empty((*potential.shape, 2), dtype=torch.float32, device=device) for _ in range(2))
    carries = torch.zeros_like(entering)
    shape, lanes = (sites, chains, count, length), batch * count * chains
    if count > 1:
        summary = torch.empty((8, batch, count, chains), dtype=torch.float64, device=device)
        sweep(adjoint_summarise, device, lanes, *inputs, entering, a, eta, summary, *shape)
        sweep(adjoint_enter, device, batch * chains, summary, carries, chains, count, lanes)
    sweep(adjoint_run, device, lanes, *inputs, entering, carries, right, denominators, a, b, eta, *shape)
    return a, b, eta
