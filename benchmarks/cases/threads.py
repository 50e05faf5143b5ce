"""Scans give bitwise the same numbers with any number of threads. Nothing is timed.

Shape legend: B batch, T sites, H chains or heads, K key size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.accuracy import OPERATORS
from benchmarks.gate import Check, run_gate
from benchmarks.inputs import chain, with_gradients
from benchmarks.row import Row, Table

CASE = "threads"
# With a batch to share out and with none; the work is shared out however little it is.
SHAPES = dict.fromkeys(("propagate", "propagate_modulus"), ((16, 256, 4), (1, 4096, 4)))
DEFAULT_SHAPES = ((16, 1024, 64), (1, 16_384, 64))
QUICK_SHAPES = ((2, 32, 4),)
COUNTS = (1, 2)


def rows(quick: bool) -> Iterator[Row]:
    lines: list[tuple[Any, ...]] = []
    found: list[Check] = []
    for name in OPERATORS:
        for shape in QUICK_SHAPES if quick else SHAPES.get(name, DEFAULT_SHAPES):
            gate = run_gate(lambda name=name, shape=shape: checks(name, shape))  # type: ignore[misc]
            title = "B={}, T={:,}, H={}".format(*shape)
            lines.append((name, title, gate.passed))
            found.extend(Check(f"{name}, {title}: {check.name}", check.error, 0) for check in gate.checks)
            if gate.failure is not None:
                found.append(Check(f"{name}, {title}: {gate.failure}", float("inf"), 0))
    columns = ("operator", "shape", "bitwise equal with 1 and 2 threads")
    yield Row(
        CASE,
        "outputs and gradients with 1 and 2 threads",
        run_gate(lambda: found),
        table=Table(columns, tuple(lines)),
    )


def checks(name: str, shape: tuple[int, int, int]) -> list[Check]:
    """How many numbers differ, by tensor."""
    from resnet_bk.ops import kernels  # imports numba

    operator = OPERATORS[name]
    tensors, bar = operator.inputs(chain(shape))
    results: list[dict[str, Tensor]] = []
    threads, per_thread = torch.get_num_threads(), kernels.PER_THREAD
    try:
        kernels.PER_THREAD = 1
        for count in COUNTS:
            torch.set_num_threads(count)
            results.append(with_gradients(operator, tensors, bar, torch.float32))
    finally:
        torch.set_num_threads(threads)
        kernels.PER_THREAD = per_thread
    one, two = results
    return [Check(f"numbers of {part} that differ", int((one[part] != two[part]).sum()), 0) for part in one]
