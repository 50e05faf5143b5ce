"""Perplexity by place in a long document: what a model that was trained on short segments makes of a whole book.

Every model reads the same documents several times:

    carried     as one stream, in segments of the length that it was trained on: what a segment leaves behind (the state
                of ResNet-BK, keys and values of attention) is handed to the next one
    window W    with W tokens in view at most: windows of W tokens, half overlapping, each from an empty state, of which
                the second half counts (of the first window all of it). Every token has W/2 to W tokens before it

The windows are the measure of the stream, for the text of one place may be harder than that of another. A model uses
what lies further back than W where carried is below window W, and does not survive the length where it is above. A
Transformer at its best reads windows of the length that it was trained on: models are to be compared with that.

Shape legend: N tokens predicted of a document, T tokens of a segment, W tokens of a window.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_bk.bench.environment import environment
from resnet_bk.bench.held_out import tokens_read
from resnet_bk.bench.peers import carry_problem, is_of_others, may_carry
from resnet_bk.bench.trained.opened_run import OpenedRun, open_runs
from resnet_bk.bench.trained.positions import longest_text
from resnet_bk.training import perplexity
from resnet_bk.training.loss import Head, autocast_to, causal_lm_loss
from resnet_bk.training.mode import evaluation_mode

FILE = "lengths.json"
WINDOWS = (1, 4, 16)  # segments
CHECKED = 8  # tokens on which a cache is tried


@dataclass(frozen=True)
class Reading:
    """losses: of every token predicted, nats, float64 [N]; seconds: that it took."""

    losses: Tensor
    seconds: float


def length_profiles(
    folders: Sequence[Path],
    data: str | None,
    split: str,
    tokens: int,
    documents: int,
    windows: Sequence[int] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Perplexity by place of several trained models on the same long documents.

    Args:
        folders: run folders; their tokenizers must be one and the same.
        data: the text; None for that of the runs, which must be one.
        split: of it, or "all" of one that came without splits.
        tokens: predicted in each document, from its start.
        documents: how many to read, the first that are long enough.
        windows: W of each window reading, even numbers; None for `WINDOWS` times the segment of the first run, as far
            as a document goes.
        device: see `run_device`.

    Returns:
        What lengths.json holds: `places` are the stretches [first, last) of a document, `models` a list with what is
        known of each run and its `readings`, a list with, for each, `name`, `problem` (why the model cannot, or None),
        `seconds`, `perplexity` of each stretch over all documents, and `document_losses`, the mean loss (nats a token)
        of each stretch of each document; `unk_rate` is of the whole split.

    Raises:
        ValueError: no finished run, a model that leaks, different tokenizers or, without `data`, texts, no document
            that is long enough, text that the models were trained on, windows that are odd or no shorter than the
            documents.
    """
    runs = open_runs(folders, split, data, device)
    first = runs[0]
    texts = long_documents(first.tokens.tokens, first.end, tokens, documents)
    if not texts:
        longest = max(len(text) for text in split_documents(first.tokens.tokens, first.end)) - 1
        raise ValueError(
            f"--tokens {tokens}: no document of {first.corpus.name}, {split}, is that long; the longest predicts "
            f"{longest:,}. Take at most that, or other text with --data"
        )
    if windows is None:
        segment = first.protocol.sequence_length
        even = [times * segment // 2 * 2 for times in WINDOWS]
        windows = [window for window in even if 2 <= window < tokens]
    check_windows(windows, tokens)
    borders = place_borders(min(run.protocol.sequence_length for run in runs), tokens)
    return {
        "dataset_name": first.corpus.name,
        "split": split,
        "tokens": tokens,
        "documents": len(texts),
        "unk_rate": first.tokens.unknown_rate,
        "places": [list(pair) for pair in borders],
        "environment": environment(),
        "models": [_profile(run, texts, borders, windows) for run in runs],
    }


def check_windows(windows: Sequence[int], tokens: int) -> None:
    """Raises ValueError for windows that cannot be halved, or that hold a whole document."""
    for window in windows:
        if window < 2 or window % 2 or window >= tokens:
            raise ValueError(
                f"--windows {window}: must be an even number below the {tokens:,} tokens of a document (a longer one "
                "is the stream itself); leave it out, or read more --tokens"
            )


def _profile(
    run: OpenedRun, texts: Sequence[np.ndarray], borders: Sequence[tuple[int, int]], windows: Sequence[int]
) -> dict[str, Any]:
    segment, model = run.protocol.sequence_length, run.model
    sample = torch.from_numpy(texts[0][:segment].astype(np.int64)).unsqueeze(0)
    readings = []
    for window in (None, *windows):
        piece, problem = _piece(model, sample, segment, len(texts[0]) - 1, window)
        found: dict[str, Any] = {"name": "carried" if window is None else f"window {window:,}", "problem": problem}
        readings.append(found)
        if problem is not None:
            found |= {"seconds": None, "perplexity": None, "document_losses": None}
            continue
        dtype = run.protocol.dtype
        read(model, texts[0][: 2 * piece + 1], piece, run.head, dtype, window)  # first-call costs, off the clock
        done = []
        with tokens_read(str(run.folder), sum(len(text) - 1 for text in texts), found["name"]) as progress:
            for number, text in enumerate(texts, 1):
                done.append(read(model, text, piece, run.head, dtype, window))
                progress(number * (len(text) - 1))
        losses = torch.stack([reading.losses for reading in done])
        by_place = torch.stack([losses[:, start:stop].mean(1) for start, stop in borders], dim=1)
        found |= {
            "seconds": sum(reading.seconds for reading in done),
            "perplexity": [perplexity(float(loss)) for loss in by_place.mean(0)],
            "document_losses": by_place.tolist(),
        }
    return {
        **run.facts(),
        "segment": segment,
        "carries": what_it_carries(model.config),
        "trained_with_carried_state": run.carry_state,
        "readings": readings,
    }


def _piece(model: Any, sample: Tensor, segment: int, tokens: int, window: int | None) -> tuple[int, str | None]:
    """How many tokens a model reads at a time, and why it cannot read so (None if it can)."""
    problem = cannot_carry(model, sample, tokens if window is None else window)
    if problem is None or window is None:
        return segment, problem
    # What cannot be handed on may be short enough to be read at once.
    longest = longest_text(model)
    return window, None if longest is None or window <= longest else problem


def what_it_carries(config: Any) -> str:
    """What a model hands from one segment to the next."""
    if config.model_type == "resnet_bk_pointer":
        return "the pointer's state alone"
    if is_of_others(config.model_type):
        return "its cache"  # what is in it is not known
    return "a state" if may_carry(config) else "keys and values"


def split_documents(tokens: np.ndarray, end: int) -> list[np.ndarray]:
    """The documents of a split, each with the token `end` that ends it."""
    ends = np.flatnonzero(tokens == end) + 1
    return [part for part in np.split(tokens, ends) if len(part)]


def long_documents(tokens: np.ndarray, end: int, length: int, count: int) -> list[np.ndarray]:
    """The first `count` documents that predict `length` tokens or more, cut to that: length + 1 tokens each."""
    return [part[: length + 1] for part in split_documents(tokens, end) if len(part) > length][:count]


def place_borders(segment: int, tokens: int) -> list[tuple[int, int]]:
    """[0, segment), [segment, 2 segment), and on by doubling up to `tokens`."""
    borders, start, stop = [], 0, segment
    while start < tokens:
        borders.append((start, min(stop, tokens)))
        start, stop = stop, 2 * stop
    return borders


def cannot_carry(model: Any, sample: Tensor, tokens: int) -> str | None:
    """Why a model cannot read so many tokens as one stream; None if it can.

    Args:
        model: a causal LM of `transformers`.
        sample: some of its words, int64 [1, T], T at least 2.
        tokens: of the stream.
    """
    # Where a state alone is handed on, every segment is read from the first position.
    longest = None if may_carry(model.config) else longest_text(model)
    if longest is not None and longest < tokens:
        return f"it has positions for {longest:,} tokens"
    return carry_problem(model, sample[:, :CHECKED].to(model.device))


@torch.no_grad()
def read(model: Any, text: np.ndarray, segment: int, head: Head, dtype: str, window: int | None = None) -> Reading:
    """The loss of every token of a document but the first.

    Args:
        model: a causal LM of `transformers`.
        text: [N + 1] tokens.
        segment: T, tokens at a time; the last segment may be shorter.
        head: from `choose_head`.
        dtype: "bfloat16" for autocast.
        window: W; None to read the document as one stream.
    """
    words = torch.from_numpy(text.astype(np.int64)).to(model.device)
    with evaluation_mode(model):
        start = time.perf_counter()
        if window is None:
            losses = _stream(model, words, segment, head, dtype)
        else:
            half, kept = window // 2, []
            for first in range(0, max(len(words) - 1 - half, 1), half):
                # Of the first window everything counts, of the others what the one before has not read.
                found = _stream(model, words[first : first + window + 1], segment, head, dtype)
                kept.append(found if first == 0 else found[half:])
            losses = torch.cat(kept)
    return Reading(losses, time.perf_counter() - start)


def _stream(model: Any, words: Tensor, segment: int, head: Head, dtype: str) -> Tensor:
    """Losses [N] of words [N + 1], read from an empty state."""
    inputs, targets = words[:-1], words[1:]
    losses: list[Tensor] = []
    state, several = None, len(inputs) > segment
    for first in range(0, len(inputs), segment):
        stretch = slice(first, first + segment)
        ids, words_after = inputs[stretch].unsqueeze(0), targets[stretch].unsqueeze(0)
        with autocast_to(dtype, words.device):
            found = causal_lm_loss(model, ids, words_after, head, carry_state=several, state=state, reduction="none")
        state = found.state
        losses.append(found.value.flatten().double().cpu())
    return torch.cat(losses)
