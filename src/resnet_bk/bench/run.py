"""One run: audit, training, evaluation, and the record of all that was measured."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from resnet_bk.bench.audit import Audit, audit_causality
from resnet_bk.bench.data import Prepared
from resnet_bk.bench.documents import document_sums
from resnet_bk.bench.environment import environment
from resnet_bk.bench.flops import StepFlops, depends_on_text, step_flops
from resnet_bk.bench.peers import build_model, is_causal_lm
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.run_folder import Run, read_json, settings_of, write_json
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.data import TokenCache, TokenStream, held_out_batches, overlapping_batches
from resnet_bk.data.saved_tokenizer import never_written
from resnet_bk.training import (
    Evaluation,
    NonFiniteLossError,
    RunSpec,
    TrainingResult,
    evaluate,
    perplexity,
    train,
    training_device,
)
from resnet_bk.training.loss import Head
from resnet_bk.training.memory import MIB
from resnet_bk.training.threads import same_threads

WARMUP_SHARE = 0.1
# What `held_out_views` of a protocol may name -> the key of the result.
VIEWS = {
    "not_carried": "held_out_perplexity_without_carry",
    "overlapping": "held_out_perplexity_overlapping",
}
LOGGED = ("step", "seconds", "loss", "measures")
# Keys of every result, in the order of the file; docs/benchmark.md says what they mean. What was not measured is None.
KEYS = (
    "model_name", "git_commit", "git_dirty", "environment", "dataset_name", "config", "seed", "learning_rate",
    "carry_state", "parameters", "parameters_without_embeddings", "vocab_size", "device", "steps", "total_tokens",
    "training_time", "seconds_per_step", "tokens_per_second", "final_loss", "final_perplexity", "best_perplexity",
    "epoch_losses", "epoch_perplexities", "epoch_times", "peak_memory_mb", "peak_memory_kind", "model_size_mb",
    "backend", "head", "profile", "log", "calls", "forward_flops", "backward_flops", "optimizer_flops",
    "total_flops_per_step", "flops_convention", "flops_counted_on", "total_training_flops", "unk_rate",
    "test_perplexity", "test_perplexity_without_carry", *VIEWS.values(), "held_out_perplexity", "held_out_loss",
    "bits_per_character", "buckets", "document_nll", "validation_log", "held_out_measures", "leaking_perplexity",
    "diverged", "audit", "audit_detail", "first_leak",
)  # fmt: skip


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
    with same_threads():
        audit = _audit(run, model, protocol, prepared, say)
        flops = step_flops(model, protocol.batch_size, protocol.sequence_length, optimizer=protocol.optimizer)
    try:
        trained = _train(run, model, protocol, prepared, config, audit)
    except NonFiniteLossError as error:
        write_json(run.folder / "result.json", _result_of_diverged(run, protocol, prepared, model, audit, error))
        return
    for line in describe_epochs(trained):
        say(f"{run.title}: {line}")
    by_text = depends_on_text(model.config)
    if by_text and audit.verdict == "causal":  # before the training hardly anything was skipped
        with same_threads():
            audit = _audit(run, model, protocol, prepared, say)
    held_out = _measure_held_out(run, model, protocol, prepared, trained, audit)
    if by_text:
        flops = _flops_of_text(model, protocol, prepared)
    _save(run, model, prepared)
    result = (
        dict.fromkeys(KEYS)
        | _training_part(run, protocol, prepared, model, trained)
        | flops.as_dict()
        | {"flops_counted_on": "trained model, first batch" if by_text else "any batch"}
        | {"total_training_flops": flops.total_flops_per_step * trained.steps}
        | _held_out_part(prepared, held_out, trained)
        | {"diverged": _held_out_problem(run, held_out)}
        | _audit_part(audit)
    )
    write_json(run.folder / "result.json", result)
    unknown = prepared.validation.unknown_rate
    words = f" ({unknown:.1%} of the held-out tokens are <unk>)" if unknown else ""
    say(f"{run.title}: {_reached(held_out)}{words}, {trained.steps} steps in {trained.seconds:.0f} s")


@dataclasses.dataclass(frozen=True)
class _HeldOut:
    """What a trained model makes of the held-out text.

    Attributes:
        full: of the whole validation split; None for a model that leaks.
        views: perplexities of the other views, by key of the result.
        leaking: perplexity of a model that sees the answer: no measure of it, and never in the place of one.
    """

    full: Evaluation | None = None
    views: dict[str, float] = dataclasses.field(default_factory=dict)
    leaking: float | None = None


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

    return train(
        model,
        stream,
        spec,
        run.folder,
        about={"environment": environment()},
        validate=validate if audit.verdict == "causal" else None,
        validation_steps=validation_steps(spec.steps, protocol.evaluations),
    )


def _measure_held_out(
    run: Run, model: Any, protocol: Protocol, prepared: Prepared, trained: TrainingResult, audit: Audit
) -> _HeldOut:
    head = cast(Head, trained.head)
    if audit.verdict != "causal":
        leaking = evaluate_validation(model, head, protocol, prepared, carry_state=False)
        return _HeldOut(leaking=leaking.perplexity)
    carry_state = protocol.models[run.model].carry_state
    full = evaluate_validation(model, head, protocol, prepared, carry_state=carry_state)
    return _HeldOut(full, further_views(model, head, run, protocol, prepared, protocol.held_out_views))


def _flops_of_text(model: Any, protocol: Protocol, prepared: Prepared) -> StepFlops:
    """Of the first batch of the training text, for a model that skips by what the text is."""
    with same_threads():
        words = first_tokens(prepared, protocol)
        batch, length = words.shape
        return step_flops(model, batch, length, words, optimizer=protocol.optimizer)


def _save(run: Run, model: Any, prepared: Prepared) -> None:
    """The model and its tokenizer, as `save_pretrained` of both writes them."""
    disable_progress_bar()  # of transformers, which would draw into ours
    if model.can_generate():
        model.generation_config.suppress_tokens = never_written(prepared.tokenizer) or None
    model.save_pretrained(run.folder / "model")
    prepared.tokenizer.save_pretrained(run.folder / "model")


def _held_out_problem(run: Run, held_out: _HeldOut) -> str | None:
    """Why a model that was trained has no perplexity all the same; None if it has one, or leaks."""
    if held_out.full is None or math.isfinite(held_out.full.loss):
        return None
    return (
        f"{run.title}: the held-out loss is {held_out.full.loss}, though all training losses were numbers; try a "
        "smaller learning rate, a smaller clip or a longer warm-up"
    )


def _reached(held_out: _HeldOut) -> str:
    """In a line."""
    if held_out.full is None:
        return f"no perplexity (leaks; {held_out.leaking:.2f} with the answer in sight)"
    if not math.isfinite(held_out.full.loss):
        return "no perplexity (its held-out loss is no number)"
    return f"held-out perplexity {held_out.full.perplexity:.2f}"


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
        optimizer=protocol.optimizer,
        weight_decay=protocol.weight_decay,
        betas=(protocol.betas[0], protocol.betas[1]),
        clip=protocol.clip,
        warmup_steps=warmup,
        final_lr_ratio=protocol.final_lr_ratio,
        seed=run.seed,
        dtype=protocol.dtype,
        device=protocol.device,
        carry_state=protocol.models[run.model].carry_state,
        carry_reset=protocol.models[run.model].carry_reset,
        log_interval=protocol.log_interval,
        checkpoint_seconds=protocol.checkpoint_seconds,
        head=protocol.models[run.model].head,
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


def evaluate_validation(
    model: Any, head: Head, protocol: Protocol, prepared: Prepared, *, carry_state: bool
) -> Evaluation:
    """The whole validation split in segments as long as those of training."""
    return evaluate(
        model,
        split_batches(prepared.validation, protocol.batch_size, protocol.sequence_length),
        head=head,
        carry_state=carry_state,
        bucket_of_token=prepared.bucket_of_token,
        bucket_count=len(prepared.bucket_names),
        dtype=protocol.dtype,
        keep_losses=True,
    )


def further_views(
    model: Any, head: Head, run: Run, protocol: Protocol, prepared: Prepared, views: Collection[str]
) -> dict[str, float]:
    """Perplexities of the validation split, by key of the result, as far as the model has such a view."""
    found = {}
    if "not_carried" in views and protocol.models[run.model].carry_state:
        without = evaluate_validation(model, head, protocol, prepared, carry_state=False)
        found[VIEWS["not_carried"]] = without.perplexity
    if "overlapping" in views:
        found[VIEWS["overlapping"]] = evaluate_overlapping(model, head, prepared.validation, protocol)
    return found


def evaluate_overlapping(model: Any, head: Head, split: TokenCache, protocol: Protocol) -> float:
    """Perplexity over a split in windows that overlap by half, no state carried."""
    batches = overlapping_batches(split.tokens, protocol.batch_size, protocol.sequence_length)
    return evaluate(model, batches, head=head, dtype=protocol.dtype).perplexity


def split_batches(split: TokenCache, batch_size: int, sequence_length: int) -> Iterator[tuple[Tensor, Tensor]]:
    return held_out_batches(split.tokens, batch_size, sequence_length)


def run_record(run: Run, protocol: Protocol, prepared: Prepared, config: Any, spec: RunSpec) -> dict[str, Any]:
    """run.json: everything that is needed to repeat the run."""
    return {
        "model": run.model,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "grid": protocol.learning_rates is not None,
        "settings": settings_of(protocol, run, prepared.corpus.fingerprint),
        "device": training_device(protocol.device).type,
        "training": dataclasses.asdict(spec),
        "config": config_dict(config),
        "data": prepared.summary(),
        "environment": environment(),
        "protocol": protocol.model_dump(),
    }


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration without what only the program needs."""
    kept = config.to_dict()
    return {key: value for key, value in kept.items() if not key.startswith("_") and key != "transformers_version"}


def load_model(folder: Path) -> Any:
    """The trained model of a run folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if not (folder / "config.json").exists():
        result = folder.parent / "result.json"
        reason = read_json(result).get("diverged") if result.exists() else None
        if reason is not None:
            raise ValueError(f"{folder} holds no model: the training diverged. {reason}")
        if result.exists():
            raise ValueError(
                f"{folder} holds no model: the result of this run came without its weights, and `resnet-bk bench` "
                "takes it as finished; train it again with another --out"
            )
        raise ValueError(f"{folder} holds no model; is the run finished? `resnet-bk bench` again resumes it")
    config = read_json(folder / "config.json")
    if config.get("model_type") == "resnet_bk" and "induction_heads" not in config:
        raise ValueError(
            f"{folder} was trained before chains were scaled (commit 2e60230), and computes something else with this "
            "code; read it with the code of its commit (run.json names it), or train it again with another --out"
        )
    if not is_causal_lm(str(config.get("model_type"))):
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}, which is none of transformers and not "
            "registered; give this command in a program that imports the model first (CONTRIBUTING.md)"
        )
    disable_progress_bar()  # of transformers, which draws one for every model that is loaded
    try:
        return AutoModelForCausalLM.from_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder} cannot be read: {error}; restore it, or train it again with another --out"
        ) from error


def add_views(run: Run, protocol: Protocol, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Put those of `held_out_views` into the result of a finished run that it was made without, if its weights are
    there."""
    result = run.result()
    if result["audit"] != "causal" or result.get("diverged"):
        return
    carries = protocol.models[run.model].carry_state
    possible = [view for view in protocol.held_out_views if view != "not_carried" or carries]
    missing = [view for view in possible if result.get(VIEWS[view]) is None]
    if missing and not (run.folder / "model").is_dir():
        say(f"{run.title}: no figure {' and '.join(missing)}, for the run came without its weights")
    elif missing:
        say(f"{run.title}: measuring {' and '.join(missing)}")
        model = load_model(run.folder / "model").to(training_device(protocol.device))
        found = further_views(model, result["head"], run, protocol, prepared, missing)
        write_json(run.folder / "result.json", result | found | _measured_later(result, found))


def add_test(run: Run, protocol: Protocol, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Read the test split and put into the result of a finished run what it lacks: each figure is measured once."""
    result = run.result()
    if result["audit"] != "causal" or result.get("diverged"):
        return
    carry = protocol.models[run.model].carry_state
    wanted = {"test_perplexity": carry}  # key of the result -> whether the state is carried
    if carry and "not_carried" in protocol.held_out_views:
        wanted["test_perplexity_without_carry"] = False
    missing = {key: carried for key, carried in wanted.items() if result.get(key) is None}
    if not missing:
        return
    if not (run.folder / "model").is_dir():
        what = " and ".join(key.replace("_", " ") for key in missing)
        say(f"{run.title}: no {what}, for the run came without its weights; train it with another --out")
        return
    model = load_model(run.folder / "model").to(training_device(protocol.device))
    found = {}
    for key, carried in missing.items():
        batches = split_batches(prepared.split("test"), protocol.batch_size, protocol.sequence_length)
        options = {"head": result["head"], "carry_state": carried, "dtype": protocol.dtype}
        found[key] = evaluate(model, batches, **options).perplexity
        say(f"{run.title}: {key.replace('_', ' ')} {found[key]:.2f}")
    write_json(run.folder / "result.json", result | found | _measured_later(result, found))


def _measured_later(result: dict[str, Any], figures: Collection[str]) -> dict[str, Any]:
    """Where figures came from that were measured on the finished model: `environment` is that of the call before."""
    return {"later": [*(result.get("later") or ()), {"figures": sorted(figures), "environment": environment()}]}


def _model_part(run: Run, protocol: Protocol, prepared: Prepared, model: Any) -> dict[str, Any]:
    """Which model was trained on what, and where."""
    count = count_parameters(model)
    ran_on = environment()
    return {
        "model_name": run.model,
        "git_commit": ran_on["git_commit"],
        "git_dirty": ran_on["git_dirty"],
        "environment": ran_on,
        "dataset_name": prepared.corpus.name,
        "config": config_dict(model.config),
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "carry_state": protocol.models[run.model].carry_state,
        "parameters": count.total,
        "parameters_without_embeddings": count.without_embeddings,
        "vocab_size": len(prepared.tokenizer),
        "device": str(next(model.parameters()).device),
    }


def _training_part(
    run: Run, protocol: Protocol, prepared: Prepared, model: Any, trained: TrainingResult
) -> dict[str, Any]:
    """The keys of the earlier report (losses and perplexities of training) and what was measured beside them."""
    losses = trained.epoch_losses
    tensors = [*model.parameters(), *model.buffers()]
    return _model_part(run, protocol, prepared, model) | {
        "steps": trained.steps,
        "total_tokens": trained.tokens,
        "training_time": trained.seconds,
        "seconds_per_step": trained.seconds / trained.steps,
        "tokens_per_second": trained.tokens / trained.seconds,
        "final_loss": losses[-1],
        "final_perplexity": perplexity(losses[-1]),
        "best_perplexity": perplexity(min(losses)),
        "epoch_losses": losses,
        "epoch_perplexities": [perplexity(loss) for loss in losses],
        "epoch_times": trained.epoch_seconds,
        "peak_memory_mb": trained.peak_memory_mb,
        "peak_memory_kind": trained.peak_memory_kind,
        "model_size_mb": sum(tensor.nbytes for tensor in tensors) / MIB,
        "device": trained.device,
        "backend": trained.backend,
        "head": trained.head,
        "profile": trained.profile,
        "log": [{key: line[key] for key in LOGGED if key in line} for line in trained.log],
        "calls": trained.calls,
    }


def _result_of_diverged(
    run: Run, protocol: Protocol, prepared: Prepared, model: Any, audit: Audit, error: NonFiniteLossError
) -> dict[str, Any]:
    """Of a training that was given up, which has no figures."""
    steps = cast(int, error.step)  # of one training
    return (
        dict.fromkeys(KEYS)
        | _model_part(run, protocol, prepared, model)
        | {"steps": steps, "total_tokens": steps * protocol.batch_size * protocol.sequence_length}
        | _held_out_part(prepared, _HeldOut(), None)
        | _audit_part(audit)
        | {"diverged": str(error)}
    )


def _held_out_part(prepared: Prepared, held_out: _HeldOut, trained: TrainingResult | None) -> dict[str, Any]:
    """What the model makes of the held-out text, at the end and in the course of training."""
    validation, full = prepared.validation, held_out.full
    shared = {"unk_rate": validation.unknown_rate, "leaking_perplexity": held_out.leaking} | held_out.views
    if full is None or trained is None:
        return shared | {"buckets": [], "document_nll": [], "validation_log": [], "held_out_measures": {}}
    last = {"step": trained.steps, "seconds": trained.seconds, "perplexity": full.perplexity}
    buckets = zip(prepared.bucket_names, full.bucket_tokens, full.bucket_perplexities, strict=True)
    return shared | {
        "held_out_perplexity": full.perplexity,
        "held_out_loss": full.loss,
        "bits_per_character": full.nll / math.log(2) / validation.characters,
        "buckets": [{"name": name, "tokens": tokens, "perplexity": found} for name, tokens, found in buckets],
        "document_nll": document_sums(cast(Tensor, full.losses), prepared.document_tokens),
        "validation_log": [*trained.validation_log, last],
        "held_out_measures": full.measures,
    }


def _audit_part(audit: Audit) -> dict[str, Any]:
    return {"audit": audit.verdict, "audit_detail": audit.detail, "first_leak": audit.first_leak}
