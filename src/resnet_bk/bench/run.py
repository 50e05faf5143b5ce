"""One run: audit, training, evaluation."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from resnet_bk.bench.audit import Audit, audit_causality
from resnet_bk.bench.data import Prepared
from resnet_bk.bench.environment import environment
from resnet_bk.bench.flops.count import StepFlops, depends_on_text, step_flops
from resnet_bk.bench.held_out import evaluate_validation, measure_held_out, reached
from resnet_bk.bench.json_files import write_json
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.run_folder import Run
from resnet_bk.bench.run_result import result_of, result_of_diverged, run_record
from resnet_bk.bench.training_settings import training_settings
from resnet_bk.data import TokenStream
from resnet_bk.data.saved_tokenizer import never_written
from resnet_bk.training import NonFiniteLossError, RunSpec, TrainingResult, perplexity, train, training_device
from resnet_bk.training.loss import Head

WARMUP_SHARE = 0.1


def execute(run: Run, protocol: Protocol, prepared: Prepared, config: Any, say: Callable[[str], None]) -> None:
    """Carry out a run, or go on with one that was stopped, and write its result.

    Args:
        run: which, and where.
        protocol: the protocol.
        prepared: its data.
        config: configuration of the model.
        say: prints a line.

    A run whose loss or gradient is no number has a result too, with the reason as `diverged`: without figures if that
    was in the training, with those of the training if it was in the held-out text.
    """
    model = build_model(config, run.seed).to(training_device(protocol.device))
    audit = _audit(run, model, protocol, prepared, say)
    flops = step_flops(model, protocol.batch_size, protocol.sequence_length, optimizer=protocol.optimizer_of(run.model))
    try:
        trained = _train(run, model, protocol, prepared, config, audit)
    except NonFiniteLossError as error:
        write_json(run.folder / "result.json", result_of_diverged(run, protocol, prepared, model, audit, error))
        return
    for line in describe_epochs(trained):
        say(f"{run.title}: {line}")
    by_text = depends_on_text(model.config)
    if by_text and audit.verdict == "causal":  # before the training hardly anything was skipped
        audit = _audit(run, model, protocol, prepared, say)
    say(f"{run.title}: measuring on {len(prepared.validation.tokens):,} held-out tokens")  # which may take minutes
    held_out = measure_held_out(run, model, protocol, prepared, trained, audit)
    if by_text:
        flops = _flops_of_text(run, model, protocol, prepared)
    _save(run, model, prepared)
    result = result_of(run, protocol, prepared, model, trained, held_out, flops, audit)
    write_json(run.folder / "result.json", result)
    unknown = prepared.validation.unknown_rate
    words = f" ({unknown:.1%} of the held-out tokens are <unk>)" if unknown else ""
    say(f"{run.title}: {reached(held_out)}{words}, {trained.steps} steps in {trained.seconds:.0f} s")


def _audit(run: Run, model: Any, protocol: Protocol, prepared: Prepared, say: Callable[[str], None]) -> Audit:
    """The short audit, which says so where the model leaks."""
    audit = audit_causality(model, len(prepared.tokenizer), lengths=audit_lengths(protocol.sequence_length))
    if audit.verdict == "leaks":
        say(f"{run.title}: the model LEAKS and gets no perplexity: {audit.detail}")
    return audit


def _train(run: Run, model: Any, protocol: Protocol, prepared: Prepared, config: Any, audit: Audit) -> TrainingResult:
    """Write run.json, and train or go on; a model that leaks is not validated meanwhile."""
    stream = TokenStream(prepared.train.tokens, protocol.batch_size, protocol.sequence_length)
    spec = run_spec(protocol, run, stream.steps_per_epoch)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / "run.json", run_record(run, protocol, prepared, config, spec))

    def validate(model: Any, head: Head) -> float:
        return evaluate_validation(model, head, protocol, prepared, carry_state=spec.carry_state).perplexity

    causal = audit.verdict == "causal"
    return train(
        model,
        stream,
        spec,
        run.folder,
        about={"environment": environment()},
        validate=validate if causal else None,
        validation_steps=validation_steps(spec.steps, protocol.evaluations) if causal else (),
    )


def _flops_of_text(run: Run, model: Any, protocol: Protocol, prepared: Prepared) -> StepFlops:
    """Of the first batch of the training text, for a model that skips by what the text is."""
    words = first_tokens(prepared, protocol)
    batch, length = words.shape
    return step_flops(model, batch, length, words, optimizer=protocol.optimizer_of(run.model))


def _save(run: Run, model: Any, prepared: Prepared) -> None:
    """The model and its tokenizer, as `save_pretrained` of both writes them."""
    disable_progress_bar()  # of transformers, which would draw into ours
    if model.can_generate():
        model.generation_config.suppress_tokens = never_written(prepared.tokenizer) or None
    model.save_pretrained(run.folder / "model")
    prepared.tokenizer.save_pretrained(run.folder / "model")


def planned_steps(protocol: Protocol, steps_per_epoch: int) -> int:
    """Optimizer steps of a run."""
    return protocol.steps if protocol.steps is not None else protocol.epochs * steps_per_epoch


def run_spec(protocol: Protocol, run: Run, steps_per_epoch: int) -> RunSpec:
    """Settings of the training loop."""
    steps = planned_steps(protocol, steps_per_epoch)
    warmup = round(WARMUP_SHARE * steps) if protocol.warmup_steps is None else protocol.warmup_steps
    return RunSpec(
        name=run.title,
        steps=steps,
        learning_rate=run.learning_rate,
        warmup_steps=warmup,
        seed=run.seed,
        carry_state=protocol.models[run.model].carry_state,
        carry_reset=protocol.models[run.model].carry_reset,
        log_interval=protocol.log_interval,
        checkpoint_seconds=protocol.checkpoint_seconds,
        head=protocol.models[run.model].head,
        **training_settings(protocol, run.model),
    )


def first_tokens(prepared: Prepared, protocol: Protocol) -> Tensor:
    """The first batch of the training text, int64 [B, T]."""
    return TokenStream(prepared.train.tokens, protocol.batch_size, protocol.sequence_length).next_batch()[0]


def validation_steps(steps: int, evaluations: int) -> list[int]:
    """Evenly spaced steps at which to validate, without the last step: that evaluation is made after training."""
    return sorted({round(steps * i / evaluations) for i in range(1, evaluations)} - {0, steps})


def describe_epochs(trained: TrainingResult) -> list[str]:
    """A line an epoch: its mean training loss, the perplexity of that, its time."""
    count = len(trained.epoch_losses)
    return [
        f"epoch {number}/{count}  training loss {loss:.4f}, perplexity {perplexity(loss):.2f}, {seconds:.0f} s"
        for number, loss, seconds in zip(range(1, count + 1), trained.epoch_losses, trained.epoch_seconds, strict=True)
    ]


def audit_lengths(longest: int) -> list[int]:
    """Lengths to audit a model that takes at most `longest` tokens."""
    return sorted({min(length, longest) for length in (2, 17, 65, longest)})
