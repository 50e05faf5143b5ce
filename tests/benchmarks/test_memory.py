"""Peak memory of a step in a process of its own."""

import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.memory import DIED, NOT_RESET, peak_growth, peaks
from resnet_bk.training import memory

pytestmark = pytest.mark.sweep  # of benchmarks/, which is not measured

MIB = 1024**2


def takes(mebibytes):
    """A step that needs so much beside its inputs, of which there are as many again."""
    inputs = torch.ones(mebibytes * MIB // 4)
    return lambda: (inputs + 1).sum()


def dies(mebibytes):
    return lambda: os._exit(mebibytes)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is that of the whole process elsewhere")
def test_growth_is_that_of_the_step():
    # Pages of the sum and of the heap come on top: a few MiB.
    assert peak_growth(takes, (64,), (1,)) == pytest.approx(64, abs=6)


def refused(terabytes):
    return lambda: torch.empty(terabytes << 40, dtype=torch.uint8)


def test_a_process_that_dies_or_gets_no_memory_is_reported():
    assert peaks(dies, [((1,), (1,))]) == ([None], (DIED,))
    assert peaks(refused, [((1 << 20,), (0,))]) == ([None], (DIED,))


def keeps_its_peak(mebibytes):
    """In a process whose system does not let the peak be reset; what is built first has the highest."""
    memory.CLEAR_REFS = Path(__file__) / "clear_refs"
    torch.ones(8 * mebibytes * MIB // 4)
    return takes(mebibytes)


def test_a_peak_that_cannot_be_reset_gives_no_figure():
    assert peaks(keeps_its_peak, [((4,), (1,))]) == ([None], (NOT_RESET,))


def test_why_there_is_no_figure_is_said_once(monkeypatch):
    def growth(prepare, arguments, warm):
        if arguments == "dies":
            raise MemoryError
        return arguments

    monkeypatch.setattr("benchmarks.memory.peak_growth", growth)
    assert peaks(takes, [(1.0, ()), (2.0, ())]) == ([1.0, 2.0], ())
    points = [(None, ()), ("dies", ()), (1.0, ()), (None, ())]
    assert peaks(takes, points) == ([None, None, 1.0, None], (NOT_RESET, DIED))
