"""What a trained model makes of the held-out text, read in one way or another."""

import dataclasses
import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import Tensor

from resnet_bk.bench.audit import Audit
from resnet_bk.bench.data import Prepared
from resnet_bk.bench.documents import document_sums
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.run_folder import Run
from resnet_bk.data import TokenCache, held_out_batches, overlapping_batches
from resnet_bk.data.corpus import WHOLE
from resnet_bk.training import Evaluation, TrainingResult, evaluate
from resnet_bk.training.loss import Head
from resnet_bk.training.progress import LINE_SECONDS, counter

# What `held_out_views` of a protocol may name -> the keys of the result, the perplexity first.
VIEWS = {
    "not_carried": ("held_out_perplexity_without_carry",),
    "overlapping": ("held_out_perplexity_overlapping", "overlapping_document_nll", "overlapping_buckets"),
}


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What a trained model makes of the held-out text.

    Attributes:
        full: of the whole validation split; None for a model that leaks.
        views: figures of the other views, by key of the result.
        leaking: perplexity of a model that sees the answer: no measure of it, and never in the place of one.
    """

    full: Evaluation | None = None
    views: dict[str, Any] = dataclasses.field(default_factory=dict)
    leaking: float | None = None


def measure_held_out(
    run: Run, model: Any, protocol: Protocol, prepared: Prepared, trained: TrainingResult, audit: Audit
) -> HeldOut:
    """The views that the protocol asks for; of a model that leaks nothing but what it has with the answer in sight."""
    head, end = cast(Head, trained.head), len(prepared.validation.tokens) - 1
    if audit.verdict != "causal":
        with tokens_read(run.title, end) as progress:
            leaking = evaluate_validation(model, head, protocol, prepared, carry_state=False, progress=progress)
        return HeldOut(leaking=leaking.perplexity)
    carry_state = protocol.models[run.model].carry_state
    with tokens_read(run.title, end) as progress:
        full = evaluate_validation(model, head, protocol, prepared, carry_state=carry_state, progress=progress)
    return HeldOut(full, further_views(model, head, run, protocol, prepared, protocol.held_out_views))


def held_out_problem(run: Run, held_out: HeldOut) -> str | None:
    """Why a model that was trained has no perplexity all the same; None if it has one, or leaks."""
    if held_out.full is None or math.isfinite(held_out.full.loss):
        return None
    return (
        f"{run.title}: the held-out loss is {held_out.full.loss}, though all training losses were numbers; try a "
        "smaller learning rate, a smaller clip or a longer warm-up"
    )


def reached(held_out: HeldOut) -> str:
    """In a line."""
    if held_out.full is None:
        return f"no perplexity (leaks; {held_out.leaking:.2f} with the answer in sight)"
    if not math.isfinite(held_out.full.loss):
        return "no perplexity (its held-out loss is no number)"
    return f"held-out perplexity {held_out.full.perplexity:.2f}"


def tokens_read(name: str, end: int, view: str | None = None) -> AbstractContextManager[Callable[[int], None]]:
    """Shows how far the reading of a text is in which `end` tokens are predicted, if that takes long."""
    return counter(f"{name}{f', {view}' if view else ''}: tokens read", patience=LINE_SECONDS, end=end)


def evaluate_validation(
    model: Any,
    head: Head,
    protocol: Protocol,
    prepared: Prepared,
    *,
    carry_state: bool,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """The whole validation split in segments as long as those of training."""
    return evaluate(
        model,
        held_out_batches(prepared.validation.tokens, protocol.batch_size, protocol.sequence_length),
        head=head,
        carry_state=carry_state,
        bucket_of_token=prepared.bucket_of_token,
        bucket_count=len(prepared.bucket_names),
        dtype=protocol.dtype,
        keep_losses="rows",
        progress=progress,
    )


def further_views(
    model: Any, head: Head, run: Run, protocol: Protocol, prepared: Prepared, views: Collection[str]
) -> dict[str, Any]:
    """Figures of the validation split, by key of the result, as far as the model has such a view."""
    found: dict[str, Any] = {}
    if "not_carried" in views and protocol.models[run.model].carry_state:
        with tokens_read(run.title, len(prepared.validation.tokens) - 1, "state not carried") as progress:
            without = evaluate_validation(model, head, protocol, prepared, carry_state=False, progress=progress)
        found |= zip(VIEWS["not_carried"], [without.perplexity], strict=True)
    if "overlapping" in views:
        windows = evaluate_overlapping(
            model,
            head,
            prepared.validation,
            protocol,
            run.title,
            bucket_of_token=prepared.bucket_of_token,
            bucket_count=len(prepared.bucket_names),
        )
        figures = (windows.perplexity, by_document(windows, prepared), by_bucket(windows, prepared))
        found |= zip(VIEWS["overlapping"], figures, strict=True)
    return found


def evaluate_overlapping(
    model: Any, head: Head, split: TokenCache, protocol: Protocol, name: str, **buckets: Any
) -> Evaluation:
    """A split in windows that overlap by half, no state carried.

    Args:
        name: stands before what shows how far it is.
        buckets: `bucket_of_token` and `bucket_count` of `evaluate`, where they are wanted.
    """
    batches = overlapping_batches(split.tokens, protocol.batch_size, protocol.sequence_length)
    with tokens_read(name, len(split.tokens) - 1, "overlapping windows") as progress:
        return evaluate(
            model, batches, head=head, dtype=protocol.dtype, keep_losses="windows", progress=progress, **buckets
        )


def by_document(found: Evaluation, prepared: Prepared) -> list[float]:
    """Nats of each held-out document, of an evaluation that kept its losses."""
    return document_sums(cast(Tensor, found.losses), prepared.document_tokens)


def by_bucket(found: Evaluation, prepared: Prepared) -> list[dict[str, Any]]:
    """Tokens and perplexity by how often a word was in training."""
    buckets = zip(prepared.bucket_names, found.bucket_tokens, found.bucket_perplexities, strict=True)
    return [{"name": name, "tokens": tokens, "perplexity": reached} for name, tokens, reached in buckets]


def short_rows(tokens: int, protocol: Protocol, split: str, way_out: str) -> list[str]:
    """A line where a split of so many tokens does not fill a segment a row; none where it does."""
    batch_size, sequence_length = protocol.batch_size, protocol.sequence_length
    row = -(-(tokens - 1) // batch_size)
    if row >= sequence_length:
        return []
    name = "whole" if split == WHOLE else split
    return [
        f"the {name} text has {tokens:,} tokens: its {batch_size} rows have {row} each, less than a segment of "
        f"{sequence_length}, and each begins without what came before, which makes perplexities high; {way_out}"
    ]
