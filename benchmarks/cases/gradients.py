"""The three gradients of a chain (`gradient` of the configuration) in one training step of our model: time, memory, and
how far each is from the gradient of the loss.

    exact      the hand-derived adjoint, in the compiled backend and in plain PyTorch
    diagonal   what a site does to the others left out; plain PyTorch
    autograd   PyTorch's own, through the loop over sites

All have the fused head, so that nothing but the chains differs. The truth is autograd in float64. Weights are those of
a fresh model and words are random: how much the diagonal gradient misses depends on both.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import Check
from benchmarks.memory import peaks
from benchmarks.row import OURS, Row, Table, comparison
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import Protocol, load_protocol
from resnet_bk.bench.resolve import protocol_config
from resnet_bk.training import causal_lm_loss
from resnet_bk.training.loss import Head

CASE = "gradients"
PROTOCOL, MODEL = "ablation", "exact"
QUICK_SETTINGS = (
    *("vocab_size=200", "hidden_size=16", "num_heads=2", "num_layers=1"),
    *("sequence_length=16", "batch_size=2"),
)
# Contender -> what its configuration says; the first is what a model has by default.
CONTENDERS: dict[str, dict[str, str]] = {
    OURS: {"gradient": "exact"},
    "exact, plain PyTorch": {"gradient": "exact", "backend": "chunked"},
    "diagonal": {"gradient": "diagonal"},
    "autograd": {"gradient": "autograd"},
}
INCOMPLETE = "diagonal"
# Of float32 in four layers: rounding of 6e-8, times the sites that a chain remembers (about 100), the layers, and 4.
TOLERANCE = 1e-4


class Step:
    """Forward and backward of one contender; no optimizer, whose time is the same for all."""

    def __init__(self, quick: bool, contender: str, dtype: torch.dtype = torch.float32) -> None:
        protocol = _protocol(quick, contender)
        config = protocol_config(protocol, MODEL)
        self.model = build_model(config, seed=0).to(dtype).train()
        self.head: Head = "fused" if dtype == torch.float32 else "model"
        generator = torch.Generator().manual_seed(0)
        shape = (protocol.batch_size, protocol.sequence_length + 1)
        words = torch.randint(config.vocab_size, shape, generator=generator)
        self.input_ids, self.targets = words[:, :-1].contiguous(), words[:, 1:].contiguous()

    def __call__(self) -> Tensor:
        """The loss; gradients are in the parameters."""
        self.model.zero_grad()
        loss = causal_lm_loss(self.model, self.input_ids, self.targets, self.head).value
        loss.backward()
        return loss.detach()

    def gradients(self) -> dict[str, Tensor]:
        """Of every parameter, in float64."""
        self()
        return {name: parameter.grad.double() for name, parameter in self.model.named_parameters()}


def _protocol(quick: bool, contender: str) -> Protocol:
    fields = (f"models.{MODEL}.config.{field}={value}" for field, value in CONTENDERS[contender].items())
    return load_protocol(PROTOCOL, (*(QUICK_SETTINGS if quick else ()), *fields))


def rows(quick: bool) -> Iterator[Row]:
    """Time, then error and memory."""
    protocol = _protocol(quick, OURS)
    steps = {name: Step(quick, name) for name in CONTENDERS}
    found: dict[str, dict[str, float]] = {}

    def gate() -> Iterator[Check]:
        truth = Step(quick, "autograd", torch.float64).gradients()
        found.update({name: errors(step.gradients(), truth) for name, step in steps.items()})
        yield from checks(steps, found)

    row = comparison(
        CASE,
        f"B={protocol.batch_size}, T={protocol.sequence_length}, {protocol.hidden_size} wide, "
        f"{protocol.num_layers} layers, {protocol.vocab_size:,} words, forward and backward",
        dict(steps),
        gate,
        seconds=0.05 if quick else 40.0,
        most_rounds=1 if quick else 41,
    )
    yield row
    if row.red:
        return
    used, notes = peaks(Step, [((quick, name), (True, name)) for name in CONTENDERS])
    columns = ("gradient", "error of the whole", "largest error of a parameter", "of", "peak MiB")
    lines = tuple(
        (name, off["all"], max(off.values()), max(off, key=lambda key: off[key]), mebibytes)
        for (name, off), mebibytes in zip(found.items(), used, strict=True)
    )
    yield Row(
        CASE,
        "error of the gradient against float64, and memory of a step",
        table=Table(columns, lines),
        notes=("an error is |g - g64| / |g64|, Euclidean norm, of all parameters together or of one", *notes),
    )


def errors(gradients: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """|g - g64| / |g64| of every parameter, and of all of them together under the name `all`."""
    missed = {name: (gradients[name] - right).norm() for name, right in truth.items()}
    sizes = {name: right.norm() for name, right in truth.items()}
    whole = torch.stack(list(missed.values())).norm() / torch.stack(list(sizes.values())).norm()
    return {"all": whole.item()} | {name: (missed[name] / sizes[name]).item() for name in truth}


def checks(steps: dict[str, Step], found: dict[str, dict[str, float]]) -> Iterator[Check]:
    """All have one loss, and all gradients but the incomplete one are that of the loss."""
    losses: dict[str, Any] = {name: step() for name, step in steps.items()}
    for name, loss in losses.items():
        # Float32 sums over some thousand tokens and V words, in another order.
        yield Check(f"{name}: loss against ours", abs(loss / losses[OURS] - 1).item(), 1e-5)
        if name != INCOMPLETE:
            worst = max(found[name], key=lambda key: found[name][key])
            yield Check(f"{name}: gradient of {worst}", found[name][worst], TOLERANCE)
