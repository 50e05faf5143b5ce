"""Float32 against float64: outputs and every gradient, by length, absorption and energy. Nothing is timed.

Shape legend: B = 1, T sites, H chains, K key size, V value size.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import Check, Gate, compare, run_gate
from benchmarks.inputs import INSIDE, OUTSIDE, chain, float32_tolerance, normal, with_gradients
from benchmarks.row import Row, Table, Target
from resnet_bk.ops import propagate, propagate_vector, resolvent_diagonal, surface_green

CASE = "accuracy"
LENGTHS = (128, 4096, 65_536, 1_048_576)
ABSORPTIONS = (1.0, 0.1, 1e-3)
ENERGIES = {"inside the band": INSIDE, "outside": OUTSIDE}
KEYS = VALUES = 16
AIM = 1e-5


def green(**tensors: Any) -> Tensor:
    return surface_green(**tensors)[0]


def psi(**tensors: Any) -> Tensor:
    return propagate_vector(**tensors)[0]


def mix(**tensors: Any) -> Tensor:
    return propagate(**tensors)[0]


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "surface_green": green,
    "resolvent_diagonal": resolvent_diagonal,
    "propagate_vector": psi,
    "propagate": mix,
}


def rows(quick: bool) -> Iterator[Row]:
    lengths, absorptions = (LENGTHS[:1], (0.1,)) if quick else (LENGTHS, ABSORPTIONS)
    for name in OPERATORS:
        found: list[tuple[str, Gate]] = []
        lines: list[tuple[Any, ...]] = []
        for sites in lengths:
            for absorption in absorptions:
                for where, energy in ENERGIES.items():
                    gate = run_gate(partial(checks, name, sites, absorption, energy))
                    found.append((f"T={sites:,}, absorption {absorption:g}, {where}", gate))
                    worst = {check.name: check.error for check in gate.checks}
                    output = worst.pop("output", None)
                    gradient = max(worst, key=lambda key: worst[key], default=None)
                    shown = None if gradient is None else gradient.removeprefix("gradient of ")
                    lines.append((sites, absorption, where, output, worst.get(gradient or ""), shown))
        yield _row(name, found, lines)


def _row(name: str, found: list[tuple[str, Gate]], lines: list[tuple[Any, ...]]) -> Row:
    """The gate holds each error to what conditioning allows; the target is the same for all."""
    merged = run_gate(lambda: [_named(check, where) for where, gate in found for check in _passed_on(gate)])
    errors = [check.error for check in merged.checks]
    target = Target("largest relative error in float32", "at most", AIM, max(errors) if errors else None)
    columns = ("sites", "absorption", "energy", "error of outputs", "largest error of a gradient", "of")
    table = Table(columns, tuple(lines))
    return Row(CASE, f"{name}, float32 against float64", merged, targets=(target,), table=table)


def _named(check: Check, where: str) -> Check:
    return Check(f"{check.name} ({where})", check.error, check.tolerance)


def _passed_on(gate: Gate) -> tuple[Check, ...]:
    if gate.failure is not None:
        raise RuntimeError(gate.failure)
    return gate.checks


def inputs(name: str, sites: int, absorption: float, energy: float) -> tuple[dict[str, Tensor], Tensor]:
    """Tensors, and a cotangent of the output."""
    tensors = chain((1, sites, 1), absorption=absorption, energy=energy)
    if name == "propagate_vector":
        tensors = {"source": normal((1, sites, 1), seed=1)} | tensors
    shape: tuple[int, ...] = (1, sites, 1)
    if name == "propagate":
        shape = (1, sites, 1, VALUES)
        sizes = {"query": KEYS, "key": KEYS, "value": VALUES}
        drawn = {part: normal((1, sites, 1, size), seed=1 + i) for i, (part, size) in enumerate(sizes.items())}
        tensors = drawn | tensors
    return tensors, torch.complex(normal(shape, seed=8), normal(shape, seed=9))


def checks(name: str, sites: int, absorption: float, energy: float) -> list[Check]:
    tensors, bar = inputs(name, sites, absorption, energy)
    single, double = (with_gradients(OPERATORS[name], tensors, bar, dtype) for dtype in (torch.float32, torch.float64))
    return compare(single, double, float32_tolerance(tensors))
