"""Corpora from local files: text, parquet, jsonl, WikiText token files.

Layouts of a folder, found at any depth, hidden files left out:

- split folders: `train/`, `validation/`, `test/` with files of one format in them
- split files: `train.txt`, `train-1.txt`, `validation.parquet`, `train-00000-of-00002.parquet`, `wiki.valid.tokens` ...
- neither: one set, divided 90/5/5 by a fixed hash of how each document begins

A file given by itself is one set whatever its name. Documents are files (text), rows (parquet, jsonl) or articles
(WikiText, in token files or one line a row). A single text file is one document and is divided by position, as is
usual for such files.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePath

from resnet_bk.data import readers
from resnet_bk.data.corpus import DIVISION, SPLITS, Corpus, Piece, Reader, document_pieces, hash_split

LAYOUT = (
    "any .txt files, which are divided 90/5/5, or train, validation and test as .parquet or .jsonl with a column "
    "'text', as folders of .txt files, or as wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens"
)
FORMATS = {".txt": "text", ".parquet": "parquet", ".jsonl": "jsonl", ".tokens": "wikitext", ".raw": "wikitext"}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Text files that come with a corpus and are no part of it.
NOT_TEXT = {"readme", "license", "licence", "copying", "credits", "notice", "changelog", "requirements"}
SPLIT_FILE = re.compile(rf"(?:wiki\.)?({'|'.join(SPLIT_NAMES)})(?=[-_.\d])", re.IGNORECASE)
# Where a name tells its split otherwise than at its start, by which it is not read.
HINT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?:[-_]?(?:set|data))?(?=[-_.\d]|$)", re.IGNORECASE)
PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
SHARD = re.compile(r"(?P<set>.*)-(?P<index>\d+)-of-(?P<count>\d+)")
# A folder with both is that of a training, which may lie beside its text, and not text.
OF_A_RUN = {"run.json", "log.jsonl"}
# A single text file is cut at the end of the line nearest after the share, looked for within this many bytes.
CUT_BYTES = 65_536


def load_local(path: Path) -> Corpus:
    """Corpus of an existing file or folder.

    Raises ValueError for a folder without text, a mix of formats, file names of which only some name a split,
    missing shards, and for files that are empty, damaged, not UTF-8 or without a text column.
    """
    if all((path / name).exists() for name in OF_A_RUN):
        raise ValueError(f"data: {path} is the folder of a training; name the text")
    if path.is_dir():
        files = _find(path)
    elif path.suffix.lower() in FORMATS:
        files = [path]
    else:
        _check_unpacked(path)
        raise ValueError(
            f"data: {path} has the suffix {path.suffix!r}, which is none of {', '.join(FORMATS)}; save the text as one "
            "of these"
        )
    kinds = {FORMATS[file.suffix.lower()]: file for file in files}
    if len(kinds) > 1:
        mixed = " and ".join(str(file) for file in kinds.values())
        raise ValueError(f"data: {path} mixes formats ({mixed}); keep one, or give the folder or file that you mean")
    kind = next(iter(kinds))
    splits = _by_split(path, files)
    variants = {file.suffix.lower(): file for file in files} if kind == "wikitext" else {}
    if len(variants) > 1:
        both = " and ".join(str(file) for file in variants.values())
        raise ValueError(
            f"data: {path} has two variants of WikiText, which are one text ({both}); keep the .tokens files or the "
            ".raw ones"
        )
    if kind == "parquet":
        for split, members in splits.items():
            if not sum(readers.check_parquet(member) for member in members):
                raise ValueError(
                    f"data: {members[0]} ({split or 'all'}) is empty: it has no rows; give a file with text"
                )
    checksum = readers.sha256_of if kind == "parquet" else readers.sha256_of_text
    content = {split: [checksum(member) for member in members] for split, members in splits.items()}
    counts = [f"{split or 'not divided'}: {len(members)}" for split, members in splits.items()]
    divided = "" in splits
    single = kind == "text" and divided and len(files) == 1
    whole = partial(READERS[kind], splits[""]) if divided else None
    sets: dict[str, Reader]
    if single:
        bounds = _bounds(files[0])
        sets = {split: partial(_read_range, files[0], start, stop) for split, (start, stop) in bounds.items()}
    elif whole is not None:
        sets = hash_split(whole)
    else:
        sets = {split: partial(READERS[kind], members) for split, members in splits.items()}
    version = "local-1" if kind == "parquet" else "local-2"  # of what is read from the same bytes
    by_hash = [DIVISION] if divided and not single else []
    how = f", divided 90/5/5 by {'position' if single else 'document'}" if divided else ""
    return Corpus(
        name=path.resolve().name,
        fingerprint=hashlib.sha256(json.dumps([version, kind, content, *by_hash], sort_keys=True).encode()).hexdigest(),
        description=f"local {kind} files ({', '.join(counts)}){how}",
        readers=sets,
        whole=whole,
    )


def _find(folder: Path) -> list[Path]:
    """Files of a known format under a folder, in the order of their paths; none of a training's. Links to folders are
    followed, each folder once, after all that are there themselves: their own names may tell the split."""
    found: list[Path] = []
    seen: set[str] = set()
    starts = [folder]
    try:
        while starts:
            links: list[Path] = []
            for start in starts:
                for parent, folders, names in os.walk(start, onerror=_raise):
                    if OF_A_RUN.issubset(names):
                        folders.clear()
                        continue
                    real = os.path.realpath(parent)
                    shown = [Path(parent, name) for name in folders if not name.startswith(".") and real not in seen]
                    links += [path for path in shown if path.is_symlink()]
                    folders[:] = [path.name for path in shown if not path.is_symlink()]
                    if real not in seen:
                        found += [Path(parent, name) for name in names if _is_text(name)]
                    for name in names:
                        if Path(name).stem not in names:  # else it lies beside what was in it
                            _check_unpacked(Path(parent, name))
                    seen.add(real)
            starts = sorted(links)
    except OSError as error:
        raise ValueError(f"data: {error.filename} cannot be read ({error.strerror})") from error
    if not found:
        raise ValueError(f"data: the folder {folder} holds no text{_of_datasets(folder)}; it needs {LAYOUT}")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _of_datasets(folder: Path) -> str:
    """The way from what `save_to_disk` of `datasets` writes to what is read here."""
    if not any(folder.rglob("*.arrow")):
        return ""
    return (
        " but .arrow files; read it with datasets.load_from_disk, and write each split with its to_parquet, as "
        "train.parquet, validation.parquet and test.parquet"
    )


def _is_text(name: str) -> bool:
    path = Path(name)
    kind = FORMATS.get(path.suffix.lower())
    return not name.startswith(".") and kind is not None and not (kind == "text" and path.stem.lower() in NOT_TEXT)


def _check_unpacked(path: Path) -> None:
    """Raises ValueError for text that is packed: a folder would be read without it."""
    if path.suffix.lower() in PACKED and _is_text(path.stem):
        raise ValueError(f"data: {path} is packed; unpack it first, or take it away")


def _raise(error: OSError) -> None:
    raise error


def split_name(path: PurePath) -> str:
    """Split that a relative path names by a folder or at the start of its file name; "" for none."""
    for part in path.parts[:-1]:
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
    match = SPLIT_FILE.match(path.name)
    return SPLIT_NAMES[match[1].lower()] if match else ""


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by split, train first, or all under "" where no name tells."""
    if not root.is_dir():
        return {"": list(files)}
    splits: dict[str, list[Path]] = {}
    sets: set[str] = set()
    for file in files:
        relative = file.relative_to(root)
        splits.setdefault(split_name(relative), []).append(file)
        above = takewhile(lambda part: part.lower() not in SPLIT_NAMES, relative.parts[:-1])
        sets.add(str(PurePath(*above)))
    if len(splits) > 1 and "" in splits:
        named = next(members[0] for split, members in splits.items() if split)
        raise ValueError(
            f"data: in {root} some file names tell their split ({named.name}) and others do not "
            f"({splits[''][0].name}); use {LAYOUT}, or take the odd files away"
        )
    if set(splits) == {""}:
        _check_hints(root, files)
    if "" not in splits and len(sets) > 1:
        raise ValueError(
            f"data: {root} holds several data sets ({', '.join(sorted(sets))}); give the folder of one of them"
        )
    for members in splits.values():
        _check_shards(members)
    return {split: splits[split] for split in ("", *SPLITS) if split in splits}


def _check_hints(root: Path, files: Sequence[Path]) -> None:
    """Raises ValueError where names of files or folders seem to tell training text from other text: divided anew, one
    would be trained on what is held out."""
    hinted = {}
    for file in files:
        *folders, _ = relative = file.relative_to(root).parts
        for name, stem in zip(relative, (*folders, file.stem), strict=True):
            if match := HINT.search(stem):
                hinted[SPLIT_NAMES[match[1].lower()]] = name
    if "train" in hinted and len(hinted) > 1:
        raise ValueError(
            f"data: in {root} names seem to tell splits ({', '.join(hinted.values())}), but not as they are read; name "
            "files or folders train, validation and test, such as train-1.txt or train/1.txt, or where they mean no "
            "splits, without these words"
        )


def _check_shards(files: Sequence[Path]) -> None:
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := SHARD.fullmatch(file.stem):
            key = str(file.with_name(match["set"])), int(match["count"])
            shards.setdefault(key, set()).add(int(match["index"]))
    for (name, count), present in shards.items():
        if present == set(range(1, count + 1)):  # counted from 1
            continue
        if missing := sorted(set(range(count)) - present):
            raise ValueError(
                f"data: {len(missing)} of the {count} shards of {name} are missing (the first is number {missing[0]}); "
                f"fetch the whole set"
            )


def _bounds(path: Path) -> dict[str, tuple[int, int]]:
    """First byte of each split, and the one behind its last."""
    size = path.stat().st_size
    first = _line_end(path, int(0.90 * size), size)
    # Where nothing ends before, the first lies behind.
    second = _line_end(path, max(first, int(0.95 * size)), size)
    return {"train": (0, first), "validation": (first, second), "test": (second, size)}


def _line_end(path: Path, offset: int, size: int) -> int:
    """First place from offset on after a line feed, or else before a space, in UTF-8 bytes; blank lines at the end of
    the file divide nothing."""
    with path.open("rb") as file:
        file.seek(offset)
        window = file.read(CUT_BYTES)
    if offset + len(window) == size:
        window = window.rstrip()
    if (place := window.find(b"\n")) >= 0:
        return offset + place + 1
    if (place := window.find(b" ")) >= 0:
        return offset + place
    return size


def _read_range(path: Path, start: int, stop: int) -> Iterator[Piece]:
    if start < stop:
        yield from document_pieces(readers.read_text(path, start, stop))


def _parquet(paths: Sequence[Path]) -> Iterator[Piece]:
    return readers.row_pieces(readers.parquet_rows(paths))


def _jsonl(paths: Sequence[Path]) -> Iterator[Piece]:
    return readers.row_pieces(readers.jsonl_rows(paths))


READERS: dict[str, Callable[[Sequence[Path]], Iterator[Piece]]] = {
    "text": readers.text_pieces,
    "parquet": _parquet,
    "jsonl": _jsonl,
    "wikitext": readers.wikitext_pieces,
}
