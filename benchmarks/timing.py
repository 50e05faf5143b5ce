"""Times of several contenders, taken in turn.

A round calls every contender once, in order (A B A B ...), so that a slower minute of the machine meets all of them.
A ratio is taken within each round and its median over the rounds is reported, with the quartiles as spread.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# A sample shorter than this is made of several calls: the clock and the loop would count otherwise.
SAMPLE_SECONDS = 0.01
MOST_CALLS = 100
LEAST_ROUNDS, MOST_ROUNDS = 3, 41


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        low, median, high = (float(value) for value in np.percentile(samples, (25, 50, 75)))
        return cls(median, low, high)


@dataclass(frozen=True)
class Timing:
    """Seconds a call.

    Attributes:
        samples: one a round; a single one, the first call, where that took longer than all the time there was.
        calls: in a sample.
    """

    samples: tuple[float, ...]
    calls: int

    @property
    def seconds(self) -> Spread:
        return Spread.of(self.samples)


def interleaved(
    contenders: dict[str, Callable[[], object]], seconds: float, *, most_rounds: int = MOST_ROUNDS
) -> dict[str, Timing]:
    """Times of the contenders in rounds that take about `seconds` together, and at least three of them.

    Every contender has been called once before its first sample, but for one whose first call takes longer than
    `seconds`: it keeps that cold call as its only sample.

    Args:
        contenders: name -> what is timed; none may change the inputs of another.
        seconds: for all rounds together.
        most_rounds: rounds at most.
    """
    gc.collect()
    # What is there now is left alone, which makes the collections between the samples quick.
    was_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        return _rounds(contenders, seconds, most_rounds)
    finally:
        if not was_frozen:
            gc.unfreeze()


def _rounds(contenders: dict[str, Callable[[], object]], seconds: float, most_rounds: int) -> dict[str, Timing]:
    estimates: dict[str, float] = {}
    slow: dict[str, Timing] = {}
    for name, call in contenders.items():
        first = _sample(call, 1)
        if first > seconds:
            slow[name] = Timing((first,), 1)
        else:
            estimates[name] = _sample(call, 1)
    calls = {
        name: min(MOST_CALLS, max(1, math.ceil(SAMPLE_SECONDS / estimate))) if most_rounds > 1 else 1
        for name, estimate in estimates.items()
    }
    a_round = sum(calls[name] * estimate for name, estimate in estimates.items())
    rounds = min(most_rounds, max(LEAST_ROUNDS, int(seconds / a_round))) if a_round else 0
    samples: dict[str, list[float]] = {name: [] for name in estimates}
    for _ in range(rounds):
        for name in estimates:
            samples[name].append(_sample(contenders[name], calls[name]))
    timed = {name: Timing(tuple(values), calls[name]) for name, values in samples.items()} | slow
    return {name: timed[name] for name in contenders}


def ratio(numerator: Timing, denominator: Timing) -> Spread:
    """Time over time, round by round; against the median where one of the two has a single sample."""
    above, below = numerator.samples, denominator.samples
    if len(above) != len(below):
        above = above if len(above) > 1 else above * len(below)
        below = below if len(below) > 1 else below * len(above)
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def _sample(call: Callable[[], object], calls: int) -> float:
    """Seconds a call; what the calls leave behind is collected before the clock starts."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls
    finally:
        if enabled:
            gc.enable()
