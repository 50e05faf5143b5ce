"""Corpora from the Hugging Face hub, through `datasets.load_dataset` (memory-mapped arrow files).

The hub is asked once, with a deadline, before `datasets` is, because `datasets` retries for about half a minute
where there is no network. With HF_HUB_OFFLINE=1 nothing is asked and only the cache of `datasets` is read.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from resnet_bk.data import readers
from resnet_bk.data.corpus import DIVISION, Corpus, Piece, Reader, hash_split
from resnet_bk.data.local import LAYOUT, SPLIT_NAMES

WIKITEXT = "Salesforce/wikitext"
# Both spellings of each: the plain names mean the raw text, in which rare words are not replaced by <unk>.
WIKITEXT_CONFIGS = {
    "wikitext-2": "wikitext-2-raw-v1",
    "wikitext-103": "wikitext-103-raw-v1",
    **{config: config for config in ("wikitext-2-raw-v1", "wikitext-103-raw-v1", "wikitext-2-v1", "wikitext-103-v1")},
}
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[^/:]+)?")
DEADLINE_SECONDS = 10.0
STRINGS = ("string", "large_string", "string_view")  # as `datasets` calls them


def hub_name(name: str) -> tuple[str, str | None] | None:
    """Repository and config of a hub name (`owner/name`, `owner/name:config`, a WikiText alias); None if it is none.

    Raises ValueError for WikiText without a config, or with one that it does not have.
    """
    if name in WIKITEXT_CONFIGS:
        return WIKITEXT, WIKITEXT_CONFIGS[name]
    if spelled := re.fullmatch(r"(?:Salesforce/)?wikitext(?:[:/](.*))?", name):
        if spelled[1] not in WIKITEXT_CONFIGS:
            raise ValueError(
                f"data {name!r}: there is no such local path, and as a data set of the hub WikiText takes one of "
                f"{', '.join(WIKITEXT_CONFIGS)}; write for example wikitext-2 or Salesforce/wikitext:wikitext-2-raw-v1"
            )
        return WIKITEXT, WIKITEXT_CONFIGS[spelled[1]]
    if not NAME.fullmatch(name):
        return None
    repository, _, config = name.partition(":")
    return repository, config or None


def load_hub(name: str, repository: str, config: str | None) -> Corpus:
    """Corpus of a hub data set with a column `text`; a set with a single split is divided 90/5/5 by document.

    Raises ValueError, within seconds, where the hub cannot be reached or has no such set.
    """
    licence, revision = _ask(name, repository)
    import datasets

    try:
        # Files, which the fingerprint is of; a setting of `datasets` would keep small sets in memory instead.
        loaded = datasets.load_dataset(repository, config, keep_in_memory=False, revision=revision)
    except ConnectionError as error:
        raise ValueError(_unreachable(name, repository, error)) from error
    except Exception as error:  # `datasets` raises errors of many libraries; each means that this set cannot be had
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"data {name!r}: the hub's data set {repository!r} cannot be loaded ({reason}); "
            f"write owner/name:config for one of its configs, or give a local folder with {LAYOUT}"
        ) from error
    for key, part in loaded.items():
        if not part.cache_files:
            raise ValueError(
                f"data {name!r}: `datasets` keeps its split {key!r} in no file, so that its tokens could not be told "
                "from those of another set; unset HF_DATASETS_IN_MEMORY_MAX_SIZE"
            )
        if readers.COLUMN not in part.column_names:
            raise ValueError(
                f"data {name!r}: no column {readers.COLUMN!r}, only {', '.join(part.column_names)}; "
                f"save its text as parquet files with that column and give their folder"
            )
        if getattr(part.features[readers.COLUMN], "dtype", None) not in STRINGS:
            raise ValueError(
                f"data {name!r}: the column {readers.COLUMN!r} holds {part.features[readers.COLUMN]}, not strings; "
                "save its text as parquet files with strings there and give their folder"
            )
    uses = [SPLIT_NAMES.get(key, key) for key in loaded]
    if len(set(uses)) < len(uses):
        several = sorted(key for key, use in zip(loaded, uses, strict=True) if uses.count(use) > 1)
        raise ValueError(
            f"data {name!r}: the splits {', '.join(several)} of {repository!r} are of one use; save the "
            f"one that is meant and give its folder, with {LAYOUT}"
        )
    sets: dict[str, Reader] = {use: partial(_read, name, part) for use, part in zip(uses, loaded.values(), strict=True)}
    divided = len(sets) == 1  # `datasets` calls the only set "train", whatever its publisher meant
    whole = next(iter(sets.values())) if divided else None
    if whole is not None:
        sets = hash_split(whole)
    files = {
        key: [readers.sha256_of(Path(file["filename"])) for file in part.cache_files] for key, part in loaded.items()
    }
    content = ["hub-1", files, *([DIVISION] if divided else [])]
    return Corpus(
        name=name,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        description=(
            f"{repository}{f' ({config})' if config else ''} from the Hugging Face hub, "
            f"{f'revision {revision}, ' if revision else ''}licence: {licence}"
            f"{', divided 90/5/5 by document' if divided else ''}"
        ),
        readers=sets,
        whole=whole,
    )


def _read(name: str, part: Any) -> Iterator[Piece]:
    return readers.row_pieces(_rows(name, part))


def _rows(name: str, part: Any) -> Iterator[str]:
    for table in part.select_columns([readers.COLUMN]).with_format("arrow").iter(batch_size=readers.ROWS):
        yield from readers.arrow_texts(table.column(0), f"the hub's data set {name!r}")


def answer_within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or the error that it raises, or a TimeoutError: in a thread, because the look-up of a host's
    name obeys no timeout."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(ask())
        except Exception as error:  # handed to the caller, which tells the kinds apart
            answer.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else TimeoutError(f"no answer in {seconds:.0f} s")


def _ask(name: str, repository: str) -> tuple[str, str | None]:
    """Make sure that the hub answers and has the data set; return its licence and its present revision."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        return "see its page", None
    seconds = DEADLINE_SECONDS
    outcome = answer_within(seconds, lambda: HfApi().dataset_info(repository, timeout=seconds / 2))
    # WikiText is there: such an answer about it comes from something in between.
    if (
        isinstance(outcome, HfHubHTTPError)
        and outcome.response.status_code in (401, 403, 404)
        and repository != WIKITEXT
    ):
        raise ValueError(
            f"data {name!r}: there is no such local path, and the hub has no data set {repository!r} that you may "
            f"read; check the spelling, log in with `hf auth login` if it is private, or give a local path"
        ) from outcome
    if isinstance(outcome, HFValidationError):
        raise ValueError(
            f"data {name!r}: there is no such local path, and it cannot be the name of a data set of the hub "
            f"({' '.join(str(outcome).split())}); check the spelling"
        ) from outcome
    if isinstance(outcome, Exception):
        raise ValueError(_unreachable(name, repository, outcome)) from outcome
    card = outcome.card_data
    return str(card.get("license") or "see its page") if card else "see its page", outcome.sha


def _unreachable(name: str, repository: str, error: Exception) -> str:
    from huggingface_hub import constants

    reason = (str(error).splitlines() or [type(error).__name__])[0]
    offline = (
        "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "set HF_HUB_OFFLINE=1 if it was loaded here before"
    )
    # WikiText is there, whatever lies here.
    local = "" if repository == WIKITEXT else "there is no such local path, and "
    return (
        f"data {name!r}: {local}the Hugging Face hub at {constants.ENDPOINT} cannot be "
        f"reached ({reason}); go online, {offline}, or give a local folder with {LAYOUT}"
    )
