"""AMX, the matrix unit of Intel's servers since 2023: is it there, and may this process use it?"""

import ctypes
import platform
import sys
from functools import cache

from resnet_bk.ops.dispatch import cpu_has

# arch_prctl(2) of Linux on x86-64: its number, "let this process have a large register file", and which one.
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


@cache
def has_amx() -> bool:
    """Whether kernels may multiply bfloat16 on AMX. Asks Linux for the permission that all threads of the process need;
    other systems are not asked, and run without."""
    if not cpu_has("amx-bf16") or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
