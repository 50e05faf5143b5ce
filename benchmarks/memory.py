"""Peak memory of a step, each point in a process of its own."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from typing import Any

import torch

import resnet_bk.ops  # noqa: F401  (so that the processes, which are forked from one that has read this file, have it)
from resnet_bk.process import tune_process
from resnet_bk.training.memory import peak_memory_mb, reset_peak_memory

# Builds its inputs and returns the step.
Prepare = Callable[..., Callable[[], object]]


def peak_growth(prepare: Prepare, arguments: tuple[Any, ...], warm: tuple[Any, ...]) -> float:
    """Most resident memory (MiB) that one step takes beyond its inputs: results, gradients and what lies between.

    Args:
        prepare: a function at the top of a module; `prepare(*arguments)` returns the step.
        arguments: of the point.
        warm: of a small point of the same kind, which runs first: it loads what the first call loads.

    Raises:
        BrokenProcessPool: the process died, as it does where the memory does not suffice.
    """
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        return pool.submit(_measure, prepare, arguments, warm).result()


def peaks(prepare: Prepare, points: Iterable[tuple[tuple[Any, ...], tuple[Any, ...]]]) -> list[float | None]:
    """`peak_growth` of (arguments, warm) in turn; None where the process died or was refused memory."""
    found: list[float | None] = []
    for arguments, warm in points:
        try:
            found.append(peak_growth(prepare, arguments, warm))
        except (BrokenProcessPool, MemoryError):
            found.append(None)
        except RuntimeError as error:  # PyTorch's word for an allocation that is refused
            if "allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            found.append(None)
    return found


def died(found: Iterable[float | None]) -> tuple[str, ...]:
    """Notes on points that have no figure."""
    return ("–: the process died or was refused memory, as where that does not suffice",) if None in found else ()


def _measure(prepare: Prepare, arguments: tuple[Any, ...], warm: tuple[Any, ...]) -> float:
    tune_process()
    prepare(*warm)()
    step = prepare(*arguments)
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory_mb(device)
    kept = step()
    grown = peak_memory_mb(device) - before
    del kept
    return grown
