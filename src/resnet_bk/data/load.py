"""`load_corpus`: which source a name means."""

import os
from collections.abc import Callable
from pathlib import Path

from resnet_bk.data.corpus import Corpus
from resnet_bk.data.embedded import load_embedded
from resnet_bk.data.hub import WIKITEXT_CONFIGS, hub_name, load_hub
from resnet_bk.data.local import FORMATS, load_local

# Names that are neither a path nor a data set of the hub.
SOURCES: dict[str, Callable[[], Corpus]] = {"embedded": load_embedded}
RULE = (
    f"data is {', '.join(map(repr, SOURCES))}, 'wikitext-2', 'wikitext-103', an existing file or folder, "
    "or a hub data set written owner/name or owner/name:config"
)


def load_corpus(name_or_path: str | os.PathLike[str]) -> Corpus:
    """Corpus by name or path. The first rule that fits decides:

    1. A name of `SOURCES`: `embedded` is the text of the `quick` protocol.
    2. `wikitext-2`, `wikitext-103` and the hub's own names for them (`wikitext-2-raw-v1`, `wikitext-2-v1` ...): the
       hub. A folder of that name is written `./wikitext-2`.
    3. An existing file or folder (`~` is the home folder).
    4. `owner/name` or `owner/name:config`, with exactly one slash and no suffix of a text file: the hub. WikiText is
       `Salesforce/wikitext:wikitext-2-raw-v1` and `wikitext/wikitext-2-raw-v1` too.

    Everything else is a path that does not exist, and the hub is not asked.

    Raises ValueError naming the source, what is wrong with it and the way out.
    """
    name = os.fspath(name_or_path) if isinstance(name_or_path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise ValueError(f"data {name_or_path!r} must be a name or a path; {RULE}")
    if not name.strip():
        raise ValueError(f"data {name!r} is empty; {RULE}")
    if name in SOURCES:
        return SOURCES[name]()
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # the home of a user who is not there
        raise ValueError(f"data {name!r}: no such file or folder ({error}); {RULE}") from error
    if name in WIKITEXT_CONFIGS:
        return _load_hub(name)
    if _exists(path):
        return load_local(path)
    if not isinstance(name_or_path, Path) and path.suffix.lower() not in FORMATS and hub_name(name) is not None:
        return _load_hub(name)
    place = "" if path.is_absolute() else f" in {Path.cwd()}, from where it is looked for"
    raise ValueError(f"data {name!r}: no such file or folder{place}; {RULE}")


def is_missing_here(name: str) -> bool:
    """Whether a name of data is a relative path, and no file or folder below the current folder; what may be a data set
    of the hub is none."""
    path = Path(name)
    if path.is_absolute() or name.startswith("~") or _exists(path) or name in (*SOURCES, *WIKITEXT_CONFIGS):
        return False
    return path.suffix.lower() in FORMATS or hub_name(name) is None


def _load_hub(name: str) -> Corpus:
    target = hub_name(name)
    assert target is not None
    try:
        return load_hub(name, *target)
    except ValueError as error:
        if _exists(Path(name)):
            raise ValueError(f"{error}; for the local folder of this name write ./{name}") from error
        raise


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long or with a null byte is no path
        return False
