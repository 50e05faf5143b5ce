"""What a training run is given and what it gives back."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

import torch

CHOICES = {
    "optimizer": ("adamw", "muon", "muon-parts"),
    "dtype": ("float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
    "head": ("auto", "model"),
}


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # which Python counts among them


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


# What a value is, what holds of it, and how it is said.
RANGES: dict[str, tuple[Callable[[Any], bool], Callable[[Any], bool], str]] = {
    "steps": (_whole, lambda steps: steps >= 1, "a whole number of at least 1"),
    "learning_rate": (_number, lambda rate: 0 <= rate < math.inf, "a number, 0 or more"),
    "embedding_rate": (_number, lambda times: 0 < times < math.inf, "a number above 0"),
    "weight_decay": (_number, lambda decay: 0 <= decay < math.inf, "a number, 0 or more"),
    "betas": (
        lambda betas: isinstance(betas, list | tuple) and len(betas) == 2 and all(map(_number, betas)),
        lambda betas: all(0 <= beta < 1 for beta in betas),
        "two numbers from 0 to below 1",
    ),
    "clip": (lambda clip: clip is None or _number(clip), lambda clip: clip is None or clip > 0, "above 0, or None"),
    "warmup_steps": (_whole, lambda steps: steps >= 0, "a whole number, 0 or more"),
    "final_lr_ratio": (_number, lambda ratio: 0 <= ratio <= 1, "a number from 0 to 1"),
    "seed": (_whole, lambda seed: 0 <= seed < 2**32, "a whole number from 0 to 2**32 - 1"),
    "carry_state": (lambda carry: isinstance(carry, bool), lambda carry: True, "True or False"),
    "carry_reset": (_number, lambda share: 0 <= share < 1, "a number, 0 or more and below 1"),
    "log_interval": (_whole, lambda steps: steps >= 1, "a whole number of at least 1"),
    "checkpoint_seconds": (_number, lambda seconds: seconds >= 0, "a number, 0 or more"),
}


@dataclass(frozen=True)
class RunSpec:
    """Everything of one training run but the model and the tokens.

    Attributes:
        name: shown in the progress line and in errors.
        steps: optimizer steps, each over one batch of the stream.
        learning_rate: peak rate.
        optimizer: "adamw", "muon" or "muon-parts" (see `training.optimizer`).
        embedding_rate: times `learning_rate`, for the table of input embeddings.
        weight_decay: on tensors of two or more dimensions, embeddings and filters among them.
        betas: of AdamW.
        clip: largest global gradient norm; None leaves gradients alone.
        warmup_steps: steps of linear warm-up; the cosine takes the rest.
        final_lr_ratio: last learning rate over peak learning rate.
        seed: of dropout and whatever else draws numbers while training (weights are drawn before).
        dtype: "float32", or "bfloat16" for mixed precision with float32 weights.
        device: "cpu", "cuda", or "auto": the GPU if there is one.
        carry_state: hand the state of a row's segment to its next segment (the model must take a `cache`).
        carry_reset: share of the rows, drawn anew for each step, that start from no state all the same, so that the
            model learns to do without.
        log_interval: steps between two log lines.
        checkpoint_seconds: seconds between two checkpoints, validations included.
        head: "auto" for the fused vocabulary head where the model has a plain one, "model" for the model's own logits.

    Raises:
        ValueError: another optimizer, dtype, device or head than these, a value of another type or out of its range,
            or `carry_reset` without `carry_state`.
    """

    name: str
    steps: int
    learning_rate: float
    optimizer: Literal["adamw", "muon", "muon-parts"] = "adamw"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = 1.0
    warmup_steps: int = 0
    final_lr_ratio: float = 0.1
    seed: int = 42
    dtype: str = "float32"
    device: str = "auto"
    carry_state: bool = False
    carry_reset: float = 0.0
    log_interval: int = 10
    checkpoint_seconds: float = 20.0
    head: Literal["auto", "model"] = "auto"
    embedding_rate: float = 1.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"RunSpec: {name}={value!r} must be one of {', '.join(known)} (change {name})")
        for name, (fits, holds, rule) in RANGES.items():
            value = getattr(self, name)
            if not (fits(value) and holds(value)):
                raise ValueError(f"RunSpec: {name}={value!r} must be {rule} (change {name})")
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"RunSpec: warmup_steps={self.warmup_steps} must be at most steps={self.steps} (change either)"
            )
        if self.carry_reset and not self.carry_state:
            raise ValueError(
                f"RunSpec: carry_reset={self.carry_reset} has no effect without carry_state, for then every row starts "
                "from no state (leave it out, or set carry_state=True)"
            )
        object.__setattr__(self, "betas", tuple(self.betas))  # a list is another value to a checkpoint

    def fixed(self) -> dict[str, Any]:
        """What a run cannot change when it is resumed: everything that its result depends on."""
        free = ["name", "device", "log_interval", "checkpoint_seconds"]
        if self.embedding_rate == 1:  # so that runs begun before there was such a rate can be resumed
            free.append("embedding_rate")
        return {name: value for name, value in asdict(self).items() if name not in free}


@dataclass(frozen=True)
class TrainingResult:
    """What was measured. Losses are in nats a token; times are seconds of training, without warm-up, validation and
    checkpoints.

    Attributes:
        steps, tokens: done in all, over every call that resumed the run.
        seconds: time of training.
        epoch_losses, epoch_seconds: mean training loss and time of each epoch (the last may be a part of one).
        log: one dict a log line: step, tokens, seconds, loss (mean since the line before), lr, grad_norm,
            tokens_per_second, and measures, the means of what the model reports of itself, where it does.
        validation_log: one dict a validation: step, seconds, perplexity.
        peak_memory_mb, peak_memory_kind: of the steps, validations and checkpoints of this run; see `training.memory`.
        head: "fused" or "model" (see `training.loss`).
        backend: operator -> backend that ran, or "torch" where no operator of ours took part.
        device: for example "cpu".
        profile: "seconds_per_step" by phase (data, forward, backward, optimizer, logging; on a CPU only) and
            "seconds_outside" the clock in all (warm_up, validation, checkpoints; but the last checkpoint of a call that
            was stopped, whose time is not in it).
        resumed_from: step of the checkpoint that this call continued; None for a fresh run.
        calls: one dict a call that trained: `from_step`, and what `train` was told `about` it.
    """

    steps: int
    tokens: int
    seconds: float
    epoch_losses: list[float]
    epoch_seconds: list[float]
    log: list[dict[str, Any]]
    validation_log: list[dict[str, Any]]
    peak_memory_mb: float
    peak_memory_kind: str
    head: str
    backend: dict[str, str] | str
    device: str
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
    resumed_from: int | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)


def training_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means on this machine.

    Raises:
        ValueError: another name; a GPU is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name}: must be auto (a GPU where there is one), cpu or cuda; set one of them")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: PyTorch sees no CUDA GPU here; set device=auto or device=cpu")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")


class NonFiniteLossError(ValueError):
    """The training loss, or its gradient, stopped being a number.

    Attributes:
        step: in which it did; None where the error tells of several runs.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step
