"""What the Triton kernels share. Imports triton, hence imported at the first call of a kernel.

Shape legend: B batch, T sites, H chains, N pieces of a chain, lanes = B N H.

A sweep over a chain is sequential, and a GPU needs a hundred thousand of them at once. A long chain is therefore cut
into N pieces (`triton_sizes.py`), and a lane sweeps one piece of one chain (neighbouring lanes take neighbouring
chains, so that what they load lies side by side). Three kernels do it, as in any chunked scan:

    summarise   every lane: the map from the state before its piece to the state behind it
    enter       every chain: these maps one after the other, which gives the state before each piece
    run         every lane: the sweep of its piece from that state

A summary multiplies no 2x2 matrices of the Moebius map (they tend to rank 1): it holds corner entries of the resolvent
of the piece alone, which are bounded by 1/eta (`surface_green/triton.py`). A chain of one piece needs `run` only.

Triton has no complex numbers: a complex tensor is handed over as `view_as_real`, and a number is a pair of loads of
stride 2.

Sweeps are computed in float64 whatever the inputs are: a rounding of L lives for 1/eta sites and may grow like 1/eta on
its way, so that float32 would keep 4 to 5 digits at eta = 1e-3. The kernels mostly wait for memory, and data-centre
GPUs have half as many float64 units as float32 ones; on others the sweeps are slower. Results are rounded to float32;
what is beyond its range (1/eta, where eta is below 3e-39) becomes infinite, and a product with it NaN, where `numba`
and `chunked` give the largest float32.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# A lane a thread. Small programs, so that short chains too reach every multiprocessor.
BLOCK = 64
WARPS = 2
OF_ALL = {"enable_fp_fusion": True}  # multiply-adds, whatever Triton's version does by default

# A kernel that is launched. It is compiled once for all lengths and batches: Triton would compile it anew, for seconds,
# where a size is 1 or divisible by 16.
launched = triton.jit(do_not_specialize=("sites", "count", "length", "lanes", "total"))


def real(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as a kernel reads them: contiguous, complex ones as pairs."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().contiguous()


def launch(kernel: Any, device: torch.device, programs: int, *arguments: Any, **options: Any) -> None:
    """Runs so many programs of a kernel; none where the batch is empty."""
    if programs:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*arguments, **OF_ALL, **options)


def sweep(kernel: Any, device: torch.device, lanes: int, *arguments: Any) -> None:
    """Runs a kernel over lanes."""
    programs = triton.cdiv(lanes, BLOCK)
    launch(kernel, device, programs, *arguments, lanes, BLOCK=BLOCK, num_warps=WARPS)


@triton.jit
def piece_of(lane, sites, chains, count, length, lanes):
    """Where the piece of a lane begins, as an offset into [B, T, H], and how many sites it has; none behind the last
    lane. Offsets are 64 bits wide: a batch may hold more than 2^31 numbers."""
    first = lane // chains % count * length
    offset = ((lane // (chains * count)).to(tl.int64) * sites + first) * chains + lane % chains
    return offset, tl.where(lane < lanes, tl.minimum(sites - first, length), 0)


@triton.jit
def load_real(pointer, offset, mask):
    return tl.load(pointer + offset, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def load_chain(potential, hopping, absorption, offset, mask):
    """a, b, eta of a site; 0, 0, 1 where there is none."""
    eta = tl.load(absorption + offset, mask=mask, other=1.0).to(tl.float64)
    return load_real(potential, offset, mask), load_real(hopping, offset, mask), eta


@triton.jit
def load_pair(pointer, offset, mask):
    return load_real(pointer, 2 * offset, mask), load_real(pointer, 2 * offset + 1, mask)


@triton.jit
def store_pair(pointer, offset, re, im, mask):
    tl.store(pointer + 2 * offset, re, mask=mask)
    tl.store(pointer + 2 * offset + 1, im, mask=mask)


@triton.jit
def load_planes(pointer, offset, lanes, mask):
    """A complex number from two planes [2, lanes]."""
    re = tl.load(pointer + offset, mask=mask, other=0.0)
    return re, tl.load(pointer + lanes + offset, mask=mask, other=0.0)


@triton.jit
def store_planes(pointer, offset, lanes, re, im, mask):
    tl.store(pointer + offset, re, mask=mask)
    tl.store(pointer + lanes + offset, im, mask=mask)


@triton.jit
def multiply(a_re, a_im, b_re, b_im):
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def multiply_conj(a_re, a_im, b_re, b_im):
    """conj(a) b"""
    return a_re * b_re + a_im * b_im, a_re * b_im - a_im * b_re


@triton.jit
def minus_conj_square(re, im):
    """-conj(z)^2"""
    return im * im - re * re, (re + re) * im


@triton.jit
def invert(x, y):
    """1 / (x - i y). With y >= eta > 0 its imaginary part is positive and its size at most 1/eta, whatever is
    rounded."""
    inverse = 1.0 / (x * x + y * y)
    return x * inverse, y * inverse


@triton.jit
def green_step(a, b, eta, l_re, l_im):
    """L_t from L_{t-1}."""
    return invert(a - b * b * l_re, eta + b * b * l_im)


@triton.jit
def divide(a_re, a_im, b_re, b_im):
    inverse = 1.0 / (b_re * b_re + b_im * b_im)
    re, im = multiply_conj(b_re, b_im, a_re, a_im)
    return re * inverse, im * inverse


@triton.jit
def join(state_re, state_im, s_re, s_im):
    """state / (1 - s state): a state met by the near corner s of a piece. 1/state and s lie in opposite half planes, so
    the denominator is 0 for no state."""
    re, im = multiply(s_re, s_im, state_re, state_im)
    return divide(state_re, state_im, 1.0 - re, -im)


@triton.jit
def pass_piece(state_re, state_im, far_re, far_im, e_re, e_im, s_re, s_im, physical):
    """The surface Green's function behind a piece: far + E^2 state / (1 - s state).

    Rounding may leave a far state whose imaginary part is a hair below 0; where the chain began with a state of the
    upper half plane (`physical`) it is put back to 0, so that eta + b^2 Im L >= eta holds in the next piece.
    """
    re, im = join(state_re, state_im, s_re, s_im)
    re, im = multiply(e_re, e_im, re, im)
    re, im = multiply(e_re, e_im, re, im)
    re, im = far_re + re, far_im + im
    return re, tl.where(physical, tl.maximum(im, 0.0), im)
