"""WikiText in the layouts that it is published in: each gives the same articles and the same tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_bk.data import Corpus, load_corpus, token_cache, train_tokenizer
from tests.data.conftest import make_documents, write_parquet

SPLITS = {"train": 7, "validation": 3, "test": 2}
FILE_NAMES = {"train": "train", "validation": "valid", "test": "test"}


def articles(split: str, raw: bool) -> list[list[str]]:
    """Lines of each article as in the token files. Raw text spells out what the tokenised one calls `<unk>`."""
    rare = "quernstone" if raw else "<unk>"
    made = []
    for i, text in enumerate(make_documents(SPLITS[split], seed=len(split), words=25)):
        first, second = text[:60], text[60:]
        made.append([f" = {split} {i} = ", " ", f" {first} {rare} ", " ", " = = History = = ", " ", f" {second} ", " "])
    return made


def as_files(folder: Path, suffix: str, raw: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in FILE_NAMES.items():
        lines = [" ", *(line for article in articles(split, raw) for line in article)]
        (folder / f"wiki.{name}.{suffix}").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def as_parquet(folder: Path, shards: int, raw: bool) -> None:
    """One line a row, blank lines empty, as on the hub."""
    for split in SPLITS:
        lines = ["", *(line for article in articles(split, raw) for line in article)]
        rows = [f"{line}\n" if line.strip() else "" for line in lines]
        count = shards if split == "train" else 1
        size = -(-len(rows) // count)
        for shard in range(count):
            part: list[str | None] = list(rows[shard * size : (shard + 1) * size])
            write_parquet(folder / f"{split}-{shard:05d}-of-{count:05d}.parquet", part)


LAYOUTS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "wiki.train.raw": (lambda folder: as_files(folder, "raw", raw=True), True),
    "wiki.train.raw in wikitext-103-raw": (lambda folder: as_files(folder / "wikitext-103-raw", "raw", raw=True), True),
    "wiki.train.tokens of raw text": (lambda folder: as_files(folder, "tokens", raw=True), True),
    "parquet": (lambda folder: as_parquet(folder, 1, raw=True), True),
    "two shards in wikitext-103-raw-v1": (lambda folder: as_parquet(folder / "wikitext-103-raw-v1", 2, raw=True), True),
    "wiki.train.tokens": (lambda folder: as_files(folder, "tokens", raw=False), False),
    "three shards in wikitext-103-v1": (lambda folder: as_parquet(folder / "wikitext-103-v1", 3, raw=False), False),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Corpus]:
    made = {}
    for raw in (True, False):
        folder = tmp_path_factory.mktemp("reference")
        as_files(folder, "tokens", raw)
        made[raw] = load_corpus(folder)
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pre_tokenizer", ["whitespace", "words"])
def test_every_layout_gives_the_same_tokens(
    layout: str, pre_tokenizer: str, reference: dict[bool, Corpus], tmp_path: Path
) -> None:
    write, raw = LAYOUTS[layout]
    write(tmp_path / "text")
    corpus = load_corpus(tmp_path / "text")
    assert corpus.splits == ("train", "validation", "test")
    tokenizer = train_tokenizer(corpus.documents("train"), pre_tokenizer=pre_tokenizer)
    for split, count in SPLITS.items():
        documents = list(corpus.documents(split))
        assert len(documents) == count
        assert all(text.split()[:3] == ["=", split, str(i)] for i, text in enumerate(documents))
        found = token_cache(corpus, split, tokenizer, cache_dir=tmp_path / "cache")
        # A folder of its own: equal text is found in the cache, and would be compared with itself.
        expected = token_cache(reference[raw], split, tokenizer, cache_dir=tmp_path / "expected")
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.documents == count
    # The `<unk>` of the tokenised text is the tokenizer's own.
    train = token_cache(corpus, "train", tokenizer, cache_dir=tmp_path / "cache")
    assert train.unknown == (0 if raw else SPLITS["train"])


@pytest.mark.parametrize("missing", ["validation", "test", "train"])
def test_a_missing_split_is_named(missing: str, tmp_path: Path) -> None:
    as_files(tmp_path, "tokens", raw=False)
    (tmp_path / f"wiki.{FILE_NAMES[missing]}.tokens").unlink()
    corpus = load_corpus(tmp_path)
    rest = ", ".join(split for split in SPLITS if split != missing)
    with pytest.raises(ValueError, match=f"has no split '{missing}', only {rest}; add a file or folder named"):
        corpus.pieces(missing)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_truncated_shard_is_named(shard: int, tmp_path: Path) -> None:
    as_parquet(tmp_path, 2, raw=True)
    path = tmp_path / f"train-{shard:05d}-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=rf"{path.name} is truncated or no parquet file .*; fetch it again"):
        load_corpus(tmp_path)


def test_a_checkout_of_the_hubs_repository_asks_which_set(tmp_path: Path) -> None:
    for config in ("wikitext-2-raw-v1", "wikitext-103-raw-v1"):
        as_parquet(tmp_path / config, 1, raw=True)
    with pytest.raises(
        ValueError, match=r"several data sets .wikitext-103-raw-v1, wikitext-2-raw-v1.; give the folder"
    ):
        load_corpus(tmp_path)
    assert load_corpus(tmp_path / "wikitext-2-raw-v1").splits == ("train", "validation", "test")
