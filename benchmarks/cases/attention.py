"""Mixing by a propagator beside PyTorch's causal attention of the same width: time by length, crossover, peak memory.

The two compute different functions of the same size: q, k and v of 4 heads x 64 go in, an output of the same width
comes out. What is compared is the cost of mixing T tokens. Projections, positions and gates are left out on both sides;
ours also takes its chain (three numbers a head and token). This module has the matrix state, `cases.modulus` the same
rows for the modulus state.

Shape legend: B = 1, T tokens, H heads, D size of a head.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gate import Check, compare, run_gate
from benchmarks.inputs import chain, float32_tolerance, normal, step, truth_backend, with_gradients
from benchmarks.memory import peaks
from benchmarks.row import OURS, Row, Table, Target, comparison
from benchmarks.timing import interleaved, ratio
from resnet_bk.ops import propagate

Mixing = Callable[..., Tensor]

CASE = "attention"
SDPA = "scaled_dot_product_attention"
HEADS, SIZE = 4, 64
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
LONG = 65_536, 131_072
MEMORY = {OURS: (8192, 16_384, *LONG), SDPA: (4096, 8192, 16_384)}
QUICK_LENGTHS, QUICK_LONG, QUICK_MEMORY = (16, 32), (64, 128), {OURS: (64, 128), SDPA: (64,)}
TARGETS = {1024: 1.0, 8192: 8.0}
# Attention is stopped at the length where a run is expected to take longer, in seconds.
LONGEST_RUN = 20.0
LONG_RUNS = 8192  # from this length on a run takes seconds


def mix(backend: str = "auto", **tensors: Any) -> Tensor:
    return propagate(**tensors, backend=backend)[0].real


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def inputs(sites: int) -> dict[str, Tensor]:
    """query, key, value [1, T, H, D] of unit length as the layers make them, and the chain [1, T, H]."""
    drawn = {name: normal((1, sites, HEADS, SIZE), seed=i) for i, name in enumerate(("query", "key", "value"))}
    drawn |= {name: F.normalize(drawn[name], dim=-1) for name in ("query", "key")}
    return drawn | chain((1, sites, HEADS))


def prepare(contender: str, sites: int, ours: Mixing = mix) -> Callable[[], object]:
    """Forward and backward of a contender. Attention gets its own layout, [1, H, T, D]."""
    tensors, bar = inputs(sites), normal((1, sites, HEADS, SIZE), seed=9)
    if contender == OURS:
        return step(ours, tensors, bar)
    own = {name: tensors[name].transpose(1, 2).contiguous() for name in ("query", "key", "value")}
    return step(attend, own, bar.transpose(1, 2).contiguous())


def rows(quick: bool, case: str = CASE, ours: Mixing = mix) -> Iterator[Row]:
    """The rows of a case; `ours`, the operator under test, must be one that another process can import."""
    seconds, patient, most = (0.05, 0.05, 1) if quick else (3.0, 12.0, 21)
    lengths, long = (QUICK_LENGTHS, QUICK_LONG) if quick else (LENGTHS, LONG)
    speedups: list[tuple[int, float]] = []
    expected = 0.0  # seconds of attention at the next length
    for sites in lengths:
        contenders = {OURS: prepare(OURS, sites, ours)}
        if expected <= LONGEST_RUN:
            contenders[SDPA] = prepare(SDPA, sites)
        notes = () if SDPA in contenders else (f"{SDPA} not run: it would take about {expected:.0f} s",)
        row = comparison(
            case,
            f"T={sites:,}, forward and backward",
            contenders,
            partial(checks, sites, ours),
            seconds=seconds if sites < LONG_RUNS else patient,
            most_rounds=most,
            targets={SDPA: TARGETS[sites]} if sites in TARGETS else None,
            notes=notes,
        )
        yield row
        if SDPA in row.ratios:
            speedups.append((sites, row.ratios[SDPA].median))
            expected = row.timings[SDPA].seconds.median
        expected *= 4  # the work grows fourfold with twice the length
    yield crossover_row(speedups, case, SDPA, "forward and backward")
    yield scaling(long, patient, most, case, ours)
    yield memory(QUICK_MEMORY if quick else MEMORY, case, ours)


def checks(sites: int, ours: Mixing) -> list[Check]:
    tensors, bar = inputs(sites), normal((1, sites, HEADS, SIZE), seed=9)
    expected = with_gradients(partial(ours, truth_backend(sites)), tensors, bar, torch.float64)
    return compare(with_gradients(ours, tensors, bar, torch.float32), expected, float32_tolerance(tensors))


def crossover(speedups: Sequence[tuple[int, float]]) -> float | None:
    """Length from which ours is faster at every longer length measured, interpolated between two lengths on logarithmic
    scales; None where it is slower at the longest one. The shortest length where it is never slower."""
    if not speedups or speedups[-1][1] < 1:
        return None
    slower = [i for i, (_, times) in enumerate(speedups) if times < 1]
    if not slower:
        return float(speedups[0][0])
    (short, below), (long, above) = speedups[slower[-1]], speedups[slower[-1] + 1]
    share = math.log(1 / below) / math.log(above / below)
    return math.exp(math.log(short) + share * math.log(long / short))


def crossovers(rows: Mapping[int, Row], case: str, ours: Sequence[str], other: str, what: str) -> Iterator[Row]:
    """A `crossover_row` for each contender of `ours`, from comparisons by length."""
    for name in ours:
        found = [(length, row.timings) for length, row in rows.items() if other in row.timings]
        speedups = [(length, ratio(timings[other], timings[name]).median) for length, timings in found]
        yield crossover_row(speedups, case, other, what if name == OURS else f"{what}, {name}")


def crossover_row(speedups: Sequence[tuple[int, float]], case: str, other: str, what: str) -> Row:
    """From which length on ours is faster than `other` in doing `what`."""
    found = crossover(speedups)
    if not speedups:
        note = "nothing was timed at any length"
    elif found is None:
        note = f"no crossover: {other} is faster at the longest length measured"
    elif found == speedups[0][0]:
        note = "ours is not slower at any length measured: the crossover is at the shortest of them, or before"
    else:
        note = f"{other} is faster below this length, ours above it"
    table = Table(("crossover, tokens",), ((None if found is None else round(found),),))
    return Row(case, f"crossover against {other}, {what}", table=table, notes=(note,))


def scaling(lengths: tuple[int, int], seconds: float, most_rounds: int, case: str, ours: Mixing) -> Row:
    """Ours alone, at two lengths in turn."""
    short, long = lengths
    gate = run_gate(lambda: finite(lengths, ours))
    name = f"ours alone, T={short:,} and T={long:,}, forward and backward"
    if not gate.passed:
        return Row(case, name, gate, targets=(Target("time ratio", "at most", 2.1, None),))
    runs = {f"T={sites:,}": prepare(OURS, sites, ours) for sites in lengths}
    timed = interleaved(runs, seconds, most_rounds=most_rounds)
    times = ratio(timed[f"T={long:,}"], timed[f"T={short:,}"])
    table = Table(
        ("tokens", "seconds", "seconds a thousand tokens"),
        tuple((n, t.seconds.median, 1000 * t.seconds.median / n) for n, t in zip(lengths, timed.values(), strict=True)),
    )
    target = Target(f"time at T={long:,} over T={short:,}", "at most", 2.1, times.median)
    return Row(case, name, gate, timed, targets=(target,), table=table)


def finite(lengths: tuple[int, int], ours: Mixing) -> Iterator[Check]:
    """At these lengths only that no number is NaN or infinite; the accuracy case compares long chains with float64."""
    for sites in lengths:
        tensors, bar = inputs(sites), normal((1, sites, HEADS, SIZE), seed=9)
        for name, tensor in with_gradients(ours, tensors, bar, torch.float32).items():
            yield Check(f"numbers of {name} at T={sites:,} that are not finite", int((~tensor.isfinite()).sum()), 0)


def memory(points: dict[str, tuple[int, ...]], case: str, ours: Mixing) -> Row:
    """Peak memory of forward and backward beyond the inputs."""
    arguments = [(contender, sites) for contender, lengths in points.items() for sites in lengths]
    calls = [((name, n, ours), (name, 64, ours)) for name, n in arguments]
    used, notes = peaks(prepare, calls)
    found = dict(zip(arguments, used, strict=True))
    lines = tuple((name, n, mib, None if mib is None else 1024 * mib / n) for (name, n), mib in found.items())
    first, last = points[OURS][-2:]
    short, long = found[OURS, first], found[OURS, last]
    reached = long / short if short and long else None
    target = Target(f"peak memory at T={last:,} over T={first:,}", "at most", 2.1, reached)
    columns = ("contender", "tokens", "MiB beyond the inputs", "KiB a token")
    return Row(case, "peak memory, forward and backward", targets=(target,), table=Table(columns, lines), notes=notes)
