"""How numba kernels are compiled, cached and called. Imports numba, hence imported at the first call of a kernel."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_bk.ops.shares import share_out

# numba keeps a compiled kernel as long as the kernel's own file is unchanged, even where a file it calls into has
# changed. The kernels therefore carry a digest of these files in the name under which they are kept.
_HERE = Path(__file__).parent
_SHARED = sorted(
    [
        *(_HERE / name for name in ("kernels.py", "modulus_step/cpu.py", "one_token.py", "propagate/rounding.py")),
        *(_HERE / "linear_cross_entropy" / name for name in ("pairs.py", "steps.py")),
        *_HERE.rglob("sizes.py"),
        *(_HERE / "simd").glob("*.py"),
    ]
)
_DIGEST = blake2b(b"".join(path.read_bytes() for path in _SHARED), digest_size=6).hexdigest()

# Floating-point operations that are worth a thread: they take it 0.1 to 0.6 ms, as kernels are; to wake it takes 0.1.
PER_THREAD = 5_000_000
# As many as one thread does in the time in which a number comes from memory and a result goes there: what a kernel that
# hardly computes counts of each number.
MEMORY_BOUND_OPERATIONS = 40

Kernel = Callable[..., None]


def kernel(function: Any) -> Kernel:
    """Compiles at the first call and keeps the machine code on disk (`__pycache__`, or NUMBA_CACHE_DIR).

    The function has two numbers before its arguments: it does the tasks from `begin` up to, not including, `end`.
    error_model="numpy": a division by zero gives inf as in PyTorch, and costs no check.
    """
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__qualname__ = f"{function.__qualname__}-{_DIGEST}"
    copy.__module__ = function.__module__
    compiled = partial(numba.njit, nogil=True, error_model="numpy", boundscheck=False)
    try:
        return compiled(cache=True)(copy)
    except RuntimeError:  # it finds no folder that can be written
        _warn_not_kept("neither __pycache__ beside them nor the user's cache can be written")
        return compiled()(copy)


def _warn_not_kept(reason: str) -> None:
    """Shown once: warnings of one text and place are, hence no `stacklevel`."""
    warnings.warn(
        f"compiled kernels are not kept ({reason}): every process compiles them anew, which takes about 20 "
        "seconds; set NUMBA_CACHE_DIR to a folder that can be written and has room",
        RuntimeWarning,
        stacklevel=1,
    )


def _call(begin: int, end: int, function: Kernel, *arguments: Any) -> None:
    """Does these tasks, also where the kernel was compiled just now and cannot be kept, on a full disk for example."""
    try:
        function(begin, end, *arguments)
    except OSError as error:  # before any task was done: a kernel itself raises none
        _warn_not_kept(error.strerror or type(error).__name__)
        function(begin, end, *arguments)


def launch(function: Kernel, tasks: int, operations: int, *arguments: Any) -> None:
    """Runs a kernel of so many tasks and floating-point operations, on as many of PyTorch's threads as pay."""
    threads = max(1, min(torch.get_num_threads(), tasks, operations // PER_THREAD))
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        # Lanes behind the last chain divide by zero. Machine code does not mind; uncompiled kernels would warn.
        with np.errstate(all="ignore"):
            function(0, tasks, *arguments)
    elif threads == 1:
        _call(0, tasks, function, *arguments)
    else:
        share_out(_call, tasks, threads, (function, *arguments))


def flat(tensor: Tensor) -> NDArray[Any]:
    """The numbers of a tensor as a one-dimensional array, complex ones as pairs; a view where it is contiguous."""
    # Of NumPy's functions, for tensors' take twice as long. `force` detaches, conjugates and negates.
    array = np.ascontiguousarray(tensor.numpy(force=True)).reshape(-1)
    return array.view(array.real.dtype) if tensor.is_complex() else array


def flat_as_bits(tensor: Tensor) -> NDArray[Any]:
    """The same, with bfloat16, which NumPy does not know, as int16."""
    tensor = tensor.detach()
    return flat(tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor)


def channel_tasks(batch: int, chains: int) -> tuple[int, int]:
    """Tasks, and chains that one sweeps side by side: 64 are eight vectors of float64, whose divisions overlap as those
    of one chain cannot; fewer where threads would then be idle. Each chain is computed alike in any block."""
    threads = torch.get_num_threads()
    block = next((block for block in (64, 32) if batch * -(-chains // block) >= threads), 16)
    return batch * -(-chains // block), block


def launch_sweep(
    function: Kernel, operations: int, shape: torch.Size, tensors: Iterable[Tensor], *options: Any
) -> None:
    """Runs a kernel that sweeps chains [B, T, H], given their tensors and options, with so many operations a site."""
    batch, sites, chains = shape
    tasks, block = channel_tasks(batch, chains)
    launch(function, tasks, operations * shape.numel(), *map(flat, tensors), *options, sites, chains, block)


def head_tasks(batch: int, heads: int) -> tuple[int, int]:
    """Tasks, and heads that one sweeps in turn: all of a batch row, unless threads would then be idle."""
    rows_each = max(1, -(-torch.get_num_threads() // max(1, batch)))
    group = max(1, heads // rows_each)
    return batch * -(-heads // group), group


Floats = NDArray[np.floating]
Integers = NDArray[np.integer]  # tokens and the like, or pairs of bfloat16
Array = NDArray[Any]  # floats, or bfloat16 as integers
