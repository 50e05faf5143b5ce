"""Correctness before speed: what a candidate computes is compared with the truth before it is timed."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One comparison; an error that is not a number does not pass."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Gate:
    """All comparisons of a candidate.

    Attributes:
        checks: what was compared.
        failure: what the candidate raised, or None.
    """

    checks: tuple[Check, ...]
    failure: str | None = None

    @property
    def passed(self) -> bool:
        return self.failure is None and bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One line."""
        if self.failure is not None:
            return f"RED: {self.failure}"
        if not self.checks:
            return "RED: nothing was compared"
        worst = max(self.checks, key=_excess)
        state = "ok" if self.passed else "RED"
        return f"{state}: {worst.name} {worst.error:.1e} (tolerance {worst.tolerance:.1e})"


def run_gate(compute: Callable[[], Iterable[Check]]) -> Gate:
    """The gate of what `compute` compares; red if it raises, so that one broken candidate does not end a benchmark."""
    try:
        return Gate(tuple(compute()))
    except Exception as error:
        return Gate((), " ".join(f"{type(error).__name__}: {error}".split()))


def compare(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> list[Check]:
    """One check a tensor, under the same names on both sides."""
    assert actual.keys() == expected.keys(), (actual.keys(), expected.keys())
    return [Check(name, relative_error(actual[name], expected[name]), tolerance) for name in expected]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest error in units of the largest entry of `expected`."""
    actual, expected = actual.detach(), expected.detach()
    if actual.shape != expected.shape:
        return math.nan
    # Of both: a complex tensor must not lose its imaginary part where the other is real.
    wide = torch.promote_types(torch.promote_types(actual.dtype, expected.dtype), torch.float64)
    actual, expected = actual.to(wide), expected.to(wide)
    scale = expected.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    return ((actual - expected).abs().amax() / scale).item()


def _excess(check: Check) -> float:
    excess = check.error / check.tolerance if check.tolerance else math.inf if check.error else 0.0
    return math.inf if math.isnan(excess) else excess
