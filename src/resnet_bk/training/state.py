"""The part of a run beside weights, optimizer and random numbers: counters, logs, place in the data, carried state."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from resnet_bk.training.spec import NonFiniteLossError, RunSpec
from resnet_bk.training.step import Step

# Fields of a configuration that say where it comes from, not what the model computes.
ORIGIN = ("architectures", "transformers_version", "use_cache")


def model_settings(model: Any) -> dict[str, Any]:
    """What tells a model from another with weights of the same shapes: the fields of its configuration, and the dtype
    of its weights."""
    fields_of = model.config.to_dict()
    kept = {name: value for name, value in fields_of.items() if name not in ORIGIN and not name.startswith("_")}
    return kept | {"dtype": str(next(model.parameters()).dtype)}


class Stream(Protocol):
    """What the loop needs of `resnet_bk.data.TokenStream`."""

    steps_per_epoch: int

    @property
    def starts_epoch(self) -> bool: ...
    def next_batch(self) -> tuple[Tensor, Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainState:
    """Registered with the accelerator, so that it is saved and loaded with the weights.

    Attributes:
        stream: the tokens; its position is saved, not the tokens.
        settings: of the run, which a checkpoint must have been written under; empty in one of an older version.
        model: the configuration of the model, of which the same holds.
        step, tokens: done so far.
        calls: one dict a call that trained: `from_step`, and what `train` was told of it.
        seconds: time of training so far.
        carried: state of the model after the last segment of each row, or None.
        pending: loss, gradient norm and measures of the model of the steps since they were last looked at (never
            saved: `settle` empties it first).
        interval: losses since the last log line.
        measured: measures of the model since the last log line, by name.
        line_seconds, line_tokens: time and tokens of the last log line.
        epoch_sums: sum of losses, number of steps and seconds at the last of them, one entry an epoch.
        phases: seconds by phase.
        peak_memory_mb: of all calls.
        backend: operator -> backends that ran.
    """

    stream: Stream
    settings: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    tokens: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    carried: Any = None
    pending: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = field(default_factory=list)
    interval: list[float] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)
    line_seconds: float = 0.0
    line_tokens: int = 0
    epoch_sums: list[list[float]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    validation_log: list[dict[str, Any]] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0
    backend: dict[str, set[str]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the tokens and the (empty) list of pending losses."""
        kept = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("stream", "pending")}
        return kept | {"stream": self.stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a state that another version wrote, or of another text."""
        missing = self.state_dict().keys() - state.keys() - {"settings", "model"}
        if missing:
            raise ValueError(f"it was written by another version of resnet_bk and lacks {', '.join(sorted(missing))}")
        self.stream.load_state_dict(state["stream"])
        for name, value in state.items():
            if name not in ("stream", "settings", "model"):
                setattr(self, name, value)

    def check_settings(self, there: dict[str, Any], model: dict[str, Any], folder: Path) -> None:
        """Whether a checkpoint of these settings and this model is of this run.

        Raises:
            ValueError: naming those that differ.
        """
        other_model = [name for name in model if model[name] != self.model.get(name, model[name])]
        other_run = [name for name in self.settings | there if there and there.get(name) != self.settings.get(name)]
        for what, different, was, now in (
            ("settings", other_run, there, self.settings),
            ("fields of the model", other_model, model, self.model),
        ):
            if different:
                changed = ", ".join(f"{name} was {was.get(name)!r} and is {now.get(name)!r}" for name in different)
                raise ValueError(
                    f"{folder} holds a checkpoint of a run with other {what}: {changed}; train in another folder, with "
                    "the settings as they were, or remove that one"
                )

    def begin_call(self, about: dict[str, Any]) -> None:
        """Note a call that goes on from here; calls whose steps are lost are forgotten."""
        self.calls = [call for call in self.calls if call["from_step"] < self.step]
        self.calls.append({"from_step": self.step, **about})

    def count(self, step: Step, tokens: int) -> None:
        """Takes in a step over so many tokens; its loss is looked at by `settle`."""
        self.carried = step.state
        self.pending.append((step.loss, step.grad_norm, step.measures))
        self.step += 1
        self.tokens += tokens

    def settle(self, spec: RunSpec) -> None:
        """Look at the pending losses and count them.

        Losses are added one by one in step order, so that the sums do not depend on when this is called.

        Raises:
            NonFiniteLossError: one of them, or a gradient, is not a finite number.
        """
        pairs = [torch.stack([loss, norm.to(loss.dtype)]) for loss, norm, _ in self.pending]
        found = torch.stack(pairs).tolist() if pairs else []
        for _, _, measures in self.pending:
            for name, value in measures.items():
                self.measured.setdefault(name, []).append(float(value))
        self.pending = []
        for step, (loss, norm) in enumerate(found, start=self.step - len(found) + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"training loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {norm}"
                clip = "" if spec.clip is None else ", a smaller clip"
                raise NonFiniteLossError(
                    f"{spec.name}: the {what} at step {step} of {spec.steps}, with learning rate "
                    f"{spec.learning_rate:g}, clip {spec.clip} and {spec.warmup_steps} warm-up steps; try a smaller "
                    f"learning rate{clip} or a longer warm-up. What was saved before is kept.",
                    step,
                )
            epoch = (step - 1) // self.stream.steps_per_epoch
            if epoch == len(self.epoch_sums):
                self.epoch_sums.append([0.0, 0, 0.0])
            self.epoch_sums[epoch][0] += loss
            self.epoch_sums[epoch][1] += 1
            self.interval.append(loss)

    def close_epoch(self) -> None:
        """Note the time at which the epoch in progress has got this far."""
        self.epoch_sums[-1][2] = self.seconds

    def epoch_losses(self) -> list[float]:
        return [total / steps for total, steps, _ in self.epoch_sums]

    def epoch_seconds(self) -> list[float]:
        ends = [end for _, _, end in self.epoch_sums]
        return [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
