"""A training step at longer and longer segments, the number of tokens a step the same: its time, the length from which
ours is faster, and its memory.

The models have the shape of `small` and parameters equal to within 2%, in float32 with AdamW (`small` itself trains in
bfloat16 with Muon); tokens are random. Ours is shown without its pointer too, to see what that costs.

Shape legend: B segments, T tokens each.
"""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from benchmarks.cases.attention import crossovers
from benchmarks.cases.gradients import errors
from benchmarks.cases.training_step import Trainer, describe, learns
from benchmarks.gate import Check
from benchmarks.memory import peaks
from benchmarks.row import OURS, Row, Table, comparison
from resnet_bk.bench.protocol import Protocol, load_protocol
from resnet_bk.training import causal_lm_loss
from resnet_bk.training.loss import Head

CASE = "training by length"
PROTOCOL = "small"
QUICK_SETTINGS = (
    *("vocab_size=200", "hidden_size=16", "num_heads=2", "num_layers=1"),
    *("parameters_without_embeddings=null", "parameter_tolerance=0.5"),
)
TOKENS, LENGTHS = 8192, (512, 2048, 8192)
QUICK_TOKENS, QUICK = 64, (16, 32)
POINTERLESS, LLAMA = "ours without the pointer", "llama"
CONTENDERS = {OURS: "resnet-bk", POINTERLESS: "no-pointer", LLAMA: "llama"}
LEARNING_RATE = 1e-3  # of AdamW; those of the protocol are Muon's
STEPS = 3  # on one batch, to see that the loss falls
# Gradients are compared with float64 up to this length: the truth comes from logits, for which the pointer forms all
# pairs of tokens, and beyond it they would not fit into memory.
COMPARED_UP_TO = 2048
# Of float32 in six layers: rounding of 6e-8, times the sites that a chain remembers (about 100), the layers, and 4.
TOLERANCE = 1.5e-4


def load(quick: bool, length: int) -> Protocol:
    """The protocol at one length."""
    batch = (QUICK_TOKENS if quick else TOKENS) // length
    rates = (f"models.{name}.learning_rate={LEARNING_RATE}" for name in CONTENDERS.values())
    settings = (f"sequence_length={length}", f"batch_size={batch}", "optimizer=adamw", "dtype=float32", *rates)
    return load_protocol(PROTOCOL, (*(QUICK_SETTINGS if quick else ()), *settings))


def rows(quick: bool) -> Iterator[Row]:
    """A row a length, from which length on ours is faster, and memory."""
    lengths = QUICK if quick else LENGTHS
    found: dict[int, Row] = {}
    for length in lengths:
        protocol = load(quick, length)
        trainers = {contender: Trainer(protocol, CONTENDERS[contender]) for contender in CONTENDERS}
        notes: tuple[str, ...] = ()
        if length == lengths[0]:
            notes = tuple(describe(name, CONTENDERS[name], trainer) for name, trainer in trainers.items())
        elif length > COMPARED_UP_TO:
            notes = ("gradients were not compared with float64, which takes too much memory at this length",)
        found[length] = comparison(
            CASE,
            f"B={protocol.batch_size}, T={length:,}, {protocol.hidden_size} wide, {protocol.num_layers} layers, "
            f"vocabulary of {protocol.vocab_size:,}",
            {name: trainer.step for name, trainer in trainers.items()},
            partial(checks, trainers, compare=length <= COMPARED_UP_TO),
            seconds=0.05 if quick else 45.0,
            most_rounds=1 if quick else 21,
            notes=notes,
        )
        yield found[length]
    yield from crossovers(found, CASE, (OURS, POINTERLESS), LLAMA, "a training step")
    yield memory(quick, lengths)


def checks(trainers: dict[str, Trainer], *, compare: bool) -> Iterator[Check]:
    """What is timed trains (`learns`), and follows the gradient of the loss: that of one segment, in float64."""
    for name, trainer in trainers.items():
        yield from learns(name, trainer, STEPS)
        if compare:
            tokens, targets = trainer.input_ids[:1], trainer.targets[:1]
            found = gradients(trainer, tokens, targets, trainer.head)
            trainer.model.double()
            off = errors(found, gradients(trainer, tokens, targets, "model"))
            trainer.model.float()
            worst = max(off, key=lambda key: off[key])
            yield Check(f"{name}: gradient of {worst}", off[worst], TOLERANCE)


def gradients(trainer: Trainer, tokens: Tensor, targets: Tensor, head: Head) -> dict[str, Tensor]:
    """Of every parameter, in float64."""
    causal_lm_loss(trainer.model, tokens, targets, head).value.backward()
    found = {name: parameter.grad.double() for name, parameter in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    return found


def memory(quick: bool, lengths: tuple[int, ...]) -> Row:
    """Of a first step, the moments of the optimizer included."""
    points = [(quick, length, contender) for length in lengths for contender in CONTENDERS]
    used, notes = peaks(a_step, [(point, (True, QUICK[0], point[2])) for point in points])
    found = dict(zip(points, used, strict=True))
    lines = tuple((length, *(found[quick, length, contender] for contender in CONTENDERS)) for length in lengths)
    columns = ("tokens a segment", *CONTENDERS)
    return Row(CASE, "peak MiB of a step", table=Table(columns, lines), notes=notes)


def a_step(quick: bool, length: int, contender: str) -> Callable[[], float]:
    return Trainer(load(quick, length), CONTENDERS[contender]).step
