"""What a run leaves behind while it trains: log lines (JSON and TensorBoard), validations, checkpoints."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from resnet_bk.training.checkpoint import Checkpoints
from resnet_bk.training.memory import peak_memory_mb, reset_peak_memory
from resnet_bk.training.spec import RunSpec
from resnet_bk.training.state import TrainState
from resnet_bk.training.stopwatch import Stopwatch

LOGGED = ("loss", "lr", "grad_norm", "tokens_per_second")


class Records:
    """Those of one call of `train`, which starts the clock when it makes them.

    Args:
        folder: of the run.
        accelerator: for TensorBoard.
        state: as it was loaded; brought up to date.
        checkpoints: of the run.
        spec: its settings.

    Attributes:
        watch: time of training.
        peak_memory_kind: see `training.memory`.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, state: TrainState, checkpoints: Checkpoints, spec: RunSpec
    ) -> None:
        self._file, self._accelerator, self._state = folder / "log.jsonl", accelerator, state
        self._checkpoints, self._spec = checkpoints, spec
        # Lines of steps after the checkpoint are gone: those steps are done again.
        self._file.write_text("".join(json.dumps(line) + "\n" for line in state.log))
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": state.step + 1}})
        self.peak_memory_kind = reset_peak_memory(accelerator.device)
        self.watch = Stopwatch(state.seconds, state.phases, accelerator.device)
        self._saved_at = time.monotonic()

    def checkpoint_is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._spec.checkpoint_seconds

    def settle(self, backends: dict[str, set[str]]) -> None:
        """Looks at what has been put off: losses, the clock, the backends that ran.

        Raises:
            NonFiniteLossError: a loss, or a gradient, is not a finite number.
        """
        state = self._state
        state.settle(self._spec)
        state.seconds = self.watch.read()
        state.close_epoch()
        for name, ran in backends.items():
            state.backend.setdefault(name, set()).update(ran)

    def log_line(self, rate: float, grad_norm: Tensor) -> None:
        """The line of this step, after `settle`."""
        state = self._state
        tokens, seconds = state.tokens - state.line_tokens, state.seconds - state.line_seconds
        line: dict[str, Any] = {
            "step": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "loss": sum(state.interval) / len(state.interval),
            "lr": rate,
            "grad_norm": float(grad_norm),
            "tokens_per_second": tokens / seconds,
        }
        if state.measured:
            line["measures"] = {name: sum(values) / len(values) for name, values in state.measured.items()}
        state.log.append(line)
        state.measured = {}
        state.interval = []
        state.line_seconds, state.line_tokens = state.seconds, state.tokens
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._accelerator.log({key: line[key] for key in LOGGED}, step=state.step)

    def validation(self, validate: Callable[[], float]) -> None:
        """The perplexity that `validate` returns, off the clock."""
        state = self._state
        self.watch.lap("logging")
        with self.watch.paused("validation"):
            reached = validate()
        state.validation_log.append({"step": state.step, "seconds": state.seconds, "perplexity": reached})
        self._accelerator.log({"validation_perplexity": reached}, step=state.step)

    def checkpoint(self) -> None:
        """Saves the run, off the clock."""
        state = self._state
        self.watch.lap("logging")
        with self.watch.paused("checkpoints"):
            state.seconds = self.watch.seconds
            state.close_epoch()  # with the logging since its last step, so that the epochs sum to the whole
            state.peak_memory_mb = max(state.peak_memory_mb, peak_memory_mb(self._accelerator.device))
            self._checkpoints.save(state.step)
        self._saved_at = time.monotonic()
