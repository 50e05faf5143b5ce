"""How numba kernels are compiled, cached and called. Imports numba, hence imported at the first call of a kernel."""

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# numba keeps a compiled kernel as long as the kernel's own file is unchanged, even where a file it calls into has
# changed. The kernels therefore carry a digest of these files in the name under which they are kept.
_HERE = Path(__file__).parent
_SHARED = sorted(
    [
        *(_HERE / name for name in ("kernels.py", "one_token.py", "propagate/rounding.py")),
        *(_HERE / "linear_cross_entropy" / name for name in ("pairs.py", "steps.py")),
        *_HERE.rglob("sizes.py"),
        *(_HERE / "simd").glob("*.py"),
    ]
)
_DIGEST = blake2b(b"".join(path.read_bytes() for path in _SHARED), digest_size=6).hexdigest()

# numba's OpenMP pool beside PyTorch's makes both crawl: the threads of each wait by spinning on the cores that the
# other needs (a training step on 2 cores took 10 to 40 times as long), and it changes the number of PyTorch's threads.
# The threads of the work queue sleep between kernels. Its one rule, no concurrent callers, is kept by `_ONE_CALLER`: a
# parallel kernel gives the GIL back while it runs, so that another Python thread may come with its own.
# What this module chose; None where somebody else did.
CHOSEN_LAYER = "workqueue" if numba.config.THREADING_LAYER == "default" else None  # type: ignore[attr-defined]
if CHOSEN_LAYER is not None:
    numba.config.THREADING_LAYER = CHOSEN_LAYER  # type: ignore[attr-defined]

_ONE_CALLER = threading.Lock()

# Floating-point operations that one thread does in about the time that waking the others takes, 0.1 ms.
SERIAL_BELOW = 10_000_000
# As many as one thread does in the time in which a number comes from memory and a result goes there: what a kernel that
# hardly computes counts of each number.
MEMORY_BOUND_OPERATIONS = 40


@dataclass(frozen=True)
class Kernel:
    """One function compiled twice, each at its first call: for the calling thread alone, and over threads."""

    serial: Callable[..., None]
    parallel: Callable[..., None]


def kernel(function: Any) -> Kernel:
    """Compiles lazily and keeps the machine code on disk (`__pycache__`, or NUMBA_CACHE_DIR).

    error_model="numpy": a division by zero gives inf as in PyTorch, and costs no check.
    """

    def compiled(parallel: bool) -> Callable[..., None]:
        copy = FunctionType(function.__code__, function.__globals__, function.__name__)
        # numba keeps machine code under this name, whatever the options are.
        copy.__qualname__ = f"{function.__qualname__}-{'parallel' if parallel else 'serial'}-{_DIGEST}"
        copy.__module__ = function.__module__
        return numba.njit(
            parallel=parallel,
            nogil=not parallel,  # over threads numba gives the GIL back anyway
            cache=True,
            error_model="numpy",
            boundscheck=False,
        )(copy)

    return Kernel(compiled(parallel=False), compiled(parallel=True))


def launch(function: Kernel, operations: int, *arguments: Any) -> None:
    """Runs a kernel of so many floating-point operations, with the threads that PyTorch uses where they pay.

    Of several Python threads one at a time runs a kernel over threads: not every threading layer of numba allows more.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    # Lanes behind the last chain divide by zero. Machine code does not mind; uncompiled kernels would warn.
    with np.errstate(all="ignore"):
        if threads == 1 or operations < SERIAL_BELOW:
            function.serial(*arguments)
            return
        with _ONE_CALLER:
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            try:
                function.parallel(*arguments)
                _check_layer()
            finally:
                numba.set_num_threads(before)


@cache
def _check_layer() -> None:
    """Says once that a parallel function of somebody else's has started other threads before."""
    layer = numba.threading_layer()
    if CHOSEN_LAYER is not None and layer != CHOSEN_LAYER:
        warnings.warn(
            f"numba runs on its {layer} threads, which a parallel function called before resnet_bk has started; beside "
            "PyTorch's they may make steps many times as long. Set NUMBA_THREADING_LAYER=workqueue, or "
            f"{layer} to keep them",
            RuntimeWarning,
            stacklevel=2,
        )


def flat(tensor: Tensor) -> NDArray[Any]:
    """The numbers of a tensor as a one-dimensional array, complex ones as pairs; a view where it is contiguous."""
    tensor = tensor.detach()
    if tensor.is_contiguous() and not tensor.is_complex() and not tensor.is_neg():
        return tensor.view(-1).numpy()
    # Not reshape: it makes a strided view of the real part of a complex tensor, which the kernels cannot read.
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().contiguous().view(-1).numpy()


def flat_as_bits(tensor: Tensor) -> NDArray[Any]:
    """The same, with bfloat16, which NumPy does not know, as int16."""
    tensor = tensor.detach()
    return flat(tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor)


def channel_block(batch: int, chains: int) -> int:
    """Chains that one task sweeps side by side: 64 are eight vectors of float64, whose divisions overlap as those of
    one chain cannot; fewer where threads would then be idle. Each chain is computed alike in any block."""
    threads = torch.get_num_threads()
    return next((block for block in (64, 32) if batch * -(-chains // block) >= threads), 16)


def head_group(batch: int, heads: int) -> int:
    """Heads that one task sweeps in turn: all of a batch row, unless threads would then be idle."""
    rows_each = max(1, -(-torch.get_num_threads() // max(1, batch)))
    return max(1, heads // rows_each)


Floats = NDArray[np.floating]
Integers = NDArray[np.integer]  # pairs of bfloat16
Array = NDArray[Any]  # floats, or bfloat16 as integers
