"""Finished runs with text to read: what `eval`, `lengths` and `repeats` measure trained models on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_bk.bench.data import check_split, default_cache_dir, open_corpus, split_tokens
from resnet_bk.bench.environment import environments_of
from resnet_bk.bench.json_files import read_json
from resnet_bk.bench.protocol import Protocol, check_protocol
from resnet_bk.bench.run_folder import read_run
from resnet_bk.bench.trained.opened_model import OpenedModel
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.data import Corpus, TokenCache
from resnet_bk.data.corpus import WHOLE
from resnet_bk.data.load import is_missing_here
from resnet_bk.data.saved_tokenizer import read_tokenizer
from resnet_bk.training import training_device


@dataclass(frozen=True)
class OpenedRun(OpenedModel):
    """A finished run with text to read, in the rows, segments and precision of its protocol.

    Attributes:
        folder: of the run.
        record: run.json.
        end: the token that ends documents.
    """

    folder: Path
    record: dict[str, Any]
    end: int

    @property
    def commits(self) -> list[str]:
        """Commits at which it was trained: of every call, for one that was stopped has several."""
        result = read_json(self.folder / "result.json")
        places = environments_of(result) or [self.record["environment"]]
        return list(dict.fromkeys(place["git_commit"] or "unknown" for place in places))

    def facts(self) -> dict[str, Any]:
        """What a table of several trained models says of each of them."""
        return {
            "model_name": self.name,
            "seed": self.record["seed"],
            "run": str(self.folder),
            "learning_rate": self.record["learning_rate"],
            "dtype": self.protocol.dtype,
            "device": self.model.device.type,
            "steps": self.record["training"]["steps"],
            "parameters": self.model.num_parameters(),
            "trained_at_commit": ", ".join(self.commits),
        }


def folders_to_tell(models: Sequence[dict[str, Any]]) -> list[str | None]:
    """Of each model of a table, as `OpenedRun.facts` says them, its folder, where another has its name and seed."""
    known = [(model["model_name"], model["seed"]) for model in models]
    return [model["run"] if known.count(own) > 1 else None for model, own in zip(models, known, strict=True)]


def run_device(protocol: Protocol, device: str | None) -> torch.device:
    """Where a trained model runs: on `device`, "auto", "cpu" or "cuda". None: on a GPU where there is one, unless the
    protocol of its run says cpu.

    Raises:
        ValueError: no such device, or none here.
    """
    by_default = "cpu" if protocol.device == "cpu" else "auto"
    return training_device(by_default if device is None else device)


def open_run(folder: Path, split: str, data: str | None, device: str | None = None) -> OpenedRun:
    """A finished run and a split of text.

    Args:
        folder: run folder.
        split: "validation", "test", another split of the data, or "all" for text that came without splits.
        data: other text than that of the run; the run's tokenizer reads it.
        device: see `run_device`.

    Raises:
        ValueError: no finished run, no such data, split or device, text that has changed since the run, other text that
            holds what the run was trained on.
    """
    record = read_run(folder, "model", "seed", "learning_rate", "data", "protocol", "training", "environment")
    protocol = check_protocol(record["protocol"] | ({} if data is None else {"dataset": data}), str(folder))
    try:
        corpus = open_corpus(protocol, ("train", "validation") if data is None else ())
    except ValueError as error:
        if data is not None or not is_missing_here(protocol.dataset):
            raise
        raise ValueError(f"{folder}: {error}, or call this from the folder of the training") from error
    if data is None:
        check_same_text(folder, record, corpus, split)
    check_split(corpus, split)
    if split == WHOLE and corpus.fingerprint == record["data"]["fingerprints"]["corpus"]:
        raise ValueError(
            f"--split {split}: {folder} was trained on a part of this text; take another split, or other text with "
            "--data"
        )
    model = load_model(folder / "model").to(run_device(protocol, device))
    if not (folder / "result.json").exists():
        raise ValueError(
            f"{folder} has no result.json: it was stopped before its figures were measured; `resnet-bk bench` again, "
            "with the same options, finishes it"
        )
    result = read_json(folder / "result.json", "audit", "head")
    tokenizer = read_tokenizer(folder / "model")
    limit = protocol.data_limit if split == "train" and data is None else None  # of the run's text, what it read
    cache = default_cache_dir()
    tokens = split_tokens(corpus, split, tokenizer, cache, limit)
    if corpus.fingerprint != record["data"]["fingerprints"]["corpus"]:
        first = partial(split_tokens, corpus, tokenizer=tokenizer, cache_dir=cache)
        how = _seen(record["data"], split, tokens, first, tokenizer.eos_token_id)
        if how is not None:
            raise ValueError(
                f"--data {data}, --split {split}: {how} the text that {folder} was trained on; take another split, or "
                "other text"
            )
    return OpenedRun(
        name=record["model"],
        protocol=protocol,
        model=model,
        audit=result["audit"],
        head=result["head"],
        carry_state=protocol.models[record["model"]].carry_state,
        corpus=corpus,
        tokens=tokens,
        folder=folder,
        record=record,
        end=tokenizer.eos_token_id,
    )


def _seen(
    trained: dict[str, Any], split: str, tokens: TokenCache, first: Callable[..., TokenCache], end: int
) -> str | None:
    """How a text holds the tokens of a training, as their hashes tell, whatever the format of its file; None: not so.

    Args:
        trained: "data" of the run's record.
        split: the part of the text that is to be measured.
        tokens: its tokens.
        first: gives the first `limit` tokens of a split of the text.
        end: the token that ends documents.
    """
    count, wanted = trained["train_tokens"], trained["fingerprints"]["train_tokens"]
    if tokens.fingerprint == wanted:
        return "is"
    if wanted in _beginnings(tokens, count, end):
        return "begins with"
    # All documents stand in another order than those of the training split.
    if split == WHOLE and wanted in _beginnings(first("train", limit=count), count, end):
        return "holds"
    return None


def _beginnings(tokens: TokenCache, count: int, end: int) -> set[str]:
    """Hashes of the first `count` tokens, as they are and with the `end` that stands where a document was cut between
    training and validation; none of a text that is shorter."""
    if len(tokens.tokens) < count:
        return set()
    cut = sha256(tokens.tokens[: count - 1].tobytes())
    whole = cut.copy()
    whole.update(tokens.tokens[count - 1 : count].tobytes())
    cut.update(np.array([end], dtype=tokens.tokens.dtype).tobytes())
    return {whole.hexdigest(), cut.hexdigest()}


def open_runs(folders: Sequence[Path], split: str, data: str | None, device: str | None = None) -> list[OpenedRun]:
    """Finished runs whose losses on one text are to be compared token by token; arguments as of `open_run`.

    Raises:
        ValueError: as `open_run`; different tokenizers or, without `data`, texts; a model that leaks, text that one was
            trained on.
    """
    runs = [open_run(folder, split, data, device) for folder in folders]
    first = runs[0]
    for run in runs:
        if run.corpus.fingerprint != first.corpus.fingerprint:
            raise ValueError(
                f"{run.folder} was trained on other text than {first.folder}, and may have been on what that one holds "
                "out; name text that none of them was trained on with --data"
            )
        if run.record["data"]["fingerprints"]["tokenizer"] != first.record["data"]["fingerprints"]["tokenizer"]:
            raise ValueError(
                f"{run.folder} reads other tokens than {first.folder}, so that places are not comparable; give runs of "
                "one protocol, or call the command once for each"
            )
        if run.audit != "causal":
            raise ValueError(f"{run.folder}: the model leaks and has no perplexity; leave it out")
        if split == "train" and run.corpus.fingerprint == run.record["data"]["fingerprints"]["corpus"]:
            raise ValueError(
                f"--split train: {run.folder} was trained on it; take another split, or other text with --data"
            )
    return runs


def check_same_text(folder: Path, record: dict[str, Any], corpus: Corpus, split: str) -> None:
    """Raises ValueError where the text of a run, by its run.json, has changed since."""
    if corpus.fingerprint != record["data"]["fingerprints"]["corpus"]:
        raise ValueError(
            f"{folder}: the text at {record['protocol']['dataset']} is no longer that of the run, or divided otherwise "
            f"since, so that its {split} split may hold what the model was trained on; restore the text, or name other "
            "text with --data"
        )
