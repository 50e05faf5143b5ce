"""Perplexity by place in a long document: what a model that was trained on short segments makes of a whole book.

Every model reads the same documents twice, in segments of the length that it was trained on:

    carried    as one stream: what a segment leaves behind (the state of ResNet-BK, keys and values of attention) is
               handed to the next one
    restarted  each segment by itself

The second is the measure for the first, for the text of one place may be harder than that of another: a model uses what
lies far back where carried is below restarted, and does not survive the length where it is above.

Shape legend: N tokens predicted of a document, T tokens of a segment.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from resnet_bk.bench import formatting as fmt
from resnet_bk.bench.data import SPECIAL_IDS
from resnet_bk.bench.environment import environment
from resnet_bk.bench.inspect_model import OpenedRun, longest_text, open_run
from resnet_bk.bench.run_folder import check_writable, write_json
from resnet_bk.training import perplexity
from resnet_bk.training.carried import first_state
from resnet_bk.training.loss import Head, causal_lm_loss, choose_head

FILE = "lengths.json"
CHECKED = 8  # tokens on which a cache is tried
# One stream and two halves differ by the order of float32 sums (or bfloat16's, which the model's own precision may be);
# a cache that is passed over changes hidden states by their own size.
CARRIED_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Reading:
    """losses: of every token predicted, nats, float64 [N]; seconds: that it took."""

    losses: Tensor
    seconds: float


def length_profiles(
    folders: Sequence[Path], data: str | None, split: str, tokens: int, documents: int
) -> dict[str, Any]:
    """Perplexity by place of several trained models on the same long documents.

    Args:
        folders: run folders; their tokenizers must be one and the same.
        data: the text; None for that of the first run.
        split: of it.
        tokens: predicted in each document, from its start.
        documents: how many to read, the first that are long enough.

    Returns:
        What lengths.json holds: `places` are the stretches [first, last) of a document, `models` a list with, for each
        run, `carried` and `restarted` (perplexity of each stretch; `carried` None where the model cannot, with
        `carried_problem`) and their `seconds`.

    Raises:
        ValueError: no finished run, a model that leaks, different tokenizers, no document that is long enough.
    """
    runs = [open_run(folder, split, data) for folder in folders]
    first = runs[0]
    for run in runs:
        if run.record["data"]["fingerprints"]["tokenizer"] != first.record["data"]["fingerprints"]["tokenizer"]:
            raise ValueError(
                f"{run.folder} reads other tokens than {first.folder}, so that places are not comparable; give runs of "
                "one protocol, or call the command once for each"
            )
        if run.audit != "causal":
            raise ValueError(f"{run.folder}: the model leaks and has no perplexity; leave it out")
    texts = long_documents(first.tokens.tokens, tokens, documents)
    if not texts:
        longest = max(len(text) for text in split_documents(first.tokens.tokens)) - 1
        raise ValueError(
            f"--tokens {tokens}: no document of {first.corpus_name}, {split}, is that long; the longest predicts "
            f"{longest:,}. Take at most that, or other text with --data"
        )
    smallest = min(run.protocol.sequence_length for run in runs)
    borders = place_borders(smallest, tokens)
    return {
        "dataset_name": first.corpus_name,
        "split": split,
        "tokens": tokens,
        "documents": len(texts),
        "places": [list(pair) for pair in borders],
        "environment": environment(),
        "models": [_profile(run, texts, borders) for run in runs],
    }


def _profile(run: OpenedRun, texts: Sequence[np.ndarray], borders: Sequence[tuple[int, int]]) -> dict[str, Any]:
    segment = run.protocol.sequence_length
    sample = torch.from_numpy(texts[0][:segment].astype(np.int64)).unsqueeze(0)
    head = choose_head(run.model, sample.to(run.model.device))
    problem = cannot_carry(run.model, sample, len(texts[0]) - 1)
    found: dict[str, Any] = {
        "model_name": run.record["model"],
        "seed": run.record["seed"],
        "run": str(run.folder),
        "segment": segment,
        "carried_problem": problem,
    }
    for name in ("carried", "restarted"):
        if name == "carried" and problem is not None:
            found |= {"carried": None, "carried_seconds": None}
            continue
        carried, dtype = name == "carried", run.protocol.dtype
        read(run.model, texts[0][: 2 * segment + 1], segment, head, carried, dtype)  # first-call costs, off the clock
        readings = [read(run.model, text, segment, head, carried, dtype) for text in texts]
        losses = torch.stack([reading.losses for reading in readings])
        found |= {
            name: [perplexity(float(losses[:, start:stop].mean())) for start, stop in borders],
            f"{name}_seconds": sum(reading.seconds for reading in readings),
        }
    return found


def split_documents(tokens: np.ndarray) -> list[np.ndarray]:
    """The documents of a split, each with the `<eos>` that ends it."""
    ends = np.flatnonzero(tokens == SPECIAL_IDS["eos_token_id"]) + 1
    return [part for part in np.split(tokens, ends) if len(part)]


def long_documents(tokens: np.ndarray, length: int, count: int) -> list[np.ndarray]:
    """The first `count` documents that predict `length` tokens or more, cut to that: length + 1 tokens each."""
    return [part[: length + 1] for part in split_documents(tokens) if len(part) > length][:count]


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
    longest = longest_text(model)
    if longest is not None and longest < tokens:
        return f"it has learned positions for {longest:,} tokens"
    if hasattr(model, "target_losses"):  # ours: what they carry is theirs to say, and has tests
        return None
    words = sample[:, :CHECKED].to(model.device)
    half = words.shape[1] // 2
    was_training = model.training
    with torch.no_grad():
        base = model.eval().base_model
        whole = base(input_ids=words, use_cache=False).last_hidden_state
        first = first_state(model)
        given = {} if first is None else {"cache": first}
        cache = getattr(base(input_ids=words[:, :half], use_cache=True, **given), "cache", None)
        if cache is not None:
            rest = base(input_ids=words[:, half:], cache=cache, use_cache=True).last_hidden_state
    model.train(was_training)
    if cache is None:
        return "it returns no cache"
    # Some caches serve token by token alone, and are passed over where a whole segment follows.
    far = (rest - whole[:, half:]).abs().amax() > CARRIED_TOLERANCE * whole.abs().amax()
    return "its cache does not continue a text with several tokens at once" if far else None


@torch.no_grad()
def read(model: Any, text: np.ndarray, segment: int, head: Head, carried: bool, dtype: str) -> Reading:
    """The loss of every token of a document but the first.

    Args:
        model: a causal LM of `transformers`.
        text: [N + 1] tokens.
        segment: T, tokens of a segment; the last one may be shorter.
        head: from `choose_head`.
        carried: hand on what a segment leaves behind.
        dtype: "bfloat16" for autocast.
    """
    words = torch.from_numpy(text.astype(np.int64)).to(model.device)
    inputs, targets = words[:-1], words[1:]
    losses: list[Tensor] = []
    state = None
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    for first in range(0, len(inputs), segment):
        stretch = slice(first, first + segment)
        ids, words_after = inputs[stretch].unsqueeze(0), targets[stretch].unsqueeze(0)
        with torch.autocast(words.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            found = causal_lm_loss(model, ids, words_after, head, carry_state=carried, state=state, reduction="none")
        state = found.state
        losses.append(found.value.flatten().double().cpu())
    model.train(was_training)
    return Reading(torch.cat(losses), time.perf_counter() - start)


def write_lengths(result: dict[str, Any], out: Path) -> Path:
    """OUT/lengths.json.

    Raises:
        ValueError: the folder cannot be written.
    """
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, result)
    return out / FILE


def lengths_table(result: dict[str, Any]) -> Table:
    """A row a stretch, two columns a model."""
    table = Table(
        title=Text(
            f"{result['dataset_name']}, {result['split']}: perplexity by place, first {result['tokens']:,} tokens of "
            f"{result['documents']} document{'s' * (result['documents'] != 1)}"
        ),
        caption=Text("\n".join(_notes(result))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("tokens", justify="right")
    for model in result["models"]:
        for name in ("carried", "restarted"):
            table.add_column(f"{model['model_name']}\n{name}", justify="right")
    for place, (start, stop) in enumerate(result["places"]):
        cells = [
            fmt.perplexity(None if model[name] is None else model[name][place])
            for model in result["models"]
            for name in ("carried", "restarted")
        ]
        table.add_row(f"{start:,} to {stop:,}", *cells)
    return table


def _notes(result: dict[str, Any]) -> list[str]:
    lines = ["carried: one stream; restarted: every segment by itself. Segment by segment, one at a time."]
    for model in result["models"]:
        name, segment = model["model_name"], model["segment"]
        if model["carried"] is None:
            lines.append(f"{name}: segments of {segment:,}; cannot be carried, for {model['carried_problem']}.")
        else:
            times = ", ".join(f"{key} {fmt.duration(model[f'{key}_seconds'])}" for key in ("carried", "restarted"))
            lines.append(f"{name}: segments of {segment:,}; {times}.")
    return lines
