"""Peak memory of a stretch of a program.

On a GPU: the most that PyTorch's allocator handed out. On a CPU: the most resident memory of the process, libraries
and memory-mapped data included. On Linux the high-water mark is reset at the start of the stretch; elsewhere, and where
the kernel does not offer that, it is that of the whole process.
"""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch

MIB = 1024**2


def reset_peak_memory(device: torch.device) -> None:
    """Start a stretch: free what earlier work left, and forget its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # glibc keeps freed memory; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak since `reset_peak_memory`, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
