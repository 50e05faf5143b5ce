"""Float32 against float64: outputs and every gradient, by length, absorption and energy. Nothing is timed.

Shape legend: B = 1, T sites, H chains, K key size, V value size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import Check, Gate, compare, run_gate
from benchmarks.inputs import INSIDE, OUTSIDE, chain, float32_tolerance, normal, with_gradients
from benchmarks.row import Row, Table, Target
from resnet_bk.ops import propagate, propagate_modulus, propagate_vector, resolvent_diagonal, surface_green

CASE = "accuracy"
LENGTHS = (128, 4096, 65_536, 1_048_576)
ABSORPTIONS = (1.0, 0.1, 1e-3)
ENERGIES = {"inside the band": INSIDE, "outside": OUTSIDE}
KEYS = VALUES = 16
AIM = 1e-5


@dataclass(frozen=True)
class Operator:
    """What the cases need to know of an operator.

    Attributes:
        run: tensors as keywords -> output.
        sizes: its inputs beside the chain, and the size that each has at a site of a chain; () for one number.
        output: size of the output there.
        real: whether the output is real.
    """

    run: Callable[..., Any]
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: tuple[int, ...] = ()
    real: bool = False

    def __call__(self, **tensors: Any) -> Tensor:
        """The output without the state."""
        found = self.run(**tensors)
        output: Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def inputs(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs on the chain `tensors`, and a cotangent of the output."""
        shape = tensors["potential"].shape
        drawn = {name: normal((*shape, *size), seed=1 + i) for i, (name, size) in enumerate(self.sizes.items())}
        bar = normal((*shape, *self.output), seed=8)
        return drawn | tensors, bar if self.real else torch.complex(bar, normal(tuple(bar.shape), seed=9))


MIXED = {"query": (KEYS,), "key": (KEYS,), "value": (VALUES,)}
OPERATORS = {
    "surface_green": Operator(surface_green),
    "resolvent_diagonal": Operator(resolvent_diagonal),
    "propagate_vector": Operator(propagate_vector, {"source": ()}),
    "propagate": Operator(propagate, MIXED, (VALUES,)),
    "propagate_modulus": Operator(propagate_modulus, MIXED, (VALUES,), real=True),
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


def checks(name: str, sites: int, absorption: float, energy: float) -> list[Check]:
    operator = OPERATORS[name]
    tensors, bar = operator.inputs(chain((1, sites, 1), absorption=absorption, energy=energy))
    single, double = (with_gradients(operator, tensors, bar, dtype) for dtype in (torch.float32, torch.float64))
    return compare(single, double, float32_tolerance(tensors))
