"""Perplexity of a trained model over a split, in every view that it has: what `eval` prints."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_bk.bench.held_out import evaluate_overlapping, short_rows, tokens_read
from resnet_bk.bench.resolve import is_run, model_folder
from resnet_bk.bench.trained.early_exit import exit_early
from resnet_bk.bench.trained.opened_model import OpenedModel, open_saved
from resnet_bk.bench.trained.opened_run import open_run
from resnet_bk.data import held_out_batches
from resnet_bk.data.corpus import WHOLE
from resnet_bk.training import Evaluation, evaluate


def evaluate_folder(
    path: Path,
    split: str = "validation",
    data: str | None = None,
    early_exit: float | None = None,
    device: str | None = None,
    protocol: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Perplexity of a finished run, or of a saved model, over a whole split.

    Args:
        path: a run folder, or one of a model and its tokenizer.
        split, data, device: as in `open_run`, and in `open_saved`.
        early_exit: see `exit_early`.
        protocol, settings: of a saved model, as in `open_saved`; a run has its own.

    Returns:
        The figures. Of a model that failed the audit `perplexity`, `loss` and `bits_per_character` are None, and
        `leaking_perplexity` (None for all others) is what it reaches with the answer in sight. Of one whose state is
        carried, `perplexity_without_carry` is that of segments read each by itself. `overlapping_perplexity` is that of
        windows which overlap by half, without a state from one to the next. `divided`: other text came without splits,
        and this is a part of it. `measures` is what the model reports of its work, for example `depth`, the blocks that
        a token passes. `notes`: lines on how the text was read, and on what makes a figure worse than the model is.

    Raises:
        ValueError: as `open_run` and `open_saved`; no model that exits early, or options that a run has no use for.
    """
    if is_run(path):
        given = [f"--set {setting}" for setting in settings]
        if protocol is not None or given:
            option = given[0] if protocol is None else f"--protocol {protocol}"
            raise ValueError(f"{option}: {path} is a run, and read as its own protocol says; leave the option out")
        return _figures(open_run(path, split, data, device), split, early_exit, own_text=data is None)
    opened = open_saved(model_folder(path), split, data, device, protocol, settings)
    found = _figures(opened, split, early_exit, own_text=False)
    return found | {"notes": [*opened.notes, *found["notes"]]}


def _figures(opened: OpenedModel, split: str, early_exit: float | None, *, own_text: bool) -> dict[str, Any]:
    exit_early(opened.model, early_exit)
    model, head, carry = opened.model, opened.head, opened.carry_state
    protocol, tokens = opened.protocol, opened.tokens
    name = f"{opened.name} on {opened.corpus.name}, {split}"

    def reached(carry_state: bool, view: str | None = None) -> Evaluation:
        batches = held_out_batches(tokens.tokens, protocol.batch_size, protocol.sequence_length)
        with tokens_read(name, len(tokens.tokens) - 1, view) as progress:
            return evaluate(model, batches, head=head, carry_state=carry_state, dtype=protocol.dtype, progress=progress)

    causal = opened.audit == "causal"
    found = reached(carry and causal)  # of one that leaks as `bench` measures it, segment by segment
    return {
        "model_name": opened.name,
        "dataset_name": opened.corpus.name,
        "split": split,
        "divided": not own_text and opened.corpus.whole is not None and split != WHOLE,
        "audit": opened.audit,
        "perplexity": found.perplexity if causal else None,
        "leaking_perplexity": None if causal else found.perplexity,
        "loss": found.loss if causal else None,
        "bits_per_character": found.nll / math.log(2) / tokens.characters if causal else None,
        "perplexity_without_carry": reached(False, "state not carried").perplexity if causal and carry else None,
        "overlapping_perplexity": evaluate_overlapping(model, head, tokens, protocol, name).perplexity
        if causal
        else None,
        "tokens": found.tokens,
        "unk_rate": tokens.unknown_rate,
        "carry_state": carry,
        "device": model.device.type,
        "early_exit_threshold": getattr(model.config, "early_exit_threshold", None),
        "measures": found.measures,
        "notes": short_rows(len(tokens.tokens), protocol, split, "give more text"),
    }
