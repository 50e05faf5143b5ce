"""The earlier system's recursion of determinants: how fast ours is beside it, and where it stops to compute anything.

Shape legend: B batch, T sites, H chains.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import determinant_diagonal, determinant_green
from benchmarks.gate import Check, compare
from benchmarks.inputs import chain, float32_tolerance, normal, step, with_gradients
from benchmarks.row import OURS, Row, Table, comparison
from resnet_bk.ops import resolvent_diagonal, surface_green

CASE = "determinant"
# The earlier system's layer has one chain; the second shape is that of a layer with 64 of them.
SHAPES = (16, 128, 1), (16, 512, 64)
DETERMINANTS = "determinants in complex128"
LENGTHS = (64, 512, 960, 976, 1024, 4096)
Operator = Callable[..., Tensor]


def green(**tensors: Any) -> Tensor:
    return surface_green(**tensors)[0]


def rows(quick: bool) -> Iterator[Row]:
    seconds, most = (0.05, 1) if quick else (3.0, 41)
    for name, ours, theirs in (
        ("surface_green", green, determinant_green),
        ("resolvent_diagonal", resolvent_diagonal, determinant_diagonal),
    ):
        for shape in ((2, 16, 2),) if quick else SHAPES:
            tensors, bar = earlier_chain(shape), normal(shape, seed=2)
            yield comparison(
                CASE,
                f"{name}, B={shape[0]}, T={shape[1]}, H={shape[2]}, forward and backward",
                {OURS: step(ours, tensors, bar), DETERMINANTS: step(theirs, tensors, bar)},
                partial(checks, ours, theirs, tensors, bar),
                seconds=seconds,
                most_rounds=most,
                notes=("ours in float32",),
            )
    yield overflow(LENGTHS[:2] if quick else LENGTHS)


def earlier_chain(shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """The earlier system's operator: -2 on the diagonal plus a learned potential, 1 beside it, shift z = i."""
    return chain(shape, energy=-2.0, absorption=1.0)


def checks(ours: Operator, theirs: Operator, tensors: dict[str, Tensor], bar: Tensor) -> list[Check]:
    """Two algorithms in double precision, then ours in float32. At these lengths the determinants stay finite."""
    expected = with_gradients(theirs, tensors, bar, torch.float64)
    # The determinants lose a digit or two over hundreds of products.
    double = compare(with_gradients(ours, tensors, bar, torch.float64), expected, 1e-11)
    single = compare(with_gradients(ours, tensors, bar, torch.float32), expected, float32_tolerance(tensors))
    return [
        *(Check(f"float64 {check.name}", check.error, check.tolerance) for check in double),
        *(Check(f"float32 {check.name}", check.error, check.tolerance) for check in single),
    ]


def overflow(lengths: tuple[int, ...]) -> Row:
    """How many of T outputs and gradients are neither zero nor infinite, by length: a demonstration."""
    lines = []
    for sites in lengths:
        shape = (1, sites, 1)
        tensors, bar = earlier_chain(shape), normal(shape, seed=2)
        theirs = with_gradients(determinant_diagonal, tensors, bar, torch.float64)
        ours = with_gradients(resolvent_diagonal, tensors, bar, torch.float32)
        lines.append((sites, *(usable(found[name]) for found in (theirs, ours) for name in SHOWN)))
    columns = ("sites", *(f"{whose}: {what}" for whose in ("determinants", OURS) for what in ("outputs", "gradients")))
    return Row(
        CASE,
        "resolvent_diagonal: outputs and gradients of the potential that are finite and not zero",
        table=Table(columns, tuple(lines)),
        notes=("demonstration: nothing is timed",),
    )


SHOWN = ("output", "gradient of potential")


def usable(tensor: Tensor) -> int:
    magnitude = tensor.abs()
    return int((magnitude.isfinite() & (magnitude > 0)).sum())
