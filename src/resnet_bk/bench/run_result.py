"""What is written of a run: run.json before its training, result.json behind it."""

import dataclasses
import math
from itertools import chain
from typing import Any, cast

from resnet_bk.bench.audit import Audit
from resnet_bk.bench.data import Prepared
from resnet_bk.bench.environment import environment
from resnet_bk.bench.flops.count import StepFlops, depends_on_text
from resnet_bk.bench.held_out import VIEWS, HeldOut, by_bucket, by_document, held_out_problem
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.run_folder import Run, settings_of
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.training import NonFiniteLossError, RunSpec, TrainingResult, perplexity, training_device
from resnet_bk.training.memory import MIB

LOGGED = ("step", "seconds", "loss", "measures")
# Keys of every result, in the order of the file; docs/benchmark.md says what they mean. What was not measured is None.
KEYS = (
    "model_name", "git_commit", "git_dirty", "environment", "dataset_name", "config", "seed", "learning_rate",
    "carry_state", "parameters", "parameters_without_embeddings", "vocab_size", "device", "steps", "total_tokens",
    "training_time", "seconds_per_step", "tokens_per_second", "final_loss", "final_perplexity", "best_perplexity",
    "epoch_losses", "epoch_perplexities", "epoch_times", "peak_memory_mb", "peak_memory_kind", "model_size_mb",
    "backend", "head", "profile", "log", "calls", "forward_flops", "backward_flops", "optimizer_flops",
    "total_flops_per_step", "flops_convention", "flops_counted_on", "total_training_flops", "unk_rate",
    "test_perplexity", "test_perplexity_without_carry", *chain(*VIEWS.values()), "held_out_perplexity", "held_out_loss",
    "bits_per_character", "buckets", "document_nll", "validation_log", "held_out_measures", "leaking_perplexity",
    "diverged", "audit", "audit_detail", "first_leak",
)  # fmt: skip


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


def result_of(
    run: Run,
    protocol: Protocol,
    prepared: Prepared,
    model: Any,
    trained: TrainingResult,
    held_out: HeldOut,
    flops: StepFlops,
    audit: Audit,
) -> dict[str, Any]:
    """result.json of a run that was trained to the end."""
    counted_on = "trained model, first batch" if depends_on_text(model.config) else "any batch"
    return (
        dict.fromkeys(KEYS)
        | _training_part(run, protocol, prepared, model, trained)
        | flops.as_dict()
        | {"flops_counted_on": counted_on, "total_training_flops": flops.total_flops_per_step * trained.steps}
        | _held_out_part(prepared, held_out, trained)
        | {"diverged": held_out_problem(run, held_out)}
        | _audit_part(audit)
    )


def result_of_diverged(
    run: Run, protocol: Protocol, prepared: Prepared, model: Any, audit: Audit, error: NonFiniteLossError
) -> dict[str, Any]:
    """Of a training that was given up, which has no figures."""
    steps = cast(int, error.step)  # of one training
    return (
        dict.fromkeys(KEYS)
        | _model_part(run, protocol, prepared, model)
        | {"steps": steps, "total_tokens": steps * protocol.batch_size * protocol.sequence_length}
        | _held_out_part(prepared, HeldOut(), None)
        | _audit_part(audit)
        | {"diverged": str(error)}
    )


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


def _held_out_part(prepared: Prepared, held_out: HeldOut, trained: TrainingResult | None) -> dict[str, Any]:
    """What the model makes of the held-out text, at the end and in the course of training."""
    validation, full = prepared.validation, held_out.full
    shared = {"unk_rate": validation.unknown_rate, "leaking_perplexity": held_out.leaking} | held_out.views
    if full is None or trained is None:
        return shared | {"buckets": [], "document_nll": [], "validation_log": [], "held_out_measures": {}}
    last = {"step": trained.steps, "seconds": trained.seconds, "perplexity": full.perplexity}
    return shared | {
        "held_out_perplexity": full.perplexity,
        "held_out_loss": full.loss,
        "bits_per_character": full.nll / math.log(2) / validation.characters,
        "buckets": by_bucket(full, prepared),
        "document_nll": by_document(full, prepared),
        "validation_log": [*trained.validation_log, last],
        "held_out_measures": full.measures,
    }


def _audit_part(audit: Audit) -> dict[str, Any]:
    return {"audit": audit.verdict, "audit_detail": audit.detail, "first_leak": audit.first_leak}
