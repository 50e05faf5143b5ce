"""Small corpora and tokenizers that the tests of this folder share."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resnet_bk.data.corpus import Corpus, Piece, document_pieces

WORDS = [
    f"{stem}{end}"
    for stem in ["river", "stone", "castle", "emperor", "green", "algae", "old", "great"]
    for end in ("", "s", "ed")
]


def make_documents(count: int, seed: int, words: int = 40) -> list[str]:
    """Documents of random words and punctuation marks, each different."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choice(WORDS) + draw.choice(["", "", "", ",", "."]) for _ in range(words)) + f" No. {seed}-{i}."
        for i in range(count)
    ]


def make_corpus(splits: dict[str, list[str]], fingerprint: str = "made in a test") -> Corpus:
    def reader(documents: list[str]) -> Callable[[], Iterable[Piece]]:
        return lambda: (piece for document in documents for piece in document_pieces([document]))

    readers = {split: reader(documents) for split, documents in splits.items()}
    return Corpus(name="made", fingerprint=fingerprint, description="made in a test", readers=readers)  # type: ignore[arg-type]


def write_parquet(path: Path, texts: list[str | None], column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"title": ["t"] * len(texts), column: pa.array(texts, pa.string())}), path)
    return path


def write_splits(folder: Path, suffix: str = ".txt") -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"train": "the river runs\n", "validation": "a stone lies\n", "test": "one castle stands\n"}
    for split, text in texts.items():
        (folder / f"{split}{suffix}").write_text(text)
    return texts


@pytest.fixture(scope="session")
def small_corpus() -> Corpus:
    """300, 20 and 20 documents."""
    return make_corpus(
        {"train": make_documents(300, 1), "validation": make_documents(20, 2), "test": make_documents(20, 3)}
    )
