"""Peak memory of a stretch of a program.

On a GPU: the most that PyTorch's allocator handed out. On a CPU: the most resident memory of the process, libraries
and memory-mapped data included. On Linux the high-water mark is reset at the start of the stretch, so that a run is not
charged with a larger one before it in the same process; elsewhere, and where the kernel does not offer that, it is that
of the process since its start. Which of the three it is, `reset_peak_memory` says and the results record.
"""

import ctypes
import gc
import sys
from pathlib import Path

import torch

MIB = 1024**2
CLEAR_REFS = Path("/proc/self/clear_refs")

OF_GPU = "allocated on the GPU, of the run"
OF_RUN = "resident memory of the process, peak of the run"
OF_PROCESS = "resident memory of the process, peak since its start"


def reset_peak_memory(device: torch.device) -> str:
    """Start a stretch: free what earlier work left, and forget its peak. PyTorch's allocator of a GPU holds on to free
    memory, so that a run after its warm-up does not wait for any.

    Returns what `peak_memory_mb` will measure: `OF_GPU`, `OF_RUN` or `OF_PROCESS`.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return OF_GPU
    if sys.platform == "linux":
        # glibc keeps freed memory; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            CLEAR_REFS.write_text("5")
        except OSError:
            return OF_PROCESS
        return OF_RUN
    return OF_PROCESS


def peak_memory_mb(device: torch.device) -> float:
    """Peak since `reset_peak_memory`, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":  # which has no `resource`
        import psutil

        return psutil.Process().memory_info().peak_wset / MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
