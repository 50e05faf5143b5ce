"""CPU kernels of the two-sided diagonal of the resolvent and its exact adjoint.

Shape legend: B batch, T sites, H chains. Arrays are flat: reals [B, T, H], complex numbers as pairs [B, T, H, 2].

A task sweeps `block` chains of one batch row, a vector of chains at a time, in float64 whatever the inputs are (see
`surface_green/cpu.py` for 1/d and for the reason): to the right for L, then to the left for R and G.

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1})      R_t = 1 / (a_t - i eta_t - b_{t+1}^2 R_{t+1})
    G_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1} - b_{t+1}^2 R_{t+1})

Adjoint (bars are cotangents, dL/dRe + i dL/dIm). With D, E, F for the cotangents of the denominators of G, L and R,

    D_t = -conj(G_t)^2 Gbar_t    E_t = -conj(L_t)^2 Lbar_t    F_t = -conj(R_t)^2 Rbar_t
    Lbar_{t-1} = -b_t^2 (D_t + E_t)              Rbar_{t+1} = -b_{t+1}^2 (D_t + F_t)
    abar_t - i etabar_t = D_t + E_t + F_t  (Re and Im apart)
    bbar_t = -2 b_t Re[conj(L_{t-1}) (D_t + E_t) + conj(R_t) (D_{t-1} + F_{t-1})]

a sweep to the left for E and one to the right for F. L and R are kept, in float64, for where G is large 1/G is a small
difference of them; G is computed again, so that nothing that is kept shares memory with the result.
"""

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.simd.wide import LANES, load, load_pairs, ones, scratch, store, store_pairs, zeros


@kernel
def forward(
    begin: int,
    end: int,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    diagonal: Floats,
    left: Floats,
    right: Floats,
    sites: int,
    chains: int,
    block: int,
) -> None:
    blocks = (chains + block - 1) // block
    for task in range(begin, end):
        row, low = task // blocks, task % blocks * block
        width = min(block, chains - low)
        seen = scratch(2 * block)  # L of the site before, then b^2 R of the site behind
        seen.fill(0)
        for t in range(sites):
            for c in range(0, width, LANES):
                n = width - c
                i = (row * sites + t) * chains + low + c
                x, y = load(potential, i, n), load(absorption, i, n)
                if t > 0:
                    b = load(hopping, i, n)
                    x, y = x - b * b * load(seen, c, LANES), y + b * b * load(seen, block + c, LANES)
                inverse = ones() / (x * x + y * y)
                x, y = x * inverse, y * inverse
                store(seen, c, LANES, x)
                store(seen, block + c, LANES, y)
                store_pairs(left, 2 * i, n, x, y)
        for c in range(0, 2 * block, LANES):
            store(seen, c, LANES, zeros())
        for t in range(sites - 1, -1, -1):
            for c in range(0, width, LANES):
                n = width - c
                i = (row * sites + t) * chains + low + c
                x = load(potential, i, n) - load(seen, c, LANES)
                y = load(absorption, i, n) + load(seen, block + c, LANES)
                inverse = ones() / (x * x + y * y)
                r_re, r_im = x * inverse, y * inverse
                store_pairs(right, 2 * i, n, r_re, r_im)
                if t > 0:
                    b = load(hopping, i, n)
                    l_re, l_im = load_pairs(left, 2 * (i - chains), n)
                    x, y = x - b * b * l_re, y + b * b * l_im
                    store(seen, c, LANES, b * b * r_re)
                    store(seen, block + c, LANES, b * b * r_im)
                inverse = ones() / (x * x + y * y)
                store_pairs(diagonal, 2 * i, n, x * inverse, y * inverse)


@kernel
def backward(
    begin: int,
    end: int,
    diagonal_bar: Floats,
    left: Floats,
    right: Floats,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    denominators: Floats,
    potential_bar: Floats,
    hopping_bar: Floats,
    absorption_bar: Floats,
    sites: int,
    chains: int,
    block: int,
) -> None:
    """denominators [B, T, H, 2] hands D from the first sweep to the second."""
    blocks = (chains + block - 1) // block
    for task in range(begin, end):
        row, low = task // blocks, task % blocks * block
        width = min(block, chains - low)
        carry = scratch(2 * block)  # Lbar of this site, then Rbar
        carry.fill(0)
        for t in range(sites - 1, -1, -1):
            for c in range(0, width, LANES):
                n = width - c
                i = (row * sites + t) * chains + low + c
                x, y = load(potential, i, n), load(absorption, i, n)
                if t > 0:
                    b = load(hopping, i, n)
                    re, im = load_pairs(left, 2 * (i - chains), n)
                    x, y = x - b * b * re, y + b * b * im
                if t < sites - 1:
                    b = load(hopping, i + chains, n)
                    re, im = load_pairs(right, 2 * (i + chains), n)
                    x, y = x - b * b * re, y + b * b * im
                inverse = ones() / (x * x + y * y)
                x, y = x * inverse, y * inverse
                g_re, g_im = load_pairs(diagonal_bar, 2 * i, n)
                s_re, s_im = y * y - x * x, (x + x) * y
                d_re, d_im = s_re * g_re - s_im * g_im, s_re * g_im + s_im * g_re
                store_pairs(denominators, 2 * i, n, d_re, d_im)
                x, y = load_pairs(left, 2 * i, n)
                g_re, g_im = load(carry, c, LANES), load(carry, block + c, LANES)
                s_re, s_im = y * y - x * x, (x + x) * y
                d_re, d_im = d_re + s_re * g_re - s_im * g_im, d_im + s_re * g_im + s_im * g_re  # D + E
                store(potential_bar, i, n, d_re)
                store(absorption_bar, i, n, zeros() - d_im)
                if t > 0:
                    b = load(hopping, i, n)
                    x, y = load_pairs(left, 2 * (i - chains), n)
                    store(hopping_bar, i, n, zeros() - (b + b) * (x * d_re + y * d_im))
                    store(carry, c, LANES, zeros() - b * b * d_re)
                    store(carry, block + c, LANES, zeros() - b * b * d_im)
                else:
                    store(hopping_bar, i, n, zeros())
        for c in range(0, 2 * block, LANES):
            store(carry, c, LANES, zeros())  # Rbar of this site
        for t in range(sites):
            for c in range(0, width, LANES):
                n = width - c
                i = (row * sites + t) * chains + low + c
                x, y = load_pairs(right, 2 * i, n)
                g_re, g_im = load(carry, c, LANES), load(carry, block + c, LANES)
                s_re, s_im = y * y - x * x, (x + x) * y
                f_re, f_im = s_re * g_re - s_im * g_im, s_re * g_im + s_im * g_re  # F
                store(potential_bar, i, n, load(potential_bar, i, n) + f_re)
                store(absorption_bar, i, n, load(absorption_bar, i, n) - f_im)
                if t < sites - 1:
                    x, y = load_pairs(denominators, 2 * i, n)
                    f_re, f_im = f_re + x, f_im + y  # F + D
                    i = i + chains
                    b = load(hopping, i, n)
                    x, y = load_pairs(right, 2 * i, n)
                    store(hopping_bar, i, n, load(hopping_bar, i, n) - (b + b) * (x * f_re + y * f_im))
                    store(carry, c, LANES, zeros() - b * b * f_re)
                    store(carry, block + c, LANES, zeros() - b * b * f_im)
