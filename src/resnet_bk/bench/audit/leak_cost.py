"""What a leak buys, in nats a token.

Two figures, both of held-out text:

- In evaluation, of any model: the loss as it is usually computed (the whole segment goes through the model at once,
  teacher forcing) against the loss when every prediction is made from the prefix alone, the segment cut off before the
  word that is to be predicted. For a causal model the two are the same but for rounding. Where a model leaks, the
  difference is what it reads from tokens that it will not have when it is used.
- In training, where the causal twin of a model is known: model and twin start from the same weights and see the same
  batches; the difference of their usual losses is what a reader of a table of losses would take for progress.

Shape legend: S segments, T tokens of a segment, V vocabulary.
"""

import copy
import inspect
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.bench.audit.leak_setup import LeakSetup
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.run import WARMUP_SHARE
from resnet_bk.bench.runner import deterministic
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.bench.training_settings import training_settings
from resnet_bk.data import TokenStream, held_out_batches
from resnet_bk.training import RunSpec, train, training_device

STEPS = 200
SEGMENTS = 32


@dataclass(frozen=True)
class Measured:
    """One model.

    Attributes:
        name: of the model; its twin's says so.
        parameters: in all.
        steps: that it was trained for this comparison; None for a model that came with its weights.
        training_loss: mean over the last tenth of those steps, or less where ten does not divide them, nats a token.
        whole: held-out loss with the whole segment in view, nats a token.
        prefix: the same predictions, each from its prefix alone.
        bought: prefix - whole.
        standard_error: of `bought`, over segments; None for a single segment.
    """

    name: str
    parameters: int
    steps: int | None
    training_loss: float | None
    whole: float
    prefix: float
    bought: float
    standard_error: float | None


@dataclass(frozen=True)
class LeakCost:
    """All that was measured, and on what.

    Attributes:
        model: its name.
        data: of the corpus.
        segments, tokens_per_segment, predictions: held-out text that was looked at.
        steps, learning_rate, seed, batch_size: of the models that were trained here; None where none was.
        device: that did the work.
        rows: the model, then, where there is one, its causal twin.
        bought_in_training: twin's `whole` - model's `whole`, None where there is no twin.
    """

    model: str
    data: str
    segments: int
    tokens_per_segment: int
    predictions: int
    steps: int | None
    learning_rate: float | None
    seed: int
    batch_size: int
    device: str
    rows: tuple[Measured, ...]
    bought_in_training: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """What the figures say."""
        first, last = self.rows[0], self.rows[-1]
        error = "" if first.standard_error is None else f" ± {first.standard_error:.4f}"
        said = [
            f"{first.name}: later tokens of the segment buy {nats(first.bought)}{error} nats a token "
            f"(loss {first.whole:.4f} with the whole segment in view, {first.prefix:.4f} from the prefix alone)"
        ]
        if self.bought_in_training is not None:
            leaking = self.rows[-2]
            gap = leaking.prefix - last.prefix
            said.append(
                f"trained alike for {last.steps} steps, the leak shows as {nats(self.bought_in_training)} nats a token "
                f"({leaking.name} {leaking.whole:.4f}, {last.name} {last.whole:.4f}); from the prefix alone the causal "
                f"one is {'better' if gap > 0 else 'worse'} by {abs(gap):.4f}"
            )
        return said


def nats(value: float) -> str:
    """Four decimals, and no minus in front of nothing."""
    return f"{round(value, 4) + 0.0:.4f}"


def causal_twin(config: Any) -> Any | None:
    """The configuration of the same model without its leak, where one is known."""
    if getattr(config, "green", None) != "two_sided":
        return None
    twin = copy.deepcopy(config)
    twin.green = "surface"
    twin.check()
    return twin


def measure_leak(setup: LeakSetup, *, steps: int = STEPS, segments: int = SEGMENTS) -> LeakCost:
    """What a leak of the model buys. A model without weights is trained first; where a causal twin is known, a fresh
    model and the twin are, whatever weights there are.

    Args:
        setup: model and text.
        steps: of training, where something is trained.
        segments: held-out segments to look at.

    Raises:
        ValueError: a number of steps or segments below 1, too little text, or a training loss that is not a number.
    """
    check_counts(steps=steps, segments=segments)
    protocol = setup.protocol
    device = training_device(protocol.device)
    inputs, targets = held_out_segments(setup, segments)
    twin = causal_twin(setup.config)
    rows = []
    if setup.model is not None:
        rows.append(_measured(setup.name, setup.model.to(device), None, None, inputs, targets))
    if setup.model is None or twin is not None:
        for label, config in ((setup.name, setup.config), (f"{setup.name}, causal twin", twin)):
            if config is not None:
                trained, loss = _train(label, config, setup, steps)
                rows.append(_measured(label, trained, steps, loss, inputs, targets))
                del trained
    any_trained = rows[-1].steps is not None
    return LeakCost(
        model=setup.name,
        data=setup.data,
        segments=len(inputs),
        tokens_per_segment=inputs.shape[1],
        predictions=int((targets >= 0).sum()),
        steps=steps if any_trained else None,
        learning_rate=setup.learning_rate if any_trained else None,
        seed=protocol.seeds[0],
        batch_size=protocol.batch_size,
        device=str(device),
        rows=tuple(rows),
        bought_in_training=rows[-1].whole - rows[-2].whole if twin is not None else None,
    )


def check_counts(**counts: int | None) -> None:
    """Numbers of the command line, by the name of their option; None for the default.

    Raises:
        ValueError: a number below 1.
    """
    for option, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"--{option} {value}: must be at least 1; leave it out for the default")


def held_out_segments(setup: LeakSetup, segments: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the first held-out segments, int64 [S, T] each; targets are -100 beyond the text."""
    protocol = setup.protocol
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in held_out_batches(
        setup.validation.tokens, min(protocol.batch_size, segments), protocol.sequence_length
    ):
        parts.append(batch)
        if sum(len(inputs) for inputs, _ in parts) >= segments:
            break
    inputs, targets = (torch.cat(tensors)[:segments] for tensors in zip(*parts, strict=True))
    kept = (targets >= 0).any(1)
    return inputs[kept], targets[kept]


@torch.no_grad()
def whole_and_prefix_losses(model: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log likelihood of every target, float64 [S, T], 0 where the target is -100.

    The first has the whole segment in view, as losses of language models are computed. The second is the same
    prediction made by a model that was given nothing but the tokens up to it: T calls, of 1 to T tokens.
    """
    options: dict[str, Any] = {}
    arguments = inspect.signature(model.forward).parameters
    if "use_cache" in arguments:
        options["use_cache"] = False
    last = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}
    length = inputs.shape[1]
    whole = _losses(model(input_ids=inputs, **options).logits, targets)
    columns = []
    for stop in range(1, length + 1):
        logits = model(input_ids=inputs[:, :stop], **options, **last).logits[:, -1:]
        columns.append(_losses(logits, targets[:, stop - 1 : stop]))
    return whole, torch.cat(columns, dim=1)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """[S, T, V] and [S, T] to float64 [S, T]."""
    flat = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape).double()


def _measured(
    name: str, model: Any, steps: int | None, training_loss: float | None, inputs: Tensor, targets: Tensor
) -> Measured:
    model.eval()
    device = next(model.parameters()).device
    wholes, prefixes = [], []
    for rows, wanted in zip(inputs.split(16), targets.split(16), strict=True):
        whole, prefix = whole_and_prefix_losses(model, rows.to(device), wanted.to(device))
        wholes.append(whole.cpu())
        prefixes.append(prefix.cpu())
    counts = (targets >= 0).sum(1).double()
    whole, prefix = torch.cat(wholes).sum(1), torch.cat(prefixes).sum(1)
    total = float(counts.sum())
    bought = (prefix - whole) / counts  # of each segment
    error = float(bought.std() / math.sqrt(len(bought))) if len(bought) > 1 else None
    return Measured(
        name=name,
        parameters=count_parameters(model).total,
        steps=steps,
        training_loss=training_loss,
        whole=float(whole.sum()) / total,
        prefix=float(prefix.sum()) / total,
        bought=float((prefix - whole).sum()) / total,
        standard_error=error,
    )


def _train(label: str, config: Any, setup: LeakSetup, steps: int) -> tuple[Any, float]:
    """A fresh model, trained; and its mean loss over the last tenth of the steps or less. Nothing is kept on disk."""
    protocol = setup.protocol
    spec = RunSpec(
        name=label,
        steps=steps,
        learning_rate=setup.learning_rate,
        warmup_steps=round(WARMUP_SHARE * steps),
        seed=protocol.seeds[0],
        log_interval=max(1, steps // 10),
        checkpoint_seconds=math.inf,
        **training_settings(protocol, setup.name),
    )
    stream = TokenStream(setup.train.tokens, protocol.batch_size, protocol.sequence_length)
    model = build_model(config, spec.seed)
    with tempfile.TemporaryDirectory(prefix="resnet-bk-leak-") as folder, deterministic():
        trained = train(model, stream, spec, Path(folder))
    return model, float(trained.log[-1]["loss"])
