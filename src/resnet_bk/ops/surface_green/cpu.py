"""CPU kernels of the surface Green's function and its exact adjoint.

Shape legend: B batch, T sites, H chains. Arrays are flat: reals [B, T, H], complex numbers as pairs [B, T, H, 2].

A task sweeps `block` chains of one batch row, a vector of chains at a time. With d = x - i y,

    x = a - b^2 Re L,  y = eta + b^2 Im L,   L = 1/d = (x + i y) / (x^2 + y^2)

y >= eta > 0 whatever is rounded, so |L| <= 1/eta needs no guard. Vectors are float64 whatever the inputs are
(`simd/wide.py`): a rounding of L lives for 1/eta sites and may grow like 1/eta on its way, so that float32 would keep
4 to 5 digits of L at eta = 1e-3, and fewer of a product of transmissions. Nor is a square of a float32, or of its
inverse, out of the range of float64. One rounding to float32 is left, of each result.

The adjoint is derived in `chunked.py`. With g for the cotangent of L:

    dbar = -conj(L)^2 g = -[(Re L)^2 - (Im L)^2 - 2 i Re L Im L] g

L is not read back: the forward sweep keeps it at the start of each chunk of CHUNK sites, and the backward sweep runs
the chunk again from there, with the same operations and so (checkpoints are float64) the same bits. That moves less
memory, and what is kept for the adjoint never shares memory with a result: graph compilers have been seen to overwrite
a result that is kept while `view_as_real` of it is kept as well.
"""

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.simd.wide import LANES, load, load_pairs, ones, scratch, store, store_pairs, zeros
from resnet_bk.ops.sizes import SWEEP_CHUNK as CHUNK


@kernel
def forward(
    begin: int,
    end: int,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    initial: Floats,
    green: Floats,
    checkpoints: Floats,
    keep: bool,
    sites: int,
    chains: int,
    block: int,
) -> None:
    """checkpoints [B, chunks, 2, H] receives L before each chunk if `keep`: real parts, then imaginary parts."""
    blocks = (chains + block - 1) // block
    chunks = (sites + CHUNK - 1) // CHUNK
    for task in range(begin, end):
        row, low = task // blocks, task % blocks * block
        width = min(block, chains - low)
        state = scratch(2 * block)
        for c in range(0, width, LANES):
            re, im = load_pairs(initial, 2 * (row * chains + low + c), width - c)
            store(state, c, LANES, re)
            store(state, block + c, LANES, im)
        for t in range(sites):
            for c in range(0, width, LANES):
                n = width - c
                l_re, l_im = load(state, c, LANES), load(state, block + c, LANES)
                if keep and t % CHUNK == 0:
                    i = (row * chunks + t // CHUNK) * 2 * chains + low + c
                    store(checkpoints, i, n, l_re)
                    store(checkpoints, i + chains, n, l_im)
                i = (row * sites + t) * chains + low + c
                b = load(hopping, i, n)
                x, y = load(potential, i, n) - b * b * l_re, load(absorption, i, n) + b * b * l_im
                inverse = ones() / (x * x + y * y)
                x, y = x * inverse, y * inverse
                store(state, c, LANES, x)
                store(state, block + c, LANES, y)
                store_pairs(green, 2 * i, n, x, y)


@kernel
def backward(
    begin: int,
    end: int,
    green_bar: Floats,
    potential: Floats,
    hopping: Floats,
    absorption: Floats,
    checkpoints: Floats,
    potential_bar: Floats,
    hopping_bar: Floats,
    absorption_bar: Floats,
    initial_bar: Floats,
    sites: int,
    chains: int,
    block: int,
) -> None:
    blocks = (chains + block - 1) // block
    chunks = (sites + CHUNK - 1) // CHUNK
    for task in range(begin, end):
        row, low = task // blocks, task % blocks * block
        width = min(block, chains - low)
        step = 2 * block
        states = scratch((CHUNK + 1) * step)  # before the chunk, then after each of its sites
        carry = scratch(step)
        carry.fill(0)
        for chunk in range(chunks - 1, -1, -1):
            first = chunk * CHUNK
            length = min(CHUNK, sites - first)
            for c in range(0, width, LANES):
                i = (row * chunks + chunk) * 2 * chains + low + c
                store(states, c, LANES, load(checkpoints, i, width - c))
                store(states, block + c, LANES, load(checkpoints, i + chains, width - c))
            for t in range(length):
                for c in range(0, width, LANES):
                    n, s = width - c, t * step + c
                    i = (row * sites + first + t) * chains + low + c
                    b = load(hopping, i, n)
                    x = load(potential, i, n) - b * b * load(states, s, LANES)
                    y = load(absorption, i, n) + b * b * load(states, s + block, LANES)
                    inverse = ones() / (x * x + y * y)
                    store(states, s + step, LANES, x * inverse)
                    store(states, s + step + block, LANES, y * inverse)
            for t in range(length - 1, -1, -1):
                for c in range(0, width, LANES):
                    n, s = width - c, t * step + c
                    i = (row * sites + first + t) * chains + low + c
                    b = load(hopping, i, n)
                    g_re, g_im = load_pairs(green_bar, 2 * i, n)
                    g_re, g_im = g_re + load(carry, c, LANES), g_im + load(carry, block + c, LANES)
                    l_re, l_im = load(states, s + step, LANES), load(states, s + step + block, LANES)
                    x, y = l_im * l_im - l_re * l_re, (l_re + l_re) * l_im  # -conj(L)^2
                    d_re, d_im = x * g_re - y * g_im, x * g_im + y * g_re
                    store(potential_bar, i, n, d_re)
                    store(absorption_bar, i, n, zeros() - d_im)
                    l_re, l_im = load(states, s, LANES), load(states, s + block, LANES)
                    store(hopping_bar, i, n, zeros() - (b + b) * (l_re * d_re + l_im * d_im))
                    store(carry, c, LANES, zeros() - b * b * d_re)
                    store(carry, block + c, LANES, zeros() - b * b * d_im)
        for c in range(0, width, LANES):
            i = 2 * (row * chains + low + c)
            store_pairs(initial_bar, i, width - c, load(carry, c, LANES), load(carry, block + c, LANES))
