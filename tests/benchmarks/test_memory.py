"""Peak memory of a step in a process of its own."""

import os
import sys

import pytest
import torch

from benchmarks.memory import died, peak_growth, peaks

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
    assert peaks(dies, [((1,), (1,))]) == [None]
    found = peaks(refused, [((1 << 20,), (0,))])
    assert found == [None]
    assert "the process died" in died(found)[0]
    assert died([1.0]) == ()
