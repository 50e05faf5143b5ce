"""Time of training, with the rest (validation, checkpoints) left out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Counts while it runs; `phases` splits what it counts.

    On a GPU the host runs ahead of the device, so phases are not told apart there and every reading waits for the
    device.
    """

    def __init__(self, seconds: float, phases: dict[str, float], device: torch.device) -> None:
        self.seconds, self.phases, self.cuda = seconds, phases, device.type == "cuda"
        self._since = self._lap = time.perf_counter()

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def read(self) -> float:
        """Seconds counted so far."""
        now = self._now()
        self.seconds += now - self._since
        self._since = now
        return self.seconds

    def lap(self, phase: str) -> None:
        """The time since the last lap belongs to `phase`."""
        if not self.cuda:
            now = time.perf_counter()
            self.phases[phase] = self.phases.get(phase, 0.0) + now - self._lap
            self._lap = now

    @contextmanager
    def paused(self, phase: str) -> Iterator[None]:
        """Inside the block nothing is counted but the time of `phase`."""
        self.read()
        try:
            yield
        finally:
            now = self._now()
            self.phases[phase] = self.phases.get(phase, 0.0) + now - self._since
            self._since = self._lap = now
