"""Whether what compiles kernels starts here. Where it does not, a warning says why and plain PyTorch runs."""

import sys
import warnings
from functools import cache
from threading import RLock

import torch

_importing = RLock()
_numba: bool | None = None


def numba_starts() -> bool:
    """Whether numba, which is installed, can be imported. The first call imports it, in one thread alone: of threads
    that import parts of it in an order of their own one may find it half made. While torch.compile traces, which cannot
    import it, it is taken to start unless it is known not to."""
    global _numba
    if torch.compiler.is_compiling():
        return _numba is not False
    if _numba is None:
        with _importing:
            if _numba is None:
                _numba = _import_numba()
    return _numba


def _import_numba() -> bool:
    before = set(sys.modules)
    try:
        import numba.extending  # noqa: F401
    except BaseException as error:
        # What an interrupt leaves would be taken for the whole by the next import.
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("numba", "llvmlite"):
                del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        _warn(error, "numba cannot be imported", "is several times slower", "install a numba that fits NumPy")
        return False
    return True


@cache
def triton_starts() -> bool:
    """Whether Triton can start kernels here: what starts them is built by the C compiler of the machine."""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # of a compiler, of a linker, of CUDA
        _warn(
            error,
            "Triton cannot start kernels here",
            "launches a kernel for every site of a chain",
            "install a C compiler and the headers of Python, if they are missing",
        )
        return False
    return True


def _warn(error: Exception, what: str, cost: str, way_out: str) -> None:
    reason = " ".join(str(error).split())[:200]
    warnings.warn(
        f"{what} ({type(error).__name__}: {reason}), so that plain PyTorch takes the place of its kernels and {cost}; "
        f"{way_out}",
        RuntimeWarning,
        stacklevel=3,
    )
