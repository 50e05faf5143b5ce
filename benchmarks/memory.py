"""Peak memory of a step, each point in a process of its own."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from typing import Any

import torch

import resnet_bk.ops  # noqa: F401  (so that the processes, which are forked from one that has read this file, have it)
from resnet_bk.process import tune_process
from resnet_bk.training.memory import OF_RUN, peak_memory_mb, reset_peak_memory

# Builds its inputs and returns the step.
Prepare = Callable[..., Callable[[], object]]

# Why a point has no figure.
DIED = "–: the process died or was refused memory, as where that does not suffice"
NOT_RESET = "–: not measured: this system does not let the peak of a process be reset, so that the growth is not known"


def peak_growth(prepare: Prepare, arguments: tuple[Any, ...], warm: tuple[Any, ...]) -> float | None:
    """Most resident memory (MiB) that one step takes beyond its inputs: results, gradients and what lies between. None
    where the system does not let the peak be reset: what came before the step may then be the higher one.

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


def peaks(
    prepare: Prepare, points: Iterable[tuple[tuple[Any, ...], tuple[Any, ...]]]
) -> tuple[list[float | None], tuple[str, ...]]:
    """`peak_growth` of (arguments, warm) in turn, None also where the process died or was refused memory; and notes
    that say why a point has no figure."""
    found: list[float | None] = []
    notes: list[str] = []
    for arguments, warm in points:
        grown, why = None, DIED
        try:
            grown, why = peak_growth(prepare, arguments, warm), NOT_RESET
        except (BrokenProcessPool, MemoryError):
            pass
        except RuntimeError as error:  # PyTorch's word for an allocation that is refused
            if "allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
        found.append(grown)
        if grown is None:
            notes.append(why)
    return found, tuple(dict.fromkeys(notes))


def _measure(prepare: Prepare, arguments: tuple[Any, ...], warm: tuple[Any, ...]) -> float | None:
    tune_process()
    prepare(*warm)()
    step = prepare(*arguments)
    device = torch.device("cpu")
    if reset_peak_memory(device) != OF_RUN:
        return None
    before = peak_memory_mb(device)
    kept = step()
    grown = peak_memory_mb(device) - before
    del kept
    return grown
