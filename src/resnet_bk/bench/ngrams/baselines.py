"""n-gram baselines of a protocol: what a count of words predicts, on exactly the tokens that its models are scored on.

The tokenizer and the training text of the protocol, the same held-out stream: every token but the first is predicted,
`<unk>` and `<eos>` are words like others, and the probability is shared by the whole vocabulary. Contexts go on across
`<eos>`, as they do for a model. An n-gram sees the n - 1 tokens before; no segments cut them off.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_bk.bench.data import check_split, default_cache_dir, open_corpus, prepare
from resnet_bk.bench.environment import code_state, environment
from resnet_bk.bench.json_files import read_json, write_json
from resnet_bk.bench.ngrams.kneser_ney import OrderScore, kneser_ney
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.run_folder import check_writable, files_of_runs, locked
from resnet_bk.data.corpus import WHOLE
from resnet_bk.training import perplexity

ORDERS = (1, 2, 5)
FILE = "ngrams.json"
METHOD = "interpolated modified Kneser-Ney (Chen and Goodman 1999)"
_NAMES = {1: "unigram", 2: "bigram", 3: "trigram"}


def ngram_baselines(
    protocol: Protocol,
    *,
    orders: Sequence[int] = ORDERS,
    split: str = "validation",
    cache_dir: Path | None = None,
) -> dict[str, Any]:
    """Train n-gram models on the protocol's training tokens and score a whole split.

    Args:
        protocol: its data, tokenizer, vocabulary and data_limit count.
        orders: of the models.
        split: "validation" or another split of the data of which nothing is counted.
        cache_dir: of tokenizers and tokens, by default `default_cache_dir()`.

    Returns:
        What ngrams.json holds: `ngrams` is a list with, for each order, `perplexity`, `loss` (nats a token),
        `bits_per_character`, `seconds` (beyond those of the order before in the list), the number of different n-grams
        and the discounts.

    Raises:
        ValueError: wrong orders or split, data that is missing or too small.
    """
    if split in ("train", WHOLE):
        part = "it" if split == "train" else "a part of it"
        raise ValueError(
            f"--split {split}: n-grams are counted on {part}; name a held-out split, for example validation"
        )
    corpus = open_corpus(protocol)
    check_split(corpus, split)
    prepared = prepare(protocol, corpus, cache_dir or default_cache_dir())
    held_out = prepared.split(split)
    code_state()  # that which counts, whatever is committed meanwhile
    found, since = [], time.perf_counter()
    for score in kneser_ney(prepared.train.tokens, held_out.tokens, len(prepared.tokenizer), orders):
        found.append(_entry(score, held_out.characters, time.perf_counter() - since))
        since = time.perf_counter()
    return {
        "protocol": protocol.name,
        "dataset_name": corpus.name,
        "split": split,
        "method": METHOD,
        "vocab_size": len(prepared.tokenizer),
        "train_tokens": len(prepared.train.tokens),
        "tokens": len(held_out.tokens) - 1,
        "unk_rate": held_out.unknown_rate,
        "fingerprints": prepared.fingerprints() | {"held_out_tokens": held_out.fingerprint},
        "environment": environment(),
        "ngrams": found,
    }


def _entry(score: OrderScore, characters: int, seconds: float) -> dict[str, Any]:
    nll = -float(np.sum(score.log_probabilities))
    loss = nll / len(score.log_probabilities)
    return {
        "name": _NAMES.get(score.order, f"{score.order}-gram"),
        "order": score.order,
        "perplexity": perplexity(loss),
        "loss": loss,
        "bits_per_character": nll / math.log(2) / characters,
        "different_ngrams": score.ngrams,
        "discounts": list(score.discounts),
        "discounts_estimated": score.discounts_estimated,
        "seconds": seconds,
    }


def write_ngrams(result: dict[str, Any], out: Path) -> Path:
    """OUT/ngrams.json; where OUT has results of the same data, they get the baselines as well (`ngrams`).

    Raises:
        ValueError: as `check_ngrams`; a benchmark is running in the folder, or its results, runs or baselines are of
            other data.
    """
    check_ngrams(out, result["split"], [entry["order"] for entry in result["ngrams"]])
    with locked(out):
        file = out / "results.json"
        results = read_json(file) if file.exists() else None
        beside = [read_json(run) for run in files_of_runs(out, "run.json")] + ([] if results is None else [results])
        if not all(same_data(result, content.get("data") or {}) for content in beside):
            raise ValueError(f"--out {out} holds results of other text, tokens or vocabulary; name another folder")
        there = _there(out)
        if there is not None and not same_data(result, there):
            raise ValueError(f"--out {out} holds n-grams of other text, tokens or vocabulary; name another folder")
        write_json(out / FILE, result)
        if results is not None:
            write_json(file, results | {"ngrams": result})
    return out / FILE


def check_ngrams(out: Path, split: str, orders: Sequence[int]) -> None:
    """Nothing is written.

    Raises:
        ValueError: the folder cannot be written, or has baselines that cannot be read, of another split, or of an order
            that is not among `orders`.
    """
    check_writable(out)
    there = _there(out)
    if there is None:
        return
    if there["split"] != split:
        raise ValueError(
            f"--out {out} holds n-grams of the {there['split']} split, and these are of {split}; name another folder"
        )
    kept = {entry["order"] for entry in there["ngrams"]}
    lost = sorted(kept - {*orders})
    if lost:
        every = ",".join(str(order) for order in sorted(kept | {*orders}))
        raise ValueError(
            f"--out {out} holds n-grams of order {', '.join(map(str, lost))}, which would be lost; add --orders "
            f"{every}, or name another folder"
        )


def _there(out: Path) -> dict[str, Any] | None:
    """The baselines that are in OUT: those of ngrams.json, or of a results.json that came without it.

    Raises:
        ValueError: they cannot be read.
    """
    file = out / FILE if (out / FILE).exists() else out / "results.json"
    if not file.exists():
        return None
    content = read_json(file)
    found: Any = content if file.name == FILE else content.get("ngrams")
    if found is None:
        return None
    entries = found.get("ngrams") if isinstance(found, dict) else None
    if not (
        isinstance(entries, list)
        and all(isinstance(entry, dict) and {"order", "name", "perplexity"} <= {*entry} for entry in entries)
        and "split" in found
        and isinstance(found.get("fingerprints"), dict)
    ):
        raise ValueError(f"{file} holds n-grams that cannot be read; remove them, and count anew with resnet-bk ngrams")
    kept: dict[str, Any] = found
    return kept


def read_ngrams(out: Path, data: dict[str, Any]) -> dict[str, Any] | None:
    """The baselines that are in OUT, if they are of this data (`data` of results.json).

    Raises:
        ValueError: they cannot be read.
    """
    result = _there(out)
    return result if result is not None and same_data(result, data) else None


def same_data(result: dict[str, Any], data: dict[str, Any]) -> bool:
    """Whether text, training and validation tokens are the same; the tokenizer may be written otherwise."""
    theirs = {key: value for key, value in (data.get("fingerprints") or {}).items() if key != "tokenizer"}
    return bool(theirs) and all(result["fingerprints"].get(key) == value for key, value in theirs.items())
