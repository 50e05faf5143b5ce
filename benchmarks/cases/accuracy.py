"""Float32 against float64: outputs and every gradient, by length, absorption and energy. Nothing is timed.

Float64 is that of the definition, and of plain PyTorch where the chain is longer. At a million sites that would take
many minutes. There it is that of the operator under test, whose last sites are compared with plain PyTorch as well.

Shape legend: B = 1, T sites, H chains, K key size, V value size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import Check, Gate, compare, run_gate
from benchmarks.inputs import INSIDE, OUTSIDE, chain, float32_tolerance, normal, truth_backend, with_gradients
from benchmarks.row import Row, Table, Target
from resnet_bk.ops import propagate, propagate_modulus, propagate_vector, resolvent_diagonal, surface_green

CASE = "accuracy"
LENGTHS = (128, 4096, 65_536, 1_048_576)
ABSORPTIONS = (1.0, 0.1, 1e-3)
ENERGIES = {"inside the band": INSIDE, "outside": OUTSIDE}
# Longest chain for which plain PyTorch is the truth of all sites.
COMPARED_UP_TO = 65_536
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
                    title = f"T={sites:,}, absorption {absorption:g}, {where}"
                    found.append((title, gate))
                    if sites > COMPARED_UP_TO:
                        end = run_gate(partial(end_checks, name, sites, absorption, energy))
                        found.append((f"last {COMPARED_UP_TO:,} sites of {title}", end))
                    worst = {check.name: check.error for check in gate.checks}
                    output = worst.pop("output", None)
                    gradient = max(worst, key=lambda key: worst[key], default=None)
                    shown = None if gradient is None else gradient.removeprefix("gradient of ")
                    lines.append((sites, absorption, where, output, worst.get(gradient or ""), shown))
        yield _row(name, found, lines, note(max(lengths)))


def note(longest: int) -> tuple[str, ...]:
    """What was compared with plain PyTorch, where that was not everything."""
    if longest <= COMPARED_UP_TO:
        return ()
    return (
        f"up to {COMPARED_UP_TO:,} sites, and at the last {COMPARED_UP_TO:,} of longer chains, float64 is that of "
        "plain PyTorch; at all sites of longer chains it is that of the same operator",
    )


def _row(name: str, found: list[tuple[str, Gate]], lines: list[tuple[Any, ...]], notes: tuple[str, ...]) -> Row:
    """The gate holds each error to what conditioning allows; the target is the same for all."""
    merged = run_gate(lambda: [_named(check, where) for where, gate in found for check in _passed_on(gate)])
    errors = [check.error for check in merged.checks]
    target = Target("largest relative error in float32", "at most", AIM, max(errors) if errors else None)
    columns = ("sites", "absorption", "energy", "error of outputs", "largest error of a gradient", "of")
    table = Table(columns, tuple(lines))
    return Row(CASE, f"{name}, float32 against float64", merged, targets=(target,), table=table, notes=notes)


def _named(check: Check, where: str) -> Check:
    return Check(f"{check.name} ({where})", check.error, check.tolerance)


def _passed_on(gate: Gate) -> tuple[Check, ...]:
    if gate.failure is not None:
        raise RuntimeError(gate.failure)
    return gate.checks


def checks(name: str, sites: int, absorption: float, energy: float) -> list[Check]:
    operator = OPERATORS[name]
    tensors, bar = operator.inputs(chain((1, sites, 1), absorption=absorption, energy=energy))
    backend = truth_backend(sites) if sites <= COMPARED_UP_TO else "auto"
    double = with_gradients(partial(operator, backend=backend), tensors, bar, torch.float64)
    return compare(with_gradients(operator, tensors, bar, torch.float32), double, float32_tolerance(tensors))


def end_checks(name: str, sites: int, absorption: float, energy: float) -> list[Check]:
    """The last sites of a chain that a hopping of 0 cuts before them, against float64 of a chain of these alone."""
    operator = OPERATORS[name]
    tensors, bar = operator.inputs(chain((1, sites, 1), absorption=absorption, energy=energy))
    tensors["hopping"][:, -COMPARED_UP_TO] = 0
    last = {key: tensor[:, -COMPARED_UP_TO:] for key, tensor in tensors.items()}
    truth = partial(operator, backend=truth_backend(COMPARED_UP_TO))
    double = with_gradients(truth, last, bar[:, -COMPARED_UP_TO:], torch.float64)
    single = with_gradients(operator, tensors, bar, torch.float32)
    # Without the site of the cut: the gradient of a hopping of 0 depends on what comes before it.
    found, expected = ({key: x[:, 1 - COMPARED_UP_TO :] for key, x in of.items()} for of in (single, double))
    return compare(found, expected, float32_tolerance(tensors))
