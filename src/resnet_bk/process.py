"""Settings of a process that trains on CPUs. The command line makes them; a library should leave its host alone.

Imports nothing heavy: the first setting must be made before PyTorch is loaded.
"""

import ctypes
import os
import platform

# PyTorch's threads (GNU OpenMP) wait for one another by spinning, by default for milliseconds. That is harmless on idle
# cores, but where another program wants a core a training step became 50 times slower; with a short spin, 7 times.
# On idle cores the short one costs about 1%.
SPIN = ("GOMP_SPINCOUNT", "3000")

# Constants of glibc's <malloc.h>. By default glibc maps every buffer above some hundred KB anew and gives it back when
# it is freed. A training step frees and takes the same buffers again and again; keeping them made a step 13% faster.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_BELOW = 1 << 30  # bytes
MOST_OF_OLD = 1 << 25  # the highest threshold for mapping that glibc took before 2.35


def tune_process() -> None:
    """Short spinning, unless the user has set how OpenMP waits, and freed memory kept."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*SPIN)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Serves buffers below 1 GiB (32 MiB with an older glibc) from the heap and keeps what is freed; False where the C
    library is not glibc, or refuses."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # In this order: either option ends glibc's own adjustment, and without the first the second would have every buffer
    # above 128 KiB mapped anew.
    if not any(mallopt(M_MMAP_THRESHOLD, size) == 1 for size in (KEEP_BELOW, MOST_OF_OLD)):
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEEP_BELOW) == 1)
