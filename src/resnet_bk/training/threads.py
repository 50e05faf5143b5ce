"""The number of threads is part of a result: sums are split by it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def same_threads() -> Iterator[None]:
    """PyTorch has as many threads after the block as before.

    Where numba is told to use OpenMP (NUMBA_THREADING_LAYER=omp), its first parallel kernel sets the size of the pool
    that PyTorch shares; what runs first kernels (audit, warm-up) is wrapped in this, so that training has the threads
    that the user gave.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
