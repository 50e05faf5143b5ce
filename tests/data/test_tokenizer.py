import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from resnet_bk.data import cached_tokenizer, train_tokenizer
from resnet_bk.data import tokenizer as tokenizer_module
from resnet_bk.data.corpus import Corpus
from resnet_bk.data.tokenizer import SPECIAL_TOKENS, tokenizer_fingerprint
from tests.data.conftest import make_corpus, make_documents

SENTENCES = [
    "Don't pay $1,000.50 for twenty-first-century art (or music): it's 50% of John's money.",
    "He sailed in 1901–1902; why? Nobody knows! The and/or question [sic] remains… 3.5 times.",
]


@pytest.mark.parametrize("pre_tokenizer", ["words", "whitespace"])
@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_special_tokens_come_first_and_count_within_the_vocabulary(kind: str, pre_tokenizer: str) -> None:
    tokenizer = train_tokenizer(make_documents(30, 1), kind=kind, vocab_size=270, pre_tokenizer=pre_tokenizer)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == SPECIAL_TOKENS
    assert (tokenizer.unk_token, tokenizer.eos_token, tokenizer.pad_token) == ("<unk>", "<eos>", "<pad>")
    assert len(tokenizer) <= 270
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1


def test_words_and_punctuation_marks_are_apart() -> None:
    tokenizer = train_tokenizer(SENTENCES)
    assert " ".join(tokenizer.tokenize("Don't pay (1,000) art...?!")) == "Don ' t pay ( 1 , 000 ) art . . . ? !"
    apart = train_tokenizer(SENTENCES, pre_tokenizer="whitespace")
    assert apart.tokenize("Don't pay $1,000.50 twice") == ["Don't", "pay", "$1,000.50", "<unk>"]


def test_the_most_frequent_words_are_kept_and_equal_counts_rank_by_alphabet() -> None:
    tokenizer = train_tokenizer(["c b a b", "d d d a"], vocab_size=6)
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == [*SPECIAL_TOKENS, "d", "a", "b"]


def test_unknown_words_and_the_corpus_own_unk_are_unknown() -> None:
    tokenizer = train_tokenizer(["a game with <unk> in it"])
    assert tokenizer("a zebra <unk>").input_ids == [tokenizer.convert_tokens_to_ids("a"), 0, 0]


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize("pre_tokenizer", ["words", "whitespace"])
def test_special_tokens_in_the_text_are_no_words_of_it(kind: str, pre_tokenizer: str) -> None:
    texts = ["<unk> a <unk> b <eos> c", "a<pad>b"]
    tokenizer = train_tokenizer(texts, kind=kind, vocab_size=300, pre_tokenizer=pre_tokenizer)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == SPECIAL_TOKENS
    assert max(tokenizer(texts[0]).input_ids) < len(tokenizer)


KINDS = [(kind, pre_tokenizer) for kind in ("word", "bpe") for pre_tokenizer in ("words", "whitespace")]


def tokenizers_as_json() -> list[str]:
    """A tokenizer of every kind, trained here."""
    return [
        train_tokenizer(
            make_documents(60, 7), kind=kind, vocab_size=300, pre_tokenizer=pre_tokenizer
        ).backend_tokenizer.to_str()
        for kind, pre_tokenizer in KINDS
    ]


def test_training_is_deterministic_across_processes() -> None:
    code = "import json; from tests.data.test_tokenizer import tokenizers_as_json as t; print(json.dumps(t()))"
    root = Path(__file__).parents[2]
    there = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == tokenizers_as_json()


def test_words_decode_to_readable_text() -> None:
    tokenizer = train_tokenizer(SENTENCES)
    assert [tokenizer.decode(tokenizer(text).input_ids) for text in SENTENCES] == SENTENCES
    assert tokenizer.decode([]) == ""
    apart = train_tokenizer(SENTENCES, pre_tokenizer="whitespace")
    assert [apart.decode(apart(text).input_ids) for text in SENTENCES] == SENTENCES


@pytest.mark.parametrize("pre_tokenizer", ["words", "whitespace"])
def test_bpe_decodes_to_the_same_text_and_knows_every_text(pre_tokenizer: str) -> None:
    tokenizer = train_tokenizer(make_documents(30, 1), kind="bpe", vocab_size=400, pre_tokenizer=pre_tokenizer)
    for text in [*SENTENCES, "  宮津市\n\n naïve\t🙂 x  "]:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_text_streamed_word_by_word_only_grows() -> None:
    # A streamer prints up to the last space of what it decoded and never takes back what it printed.
    tokenizer = train_tokenizer(SENTENCES)
    draw = random.Random(1)
    for _ in range(200):
        ids = [draw.randrange(3, len(tokenizer)) for _ in range(12)]
        texts = [str(tokenizer.decode(ids[:n])) for n in range(1, 13)]
        for shorter, longer in itertools.pairwise(texts):
            assert longer.startswith(shorter[: shorter.rfind(" ") + 1])


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_saved_tokenizer_is_the_same(kind: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(SENTENCES * 3, kind=kind, vocab_size=300)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    ids = tokenizer(SENTENCES[0]).input_ids
    assert loaded(SENTENCES[0]).input_ids == ids
    assert loaded.decode(ids) == tokenizer.decode(ids)
    assert loaded(["a b", "a"], padding=True).attention_mask[1][0] == 0  # on the left


def test_the_fingerprint_follows_ids_not_padding() -> None:
    tokenizer = train_tokenizer(SENTENCES)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(SENTENCES, padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == before
    assert tokenizer_fingerprint(train_tokenizer(SENTENCES, vocab_size=12)) != before
    assert tokenizer_fingerprint(train_tokenizer(SENTENCES, pre_tokenizer="whitespace")) != before


@pytest.mark.parametrize("vocab_size", [0, -5, 3, 2.5, "10", True])
def test_a_bad_vocab_size_is_an_error(vocab_size: object) -> None:
    rule = r"must be an integer of at least 4 \(<unk>, <eos>, <pad> and one word\); raise it"
    with pytest.raises(ValueError, match=rf"vocab_size=.*: {rule}"):
        train_tokenizer(["a"], vocab_size=vocab_size)  # type: ignore[arg-type]


def test_bpe_needs_room_for_all_bytes() -> None:
    with pytest.raises(ValueError, match=r"vocab_size=258: must be an integer of at least 259 .* 256 bytes"):
        train_tokenizer(["a"], kind="bpe", vocab_size=258)
    assert len(train_tokenizer(["a"], kind="bpe", vocab_size=259)) == 259


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="kind='char': must be one of word, bpe; name one, or"):
        train_tokenizer(["a"], kind="char")
    with pytest.raises(ValueError, match="pre_tokenizer='bytes': must be one of words, whitespace; name one"):
        train_tokenizer(["a"], pre_tokenizer="bytes")


def test_a_cached_tokenizer_is_trained_once(
    small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    first = cached_tokenizer(small_corpus, vocab_size=50, cache_dir=tmp_path, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == sum(map(len, small_corpus.documents("train")))
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_module, "train_tokenizer", None)
        again = cached_tokenizer(small_corpus, vocab_size=50, cache_dir=tmp_path)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(first)
    assert again.decode([4, 5]) == first.decode([4, 5])
    trained = train_tokenizer(small_corpus.documents("train"), vocab_size=50)
    assert tokenizer_fingerprint(trained) == tokenizer_fingerprint(first)


def test_settings_and_content_have_tokenizers_of_their_own(small_corpus: Corpus, tmp_path: Path) -> None:
    other = make_corpus({"train": ["x y z"]}, fingerprint="other")
    made = [
        cached_tokenizer(small_corpus, vocab_size=20, cache_dir=tmp_path),
        cached_tokenizer(small_corpus, vocab_size=21, cache_dir=tmp_path),
        cached_tokenizer(small_corpus, vocab_size=20, pre_tokenizer="whitespace", cache_dir=tmp_path),
        cached_tokenizer(small_corpus, vocab_size=270, kind="bpe", cache_dir=tmp_path),
        cached_tokenizer(other, vocab_size=20, cache_dir=tmp_path),
    ]
    assert len({tokenizer_fingerprint(tokenizer) for tokenizer in made}) == 5


@pytest.mark.parametrize("file", ["tokenizer.json", "metadata.json"])
def test_a_damaged_tokenizer_is_trained_again(small_corpus: Corpus, tmp_path: Path, file: str) -> None:
    first = cached_tokenizer(small_corpus, vocab_size=50, cache_dir=tmp_path)
    (path,) = tmp_path.glob(f"tokenizer-*/{file}")
    path.write_text(json.dumps([]))
    again = cached_tokenizer(small_corpus, vocab_size=50, cache_dir=tmp_path)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(first)


def test_settings_are_checked_before_the_cache_is_touched(small_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size=0"):
        cached_tokenizer(small_corpus, vocab_size=0, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_a_clear_error(small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, *text: str, **options: str) -> int:
        if path.name == "tokenizer.json":
            raise OSError(28, "No space left on device")
        return write(path, *text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); set RESNET_BK_CACHE"):
        cached_tokenizer(small_corpus, vocab_size=100, cache_dir=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ("the cat sat", r"documents must be texts, but got one, whose letters would be read; pass \[text\]"),
        (["a text", b"bytes"], "documents must be texts, but number 1 is bytes; decode or drop it"),
        ([], "documents holds no text, from which no vocabulary can be made"),
    ],
)
def test_documents_that_are_none_are_errors(documents, told, kind) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        train_tokenizer(documents, kind=kind, vocab_size=300)
