"""A wrong candidate turns the gate red, and a red gate gives no speed."""

import math

import pytest
import torch

from benchmarks.gate import Check, Gate, compare, relative_error, run_gate
from benchmarks.row import OURS, comparison


def test_within_tolerance_passes():
    gate = run_gate(lambda: [Check("output", 1e-7, 1e-6), Check("gradient", 0.0, 0.0)])
    assert gate.passed
    assert gate.verdict == "ok: output 1.0e-07 (tolerance 1.0e-06)"


@pytest.mark.parametrize("error", [2e-6, math.inf, math.nan])
def test_an_error_above_tolerance_is_red_and_named(error):
    gate = run_gate(lambda: [Check("output", 0.0, 1e-6), Check("gradient of key", error, 1e-6)])
    assert not gate.passed
    assert gate.verdict.startswith("RED: gradient of key")


def test_nothing_compared_is_red():
    assert not run_gate(list).passed
    assert Gate(()).verdict == "RED: nothing was compared"


def test_a_candidate_that_raises_is_red_in_one_line():
    def broken():
        raise RuntimeError("no\nkernel")
        yield

    assert run_gate(broken).verdict == "RED: RuntimeError: no kernel"


def test_relative_error():
    expected = torch.tensor([1.0, -4.0])
    assert relative_error(torch.tensor([1.5, -4.0]), expected) == 0.125
    assert math.isnan(relative_error(torch.tensor([math.nan, 0.0]), expected))
    assert math.isnan(relative_error(torch.zeros(2, 1), expected))  # would broadcast
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0.0
    assert relative_error(torch.tensor([3 + 4j]), torch.tensor([3.0])) == pytest.approx(4 / 3)  # the imaginary part too


def test_every_tensor_is_compared():
    found = compare({"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1), "b": torch.zeros(1)}, 1e-6)
    assert [check.passed for check in found] == [True, False]


def row(gate, calls):
    def contender(name):
        return lambda: calls.append(name)

    return comparison(
        "case",
        "a row",
        {OURS: contender(OURS), "theirs": contender("theirs")},
        gate,
        seconds=0.01,
        most_rounds=3,
        targets={"theirs": 1e-9, "absent": 2.0},
    )


def test_a_red_gate_times_nothing():
    calls = []
    found = row(lambda: [Check("output", 1.0, 1e-6)], calls)
    assert found.red
    assert calls == []
    assert found.ratios == {}
    assert [target.met for target in found.targets] == [None, None]


def test_a_green_gate_gives_ratios_and_targets():
    calls = []
    found = row(lambda: [Check("output", 0.0, 1e-6)], calls)
    assert not found.red
    assert set(calls) == {OURS, "theirs"}
    assert set(found.ratios) == {"theirs"}
    assert [target.met for target in found.targets] == [True, None]
