"""What counts as time of training."""

import pytest
import torch

from resnet_bk.training import stopwatch
from resnet_bk.training.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A list of one number, the time, in the place of that of the machine."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_what_is_paused_is_not_counted(clock):
    phases = {"forward": 1.0}
    watch = Stopwatch(5.0, phases, torch.device("cpu"))
    clock[0] += 2
    watch.lap("forward")
    clock[0] += 3
    with watch.paused("validation"):
        clock[0] += 50
    assert watch.seconds == 5 + 2 + 3
    clock[0] += 4
    watch.lap("backward")
    assert watch.read() == 5 + 2 + 3 + 4
    assert phases == {"forward": 1 + 2, "validation": 50, "backward": 4}


def test_a_pause_that_fails_ends_too(clock):
    watch = Stopwatch(0.0, {}, torch.device("cpu"))

    def validate():
        with watch.paused("validation"):
            clock[0] += 50
            raise KeyError

    with pytest.raises(KeyError):
        validate()
    clock[0] += 1
    assert watch.read() == 1
    assert watch.phases == {"validation": 50}
