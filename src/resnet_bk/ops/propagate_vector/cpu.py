"""CPU kernels of the vector state and its exact adjoint, fused with the surface Green's function.

Shape legend: B batch, T sites, H chains. Arrays are flat: reals [B, T, H], complex numbers as pairs [B, T, H, 2].

A task sweeps `block` chains of one batch row, a vector of chains at a time, in float64 whatever the inputs are (see
`surface_green/cpu.py` for 1/d and for the reason).

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1}),   w_t = u_t + b_t psi_{t-1},   psi_t = L_t w_t

Adjoint (bars are cotangents, dL/dRe + i dL/dIm; p and g hold the given cotangents of psi and L plus what later sites
add). With d_t = 1 / L_t, psi_t = w_t / d_t gives d psi_t / d d_t = -psi_t L_t, and so

    wbar_t = conj(L_t) p_t                            ubar_t = Re wbar_t            p_{t-1} += b_t wbar_t
    dbar_t = -conj(L_t)^2 g_t - conj(psi_t) wbar_t    abar_t = Re dbar_t            etabar_t = -Im dbar_t
    g_{t-1} += -b_t^2 dbar_t
    bbar_t = Re(conj(psi_{t-1}) wbar_t) - 2 b_t Re(conj(L_{t-1}) dbar_t)

No cotangent of L is formed from w_t = psi_t / L_t, which is out of range where L_t is small. L and psi are not read
back but computed again chunk by chunk, as in `surface_green/cpu.py`.
"""

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.simd.wide import LANES, load, load_pairs, ones, scratch, store, store_pairs, zeros
from resnet_bk.ops.sizes import SWEEP_CHUNK as CHUNK


@kernel
def forward(
    begin: int,
    end: int,
    source: Floats,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    initial_green: Floats,
    initial_psi: Floats,
    psi: Floats,
    last_green: Floats,
    checkpoints: Floats,
    keep: bool,
    sites: int,
    chains: int,
    block: int,
) -> None:
    """checkpoints [B, chunks, 4, H] receives Re L, Im L, Re psi, Im psi before each chunk if `keep`."""
    blocks = (chains + block - 1) // block
    chunks = (sites + CHUNK - 1) // CHUNK
    for task in range(begin, end):
        row, low = task // blocks, task % blocks * block
        width = min(block, chains - low)
        state = scratch(4 * block)  # Re L, Im L, Re psi, Im psi
        for c in range(0, width, LANES):
            i = 2 * (row * chains + low + c)
            x, y = load_pairs(initial_green, i, width - c)
            store(state, c, LANES, x)
            store(state, block + c, LANES, y)
            x, y = load_pairs(initial_psi, i, width - c)
            store(state, 2 * block + c, LANES, x)
            store(state, 3 * block + c, LANES, y)
        for t in range(sites):
            for c in range(0, width, LANES):
                n = width - c
                l_re, l_im = load(state, c, LANES), load(state, block + c, LANES)
                p_re, p_im = load(state, 2 * block + c, LANES), load(state, 3 * block + c, LANES)
                if keep and t % CHUNK == 0:
                    i = (row * chunks + t // CHUNK) * 4 * chains + low + c
                    store(checkpoints, i, n, l_re)
                    store(checkpoints, i + chains, n, l_im)
                    store(checkpoints, i + 2 * chains, n, p_re)
                    store(checkpoints, i + 3 * chains, n, p_im)
                i = (row * sites + t) * chains + low + c
                b = load(hopping, i, n)
                x, y = load(potential, i, n) - b * b * l_re, load(absorption, i, n) + b * b * l_im
                inverse = ones() / (x * x + y * y)
                x, y = x * inverse, y * inverse
                w_re, w_im = load(source, i, n) + b * p_re, b * p_im
                p_re, p_im = x * w_re - y * w_im, x * w_im + y * w_re
                store(state, c, LANES, x)
                store(state, block + c, LANES, y)
                store(state, 2 * block + c, LANES, p_re)
                store(state, 3 * block + c, LANES, p_im)
                store_pairs(psi, 2 * i, n, p_re, p_im)
        for c in range(0, width, LANES):
            i = 2 * (row * chains + low + c)
            store_pairs(last_green, i, width - c, load(state, c, LANES), load(state, block + c, LANES))


@kernel
def backward(
    begin: int,
    end: int,
    psi_bar: Floats,
    green_bar: Floats,
    source: Floats,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    checkpoints: Floats,
    source_bar: Floats,
    potential_bar: Floats,
    hopping_bar: Floats,
    absorption_bar: Floats,
    initial_green_bar: Floats,
    initial_psi_bar: Floats,
    sites: int,
    chains: int,
    block: int,
) -> None:
    """green_bar [B, H, 2] belongs to the last site."""
    blocks = (chains + block - 1) // block
    chunks = (sites + CHUNK - 1) // CHUNK
    for task in range(begin, end):
        row, low = task // blocks, task % blocks * block
        width = min(block, chains - low)
        step = 4 * block
        states = scratch((CHUNK + 1) * step)  # before the chunk, then after each of its sites
        carry = scratch(step)  # what later sites add to g and p
        carry.fill(0)
        for c in range(0, width, LANES):
            g_re, g_im = load_pairs(green_bar, 2 * (row * chains + low + c), width - c)
            store(carry, c, LANES, g_re)
            store(carry, block + c, LANES, g_im)
        for chunk in range(chunks - 1, -1, -1):
            first = chunk * CHUNK
            length = min(CHUNK, sites - first)
            for c in range(0, width, LANES):
                i = (row * chunks + chunk) * 4 * chains + low + c
                for part in range(4):
                    store(states, part * block + c, LANES, load(checkpoints, i + part * chains, width - c))
            for t in range(length):
                for c in range(0, width, LANES):
                    n, s = width - c, t * step + c
                    i = (row * sites + first + t) * chains + low + c
                    b = load(hopping, i, n)
                    x = load(potential, i, n) - b * b * load(states, s, LANES)
                    y = load(absorption, i, n) + b * b * load(states, s + block, LANES)
                    inverse = ones() / (x * x + y * y)
                    x, y = x * inverse, y * inverse
                    w_re = load(source, i, n) + b * load(states, s + 2 * block, LANES)
                    w_im = b * load(states, s + 3 * block, LANES)
                    s = s + step
                    store(states, s, LANES, x)
                    store(states, s + block, LANES, y)
                    store(states, s + 2 * block, LANES, x * w_re - y * w_im)
                    store(states, s + 3 * block, LANES, x * w_im + y * w_re)
            for t in range(length - 1, -1, -1):
                for c in range(0, width, LANES):
                    n, s, z = width - c, t * step + c, t * step + step + c  # states before and after the site
                    i = (row * sites + first + t) * chains + low + c
                    b = load(hopping, i, n)
                    p_re, p_im = load_pairs(psi_bar, 2 * i, n)
                    p_re, p_im = p_re + load(carry, 2 * block + c, LANES), p_im + load(carry, 3 * block + c, LANES)
                    l_re, l_im = load(states, z, LANES), load(states, z + block, LANES)
                    w_re, w_im = l_re * p_re + l_im * p_im, l_re * p_im - l_im * p_re  # wbar
                    store(source_bar, i, n, w_re)
                    store(carry, 2 * block + c, LANES, b * w_re)
                    store(carry, 3 * block + c, LANES, b * w_im)
                    g_re, g_im = load(carry, c, LANES), load(carry, block + c, LANES)
                    x, y = l_im * l_im - l_re * l_re, (l_re + l_re) * l_im  # -conj(L)^2
                    x, y = x * g_re - y * g_im, x * g_im + y * g_re
                    p_re, p_im = load(states, z + 2 * block, LANES), load(states, z + 3 * block, LANES)
                    x, y = x - p_re * w_re - p_im * w_im, y - p_re * w_im + p_im * w_re  # dbar
                    store(potential_bar, i, n, x)
                    store(absorption_bar, i, n, zeros() - y)
                    l_re, l_im = load(states, s, LANES), load(states, s + block, LANES)
                    p_re, p_im = load(states, s + 2 * block, LANES), load(states, s + 3 * block, LANES)
                    b_bar = p_re * w_re + p_im * w_im - (b + b) * (l_re * x + l_im * y)
                    store(hopping_bar, i, n, b_bar)
                    store(carry, c, LANES, zeros() - b * b * x)
                    store(carry, block + c, LANES, zeros() - b * b * y)
        for c in range(0, width, LANES):
            i = 2 * (row * chains + low + c)
            store_pairs(initial_green_bar, i, width - c, load(carry, c, LANES), load(carry, block + c, LANES))
            re, im = load(carry, 2 * block + c, LANES), load(carry, 3 * block + c, LANES)
            store_pairs(initial_psi_bar, i, width - c, re, im)
