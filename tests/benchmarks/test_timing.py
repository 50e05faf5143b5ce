"""Who is called when, and what becomes of the samples."""

import gc

import pytest

from benchmarks import timing
from benchmarks.timing import Spread, Timing, interleaved, ratio


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a contender says so."""

    class Clock:
        def __init__(self):
            self.now, self.calls = 0.0, []

        def takes(self, name, seconds):
            def call():
                self.calls.append(name)
                self.now += seconds

            return call

    found = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: found.now)
    return found


def test_contenders_take_turns(clock):
    timed = interleaved({"a": clock.takes("a", 1.0), "b": clock.takes("b", 2.0)}, seconds=12.0)
    # Two calls each to load and to estimate, then rounds.
    assert clock.calls == ["a", "a", "b", "b", *["a", "b"] * 4]
    assert timed["a"].samples == (1.0,) * 4
    assert timed["b"].seconds == Spread(2.0, 2.0, 2.0)


def test_at_least_three_rounds_and_at_most_as_many_as_told(clock):
    assert len(interleaved({"a": clock.takes("a", 4.0)}, seconds=5.0)["a"].samples) == 3
    assert len(interleaved({"a": clock.takes("a", 0.02)}, seconds=9.0, most_rounds=7)["a"].samples) == 7


def test_short_calls_are_counted_in_bundles(clock):
    timed = interleaved({"a": clock.takes("a", 0.003)}, seconds=1.0, most_rounds=3)
    assert timed["a"].calls == 4
    assert timed["a"].seconds.median == pytest.approx(0.003)


def test_a_slow_contender_keeps_its_first_call_and_its_place(clock):
    timed = interleaved({"slow": clock.takes("slow", 9.0), "a": clock.takes("a", 1.0)}, seconds=5.0)
    assert list(timed) == ["slow", "a"]
    assert timed["slow"].samples == (9.0,)
    assert clock.calls.count("slow") == 1


def test_ratio_is_taken_round_by_round():
    # The machine was three times slower in the second round; the ratio does not see it.
    assert ratio(Timing((2.0, 6.0, 2.0), 1), Timing((1.0, 3.0, 1.0), 1)) == Spread(2.0, 2.0, 2.0)


def test_ratio_with_a_single_sample():
    assert ratio(Timing((8.0,), 1), Timing((1.0, 2.0, 4.0), 1)) == Spread(4.0, 3.0, 6.0)


def test_the_collector_is_left_as_it_was(clock):
    def fails():
        raise RuntimeError("stop")

    for prepare, is_frozen in ((gc.unfreeze, False), (gc.freeze, True)):
        prepare()
        assert gc.isenabled()
        with pytest.raises(RuntimeError, match="stop"):
            interleaved({"a": fails}, seconds=1.0)
        assert gc.isenabled()
        assert (gc.get_freeze_count() > 0) == is_frozen
