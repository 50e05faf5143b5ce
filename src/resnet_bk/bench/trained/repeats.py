"""Where the loss of a model is: on words that are new, on words seen before, on pairs of words seen before.

A pair that comes again in the same text can be looked up: whoever remembers what followed the last time knows the word.
Models differ in that more than in anything else, and a perplexity hides it (the AR hits of Zoology, arXiv 2312.04927).

Every model reads the same windows, each from an empty state, and the second half of a window counts, so that every
token has half a window or more before it. With w the words of a window, the token w_t is

    new             none of w_0 ... w_{t-1} is w_t
    seen            one of them is, but never behind w_{t-1}
    repeated        (w_{t-1}, w_t) stood there before; by how many tokens ago it stood there last

Shape legend: N windows, W tokens of a window.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_bk.bench.environment import environment
from resnet_bk.bench.held_out import tokens_read
from resnet_bk.bench.trained.opened_run import OpenedRun, open_runs
from resnet_bk.bench.trained.positions import longest_text
from resnet_bk.training.loss import autocast_to, causal_lm_loss
from resnet_bk.training.mode import evaluation_mode

FILE = "repeats.json"
NEW, SEEN, REPEATED = 0, 1, 2
DISTANCES = (16, 64, 256)  # borders between stretches of distances, in tokens


def repeat_losses(
    folders: Sequence[Path], data: str | None, split: str, window: int | None = None, device: str | None = None
) -> dict[str, Any]:
    """Mean loss of several trained models by kind of token, on the same text.

    Args:
        folders: run folders; their tokenizers must be one and the same.
        data: the text; None for that of the runs, which must be one.
        split: of it, or "all" of one that came without splits.
        window: W, an even number; None for the segment of the first run.
        device: see `run_device`.

    Returns:
        What repeats.json holds: `kinds`, a list with the name of each kind of token and its `share` of those counted,
        and `models`, with what is known of each run and its `losses` (nats a token, in the order of `kinds`; None
        where the text has none of a kind) and `loss`, that of all.

    Raises:
        ValueError: no finished run, a model that leaks, different tokenizers or, without `data`, texts, a window that
            is odd, longer than the text or than a model has positions for, text that the models were trained on.
    """
    runs = open_runs(folders, split, data, device)
    first = runs[0]
    width = first.protocol.sequence_length // 2 * 2 if window is None else window
    tokens = first.tokens.tokens
    if width < 2 or width % 2 or width >= len(tokens):
        way_out = "give a smaller even one" if window is None else "leave it out for the segment of the first run"
        raise ValueError(
            f"--window {width}: must be an even number below the {len(tokens):,} tokens of {first.corpus.name}, "
            f"{split}; {way_out}, or give more text"
        )
    for run in runs:
        longest = longest_text(run.model)
        if longest is not None and width > longest:
            raise ValueError(
                f"--window {width}: {run.folder} has positions for {longest} tokens; give --window "
                f"{longest // 2 * 2}, or leave that run out"
            )
    rows = windows(tokens, width)
    kinds = kinds_of(rows)
    names = kind_names(width)
    kinds = kinds[:, width // 2 :]
    return {
        "dataset_name": first.corpus.name,
        "split": split,
        "window": width,
        "tokens": int(kinds.size),
        "kinds": [{"name": name, "share": float((kinds == kind).mean())} for kind, name in enumerate(names)],
        "environment": environment(),
        "models": [_model(run, rows, kinds, len(names)) for run in runs],
    }


def windows(tokens: np.ndarray, width: int) -> np.ndarray:
    """Windows of `width` predicted tokens, one behind the other: [N, W + 1]. The rest of the text is not read."""
    count = (len(tokens) - 1) // width
    return np.stack([tokens[row * width : row * width + width + 1] for row in range(count)]).astype(np.int64)


def kinds_of(rows: np.ndarray) -> np.ndarray:
    """The kind of every predicted token, [N, W], as in `kind_names`."""
    kinds = np.full((len(rows), rows.shape[1] - 1), NEW)
    for row, words in enumerate(rows.tolist()):
        seen: set[int] = set()
        last: dict[tuple[int, int], int] = {}
        for place, pair in enumerate(pairwise(words)):
            seen.add(pair[0])
            if pair in last:
                kinds[row, place] = REPEATED + int(np.searchsorted(DISTANCES, place - last[pair], side="right"))
            elif pair[1] in seen:
                kinds[row, place] = SEEN
            last[pair] = place
    return kinds


def kind_names(width: int) -> list[str]:
    """How each kind reads, in the order of their numbers, as far as a window has them."""
    lows = [1, *(border for border in DISTANCES if border < width)]
    highs = [*(border - 1 for border in lows[1:]), width - 1]
    far = [f"repeated, {low} to {high} tokens ago" for low, high in zip(lows, highs, strict=True)]
    return ["new word", "seen word, new pair", *far]


@torch.no_grad()
def _model(run: OpenedRun, rows: np.ndarray, kinds: np.ndarray, count: int) -> dict[str, Any]:
    losses = _losses(run, torch.from_numpy(rows))[:, kinds.shape[1] :]
    counted = torch.from_numpy(kinds).flatten()
    sums = torch.bincount(counted, losses.flatten(), count)
    numbers = torch.bincount(counted, minlength=count)
    return {
        **run.facts(),
        "loss": float(losses.mean()),
        "losses": [float(total / n) if n else None for total, n in zip(sums, numbers, strict=True)],
    }


def _losses(run: OpenedRun, rows: Tensor) -> Tensor:
    """Of every predicted token, float64 [N, W]."""
    model, found = run.model, []
    done = 0
    with evaluation_mode(model), tokens_read(str(run.folder), rows[:, 1:].numel()) as progress:
        for batch in rows.to(model.device).split(run.protocol.batch_size):
            with autocast_to(run.protocol.dtype, batch.device):
                reached = causal_lm_loss(model, batch[:, :-1], batch[:, 1:], run.head, reduction="none")
            found.append(reached.value.double().cpu())
            done += found[-1].numel()
            progress(done)
    return torch.cat(found)
