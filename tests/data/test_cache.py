import logging
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel, WordPiece
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from resnet_bk.data import Corpus, cache, corpus, token_cache, train_tokenizer
from tests.data.conftest import make_corpus, make_documents


@pytest.fixture(scope="module")
def tokenizer(small_corpus: Corpus) -> PreTrainedTokenizerFast:
    """Leaves some words of the corpus unknown."""
    return train_tokenizer(small_corpus.documents("train"), vocab_size=20)


def expected(small_corpus: Corpus, split: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens by the plain way: one document at a time, all in memory."""
    return [i for text in small_corpus.documents(split) for i in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]


def test_tokens_are_those_of_the_documents_each_with_its_end(
    small_corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    found = token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path)
    tokens = expected(small_corpus, "train", tokenizer)
    assert isinstance(found.tokens, np.memmap)
    assert found.tokens.dtype == np.uint16
    assert not found.tokens.flags.writeable
    assert found.tokens.tolist() == tokens
    assert found.characters == sum(map(len, small_corpus.documents("train")))
    assert found.unknown == tokens.count(tokenizer.unk_token_id) > 0
    assert found.unknown_rate == found.unknown / len(tokens)
    assert found.documents == 300


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_batches_and_pieces_do_not_show(
    small_corpus: Corpus, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_tokenizer(small_corpus.documents("train"), kind=kind, vocab_size=280)
    whole = token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path / "whole")
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 17)
    monkeypatch.setattr(cache, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(cache, "BATCH_PIECES", 3)
    parts = token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path / "parts")
    assert np.array_equal(whole.tokens, parts.tokens)
    assert (whole.characters, whole.unknown, whole.documents) == (parts.characters, parts.unknown, parts.documents)
    assert whole.fingerprint == parts.fingerprint


def test_a_special_token_in_the_text_of_pieces_of_words_is_text(tmp_path: Path) -> None:
    made = make_corpus({"train": ["one <eos> two <unk> <pad>", "three"]})
    tokenizer = train_tokenizer(["one two three"] * 3, kind="bpe", vocab_size=270)
    found = token_cache(made, "train", tokenizer, cache_dir=tmp_path)
    last = len(tokenizer("three").input_ids)
    assert np.flatnonzero(found.tokens <= 2).tolist() == [len(found.tokens) - 2 - last, len(found.tokens) - 1]
    assert found.unknown == 0
    words = train_tokenizer(made.documents("train"), pre_tokenizer="whitespace")
    found = token_cache(made, "train", words, cache_dir=tmp_path)
    assert (found.unknown, found.documents) == (3, 2)
    # Only what ends a document is <eos>.
    assert np.flatnonzero(found.tokens == words.eos_token_id).tolist() == [5, 7]
    assert words.pad_token_id not in found.tokens


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_a_special_token_that_is_a_piece_ends_no_document(tmp_path: Path, kind: str) -> None:
    """As `</s>` of T5 and `[SEP]` of BERT, which stand in the vocabulary of the pieces themselves."""
    made = make_corpus({"train": ["one </s> <pad> two", "three"]})
    if kind == "unigram":
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -4.0) for piece in "▁</>abdehnoprstuw")]
        inside = Tokenizer(Unigram(pieces, unk_id=2))
        inside.pre_tokenizer = Metaspace()
    else:
        words = ["<pad>", "</s>", "<unk>", "one", "two", "three"]
        inside = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
        inside.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inside, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    found = token_cache(made, "train", tokenizer, cache_dir=tmp_path)
    assert (found.documents, found.unknown) == (2, 2)
    ends = np.flatnonzero(found.tokens == 1)
    assert len(ends) == 2
    assert ends[-1] == len(found.tokens) - 1
    assert 0 not in found.tokens


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    made = make_corpus({"train": [" ".join(f"w{i}" for i in range(66_000))]})
    tokenizer = train_tokenizer(made.documents("train"), vocab_size=70_000)
    tokens = token_cache(made, "train", tokenizer, cache_dir=tmp_path).tokens
    assert tokens.dtype == np.int32
    assert tokens.max() == len(tokenizer) - 1 > 65_535
    assert len(set(tokens.tolist())) == 66_001


@pytest.mark.parametrize("limit", [1, 2, 49, 50, 51, 137, 1000, 10**9])
def test_the_limit_counts_tokens_and_the_characters_they_stand_for(
    small_corpus: Corpus, limit: int, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(small_corpus.documents("train"))
    found = token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path, limit=limit)
    tokens = expected(small_corpus, "train", tokenizer)[:limit]
    assert found.tokens.tolist() == tokens
    # Every word is known here, so the tokens kept, put back into the documents, give the characters.
    characters, documents = 0, 0
    left = len(tokens)
    for text in small_corpus.documents("train"):
        if left <= 0:
            break
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        characters += len(text) if left >= len(offsets) else offsets[left - 1][1]
        documents += 1
        left -= len(offsets) + 1
    assert (found.characters, found.documents) == (characters, documents)


def test_caches_are_kept_by_content_split_tokenizer_and_limit(
    small_corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    other = make_corpus({"train": make_documents(3, 9)}, fingerprint="other")
    wider = train_tokenizer(small_corpus.documents("train"), vocab_size=21)
    found = [
        token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path),
        token_cache(small_corpus, "test", tokenizer, cache_dir=tmp_path),
        token_cache(small_corpus, "train", wider, cache_dir=tmp_path),
        token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path, limit=100),
        token_cache(other, "train", tokenizer, cache_dir=tmp_path),
    ]
    assert len({cache.path for cache in found}) == len({cache.fingerprint for cache in found}) == 5


def test_a_cache_is_built_once_and_progress_is_told(
    small_corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    seen: list[int] = []
    first = token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path, progress=seen.append)
    assert seen
    assert seen == sorted(seen)
    assert seen[-1] == len(first.tokens)
    assert token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path, progress=seen.append) == first
    assert seen[-1] == len(first.tokens)
    assert seen.count(len(first.tokens)) == 1


def test_padding_and_truncation_of_the_tokenizer_do_not_show(small_corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(small_corpus.documents("train"))
    plain = token_cache(small_corpus, "test", tokenizer, cache_dir=tmp_path / "plain")
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    after = token_cache(small_corpus, "test", tokenizer, cache_dir=tmp_path / "after")
    assert np.array_equal(plain.tokens, after.tokens)


@pytest.mark.parametrize("damage", ["short", "long", "changed", "metadata", "no metadata", "no tokens"])
def test_a_damaged_cache_is_built_again(
    small_corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = token_cache(small_corpus, "validation", tokenizer, cache_dir=tmp_path)
    tokens, metadata = first.path / "tokens.bin", first.path / "metadata.json"
    good = tokens.read_bytes()
    values = first.tokens.tolist()
    if damage in ("short", "long", "changed"):
        tokens.unlink()  # not written in place: the first cache still maps the file
        tokens.write_bytes({"short": good[:-1], "long": good + b"\0\0", "changed": b"\1\0" + good[2:]}[damage])
    elif damage == "metadata":
        metadata.write_text('{"dtype": "<u2", "tokens": ')
    else:
        (metadata if damage == "no metadata" else tokens).unlink()
    with caplog.at_level(logging.WARNING):
        again = token_cache(small_corpus, "validation", tokenizer, cache_dir=tmp_path)
    assert again.tokens.tolist() == values
    assert "is damaged and is built again" in caplog.text


def test_text_that_turns_out_bad_leaves_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    made = make_corpus({"train": ["", " "]})
    with pytest.raises(ValueError, match="holds no text"):
        token_cache(made, "train", tokenizer, cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_missing_split_is_named_before_anything_is_written(
    small_corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no split 'dev', only train, validation, test"):
        token_cache(small_corpus, "dev", tokenizer, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_a_bad_limit_is_an_error(
    small_corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, limit: object
) -> None:
    with pytest.raises(ValueError, match=r"^limit .* must be a positive number of tokens"):
        token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path, limit=limit)  # type: ignore[arg-type]


def test_a_tokenizer_without_end_is_an_error(small_corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a"])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="tokenizer has no eos_token"):
        token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path)


def test_a_cache_dir_that_cannot_be_written_is_an_error(
    small_corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"cache_dir '.*file/cache' cannot be written \(Not a directory\); set RESNET_BK_CACHE"
    ):
        token_cache(small_corpus, "train", tokenizer, cache_dir=tmp_path / "file" / "cache")


def words(numbers: dict[str, int]) -> PreTrainedTokenizerFast:
    inside = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    inside.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inside, unk_token="<unk>", eos_token="<eos>")


def test_a_tokenizer_without_a_token_for_what_it_does_not_know(tmp_path: Path) -> None:
    inside = Tokenizer(WordLevel({"<eos>": 0, "a": 1}))
    inside.pre_tokenizer = WhitespaceSplit()
    knows_all = PreTrainedTokenizerFast(tokenizer_object=inside, eos_token="<eos>")
    with pytest.raises(ValueError, match=r"tokenizer: cannot encode the text \(.*\); give it a token for what it does"):
        token_cache(make_corpus({"train": ["a b"]}), "train", knows_all, cache_dir=tmp_path)


def test_words_that_are_numbered_with_gaps_are_an_error(tmp_path: Path) -> None:
    gaps = words({"<unk>": 0, "<eos>": 1, "a": 70_000})
    with pytest.raises(ValueError, match=r"tokenizer has 3 words and ids up to 70000, .* number them anew"):
        token_cache(make_corpus({"train": ["a a"]}), "train", gaps, cache_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_special_tokens_that_are_named_later_are_another_cache(tmp_path: Path) -> None:
    made, tokenizer = make_corpus({"train": ["a b"]}), words({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3})
    assert token_cache(made, "train", tokenizer, cache_dir=tmp_path).tokens.tolist() == [2, 3, 1]
    tokenizer.bos_token = "a"  # and so a word no more
    assert token_cache(made, "train", tokenizer, cache_dir=tmp_path).tokens.tolist() == [0, 3, 1]
