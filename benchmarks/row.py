"""One row of a benchmark: a gate, the times of candidate and baselines, targets, and a table of what else was seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.gate import Check, Gate, run_gate
from benchmarks.timing import Spread, Timing, interleaved, ratio
from resnet_bk.ops import record_backends

OURS = "ours"


@dataclass(frozen=True)
class Target:
    """What was aimed at, and what came out.

    Attributes:
        name: what is measured.
        rule: "at least" or "at most".
        limit: the aim.
        reached: the figure; None where there is none (red gate, or a contender that did not run).
    """

    name: str
    rule: Literal["at least", "at most"]
    limit: float
    reached: float | None

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached >= self.limit if self.rule == "at least" else self.reached <= self.limit


@dataclass(frozen=True)
class Table:
    """Figures that are no comparison of times. Cells are text, whole numbers, floats, truth values or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Row:
    """What a case yields.

    Attributes:
        case: the case that it belongs to.
        name: what was measured, with its shape.
        gate: None where nothing is claimed that could be wrong.
        timings: by contender; the candidate is `ours`. Empty where the gate is red.
        ratios: baseline -> its time over ours (how many times faster ours is).
        targets: see `Target`.
        table: see `Table`.
        notes: what a reader must know: what was left out and why, which backend ran.
    """

    case: str
    name: str
    gate: Gate | None = None
    timings: dict[str, Timing] = field(default_factory=dict)
    ratios: dict[str, Spread] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    table: Table | None = None
    notes: tuple[str, ...] = ()

    @property
    def red(self) -> bool:
        return self.gate is not None and not self.gate.passed

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        gate = self.gate and {
            "passed": self.gate.passed,
            "verdict": self.gate.verdict,
            "failure": self.gate.failure,
            "checks": [{**vars(check), "passed": check.passed} for check in self.gate.checks],
        }
        return {
            "case": self.case,
            "name": self.name,
            "gate": gate,
            "seconds": {
                name: {**vars(timing.seconds), "samples": list(timing.samples), "calls": timing.calls}
                for name, timing in self.timings.items()
            },
            "times_faster_than": {name: dict(vars(spread)) for name, spread in self.ratios.items()},
            "targets": [{**vars(target), "met": target.met} for target in self.targets],
            "table": self.table
            and {"columns": list(self.table.columns), "rows": [list(row) for row in self.table.rows]},
            "notes": list(self.notes),
        }


def comparison(
    case: str,
    name: str,
    contenders: dict[str, Callable[[], object]],
    gate: Callable[[], Iterable[Check]],
    *,
    seconds: float,
    most_rounds: int,
    targets: dict[str, float] | None = None,
    notes: tuple[str, ...] = (),
) -> Row:
    """Gate, then times of `ours` and of every baseline. Nothing is timed where the gate is red.

    Args:
        case, name, notes: of the row.
        contenders: `ours` and baselines.
        gate: what is compared before.
        seconds, most_rounds: as in `interleaved`.
        targets: baseline -> how many times faster ours shall be, at least.
    """
    assert OURS in contenders, contenders.keys()
    checked = run_gate(gate)
    timings: dict[str, Timing] = {}
    if checked.passed:
        with record_backends() as seen:
            contenders[OURS]()
        ran = ", ".join(f"{operator}: {'+'.join(sorted(names))}" for operator, names in sorted(seen.items()))
        notes = (*notes, f"backends of ours: {ran}") if ran else notes
        timings = interleaved(contenders, seconds, most_rounds=most_rounds)
    ratios = {other: ratio(timing, timings[OURS]) for other, timing in timings.items() if other != OURS}
    aims = tuple(
        Target(f"speed in units of {other}", "at least", limit, ratios[other].median if other in ratios else None)
        for other, limit in (targets or {}).items()
    )
    return Row(case, name, checked, timings, ratios, aims, notes=notes)
