"""A whole training step (forward, loss, backward, clip, AdamW, schedule) of our model beside its peers, and where its
time goes.

Models, loss and optimizer are those of `resnet-bk bench` for a protocol in float32 with AdamW: the shape, the settings
and the sizing to equal parameters come from one. The schedule has no warm-up, which moves the weights and not the time.
"""

import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gate import Check
from benchmarks.row import OURS, Row, Table, Target, comparison
from resnet_bk.bench.audit import audit_causality
from resnet_bk.bench.peers import KNOWN, build_model
from resnet_bk.bench.protocol import Protocol, load_protocol
from resnet_bk.bench.resolve import protocol_config
from resnet_bk.bench.run import audit_lengths
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.bench.training_settings import training_settings
from resnet_bk.training import RunSpec, choose_head
from resnet_bk.training.optimizer import build_optimizer, build_schedule
from resnet_bk.training.step import training_step

CASE = "training step"
CANDIDATE, PEERS = "resnet-bk", ("gpt2", "llama")
PROTOCOL = "quick"
SETTINGS = ("vocab_size=30000",)
QUICK_SETTINGS = (
    *("vocab_size=200", "hidden_size=16", "num_heads=2", "num_layers=1"),
    *("sequence_length=16", "batch_size=2", "parameter_tolerance=0.2"),
)
SECONDS_A_STEP = 0.10
PHASES = ("trunk forward", "head forward", "head backward", "trunk backward", "clip", "optimizer")
# Of phases of `training_step` whose first part the hooks of a step take off.
NAMES = {"forward": "head forward", "backward": "trunk backward"}
PROFILED_STEPS, OPERATORS_SHOWN = 5, 10
STEPS_ON_ONE_BATCH = 8
# Of a model without a rate in the protocol; it moves the weights and not the time.
LEARNING_RATE = 1e-3


class Trainer:
    """One model and what trains it; `step` is what is timed, and notes its phases."""

    def __init__(self, protocol: Protocol, name: str) -> None:
        entry = protocol.models.get(name)
        self.model = build_model(protocol_config(protocol, name), seed=0).train()
        self.spec = RunSpec(
            name=name,
            steps=1_000_000,
            learning_rate=(entry and entry.learning_rate) or LEARNING_RATE,
            carry_state=entry is not None and entry.carry_state,
            **training_settings(protocol, name),
        )
        generator = torch.Generator().manual_seed(0)
        shape = (protocol.batch_size, protocol.sequence_length + 1)
        words = torch.randint(self.model.config.vocab_size, shape, generator=generator)
        self.input_ids, self.targets = words[:, :-1].contiguous(), words[:, 1:].contiguous()
        self.head = choose_head(self.model, self.input_ids)
        self.optimizer = build_optimizer(self.model, self.spec)
        self.schedule = build_schedule(self.optimizer, self.spec)
        self.carried: Any = None
        self.phases: list[dict[str, float]] = []
        self._since = 0.0

    def step(self) -> float:
        """One optimizer step; the loss before it."""
        self.phases.append({})
        # Only for the step: a copy of the model (the audit makes one) must not note into these phases.
        hook = self.model.base_model.register_forward_hook(self._after_trunk)
        self._since = time.perf_counter()
        taken = training_step(
            self.model,
            self.optimizer,
            (self.input_ids, self.targets),
            self.head,
            self.spec,
            state=self.carried,
            schedule=self.schedule,
            lap=lambda phase: self._lap(NAMES.get(phase, phase)),
        )
        hook.remove()
        self.carried = taken.state
        return taken.loss.item()

    def _after_trunk(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._lap("trunk forward")
        output.last_hidden_state.register_hook(self._after_head)

    def _after_head(self, _gradient: Tensor) -> None:
        self._lap("head backward")

    def _lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[-1][phase] = now - self._since
        self._since = now


def rows(quick: bool, models: Iterable[str] = PEERS) -> Iterator[Row]:
    """Rows of our model and of `models` beside it, names of `resnet_bk.bench.peers.KNOWN`."""
    protocol = load_protocol(PROTOCOL, QUICK_SETTINGS if quick else SETTINGS)
    trainers = {OURS if name == CANDIDATE else name: Trainer(protocol, name) for name in (CANDIDATE, *models)}
    ours = trainers[OURS]
    row = comparison(
        CASE,
        f"B={protocol.batch_size}, T={protocol.sequence_length}, {protocol.hidden_size} wide, "
        f"{protocol.num_layers} layers, {protocol.vocab_size:,} words",
        {name: trainer.step for name, trainer in trainers.items()},
        partial(checks, trainers, protocol),
        seconds=0.05 if quick else 45.0,
        most_rounds=1 if quick else 101,
        notes=tuple(describe(name, CANDIDATE if name == OURS else name, trainer) for name, trainer in trainers.items()),
    )
    reached = row.timings[OURS].seconds.median if row.timings else None
    yield replace(row, targets=(Target("seconds a step", "at most", SECONDS_A_STEP, reached),))
    if row.red:
        return
    yield phases_row(trainers)
    yield operators_row(ours)


def describe(contender: str, model: str, trainer: Trainer) -> str:
    """What a reader must know of a contender, in a line."""
    return (
        f"{contender}: {model}, {count_parameters(trainer.model)} parameters, head: {trainer.head}"
        f"{', state carried from step to step' if trainer.spec.carry_state else ''}"
    )


def check_names(names: Iterable[str]) -> None:
    """
    Raises:
        ValueError: a name that is no known peer.
    """
    for name in names:
        if name not in KNOWN or name == CANDIDATE:
            others = ", ".join(known for known in KNOWN if known != CANDIDATE)
            raise ValueError(f"--models {name}: must be among {others} ({CANDIDATE} always runs); correct the name")


def checks(trainers: dict[str, Trainer], protocol: Protocol) -> Iterator[Check]:
    """What is timed must train, and ours cannot see the answer."""
    for name, trainer in trainers.items():
        yield from learns(name, trainer, STEPS_ON_ONE_BATCH)
    audit = audit_causality(trainers[OURS].model, protocol.vocab_size, lengths=audit_lengths(protocol.sequence_length))
    yield Check(f"{OURS}: {audit.verdict}", float(audit.verdict != "causal"), 0.0)


def learns(name: str, trainer: Trainer, steps: int) -> Iterator[Check]:
    """The loss of a step is that of the model's own logits, and steps on one batch bring it down; then the weights are
    as before."""
    model = trainer.model
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        own = F.cross_entropy(model(input_ids=trainer.input_ids).logits.flatten(0, 1), trainer.targets.flatten()).item()
    losses = []
    for _ in range(steps):
        trainer.carried = None  # a state that has read these words would lower the loss without any learning
        losses.append(trainer.step())
    # Float32 sums over some thousand tokens and V words, in another order.
    yield Check(f"{name}: loss against the model's own logits", abs(losses[0] / own - 1), 1e-5)
    yield Check(f"{name}: last loss over first, on one batch", losses[-1] / losses[0], 0.9999)
    model.load_state_dict(before)
    trainer.carried = None


def phases_row(trainers: dict[str, Trainer]) -> Row:
    """Medians of the phases over all timed steps. A fused head forms its gradient in the forward pass."""
    columns = ("phase, ms", *trainers)
    last = {name: trainer.phases[STEPS_ON_ONE_BATCH:] for name, trainer in trainers.items()}
    lines = tuple(
        (phase, *(1000 * float(np.median([step.get(phase, 0.0) for step in steps])) for steps in last.values()))
        for phase in PHASES
    )
    return Row(CASE, "where the time of a step goes", table=Table(columns, lines))


def operators_row(trainer: Trainer) -> Row:
    """PyTorch's profiler over a few steps of ours: the operators with the most time of their own."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED_STEPS):
            trainer.step()
    events = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    whole = sum(event.self_cpu_time_total for event in events)
    lines = tuple(
        (
            event.key,
            event.count / PROFILED_STEPS,
            event.self_cpu_time_total / PROFILED_STEPS / 1000,
            100 * event.self_cpu_time_total / whole,
        )
        for event in events[:OPERATORS_SHOWN]
    )
    columns = ("operator", "calls a step", "ms a step", "% of the step")
    note = "under PyTorch's profiler, which slows a step down: read the shares"
    return Row(
        CASE, f"operators of {CANDIDATE} with the most time of their own", table=Table(columns, lines), notes=(note,)
    )
