"""Tokenizers that exist already."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from resnet_bk.bench.protocol import TRAINED
from resnet_bk.data import Corpus, corpus, token_cache, train_tokenizer
from resnet_bk.data.saved_tokenizer import LETTERS, never_written, saved_tokenizer, special_ids, unknown_id
from resnet_bk.data.tokenizer import KINDS, reads_pieces
from tests.data.conftest import make_documents

END = "<|endoftext|>"


def like_gpt2() -> PreTrainedTokenizerFast:
    """Pieces of words, and one special token, which is said to be that of unknown words too."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(make_documents(60, 7), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=END, bos_token=END, eos_token=END)


def like_llama() -> PreTrainedTokenizerFast:
    """Pieces of whole texts, which begin with a space of their own, and where a token may reach across a space."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(make_documents(60, 7), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("make", [like_gpt2, like_llama])
def test_tokens_are_those_of_whole_documents(
    make, small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save_pretrained(tmp_path / "saved")
    tokenizer = saved_tokenizer(str(tmp_path / "saved"))
    expected = []
    for text in small_corpus.documents("validation"):
        expected += [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 17)
    assert token_cache(small_corpus, "validation", tokenizer, cache_dir=tmp_path).tokens.tolist() == expected


def test_special_tokens() -> None:
    gpt2, llama, ours = like_gpt2(), like_llama(), train_tokenizer(["a b"])
    assert special_ids(gpt2) == {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    assert special_ids(llama) == {"pad_token_id": None, "bos_token_id": 2, "eos_token_id": 2}
    assert special_ids(ours) == {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
    gpt2.pad_token = END  # as many do; to Llama padding has no input embedding
    assert special_ids(gpt2)["pad_token_id"] is None
    assert [never_written(tokenizer) for tokenizer in (gpt2, llama, ours)] == [[], [0, 1], [0, 2]]
    assert [unknown_id(tokenizer) for tokenizer in (gpt2, llama, ours)] == [None, 0, 0]


def test_which_tokenizers_read_documents_in_pieces() -> None:
    for kind in KINDS:
        for split in ("words", "whitespace"):
            assert reads_pieces(train_tokenizer(["a b"], kind=kind, vocab_size=260, pre_tokenizer=split))
    assert not reads_pieces(like_llama())
    assert not reads_pieces(like_gpt2())  # by its special tokens
    assert TRAINED == KINDS


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    for name in ("bep", "no/such/folder", str(tmp_path), "a" * 300, "~nobody-of-this-name/x"):
        with pytest.raises(ValueError, match=r"is neither word nor bpe, nor a folder with a tokenizer.json; save one"):
            saved_tokenizer(name)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"the tokenizer in .* cannot be read .*; restore it, or save it again"):
        saved_tokenizer(str(tmp_path))
    endless = like_gpt2()
    endless.eos_token = None
    endless.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no eos_token, which ends every document; set tokenizer.eos_token"):
        saved_tokenizer(str(tmp_path))
    holes = Tokenizer(models.WordLevel({"a": 0, "</s>": 70_000}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=holes, eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has 2 words and ids up to 70000, for which a model .* number them anew"):
        saved_tokenizer(str(tmp_path))


def save(folder: Path, model: models.Model, *, of_bytes: bool = False, end: str = END) -> str:
    made = Tokenizer(model)
    if of_bytes:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end).save_pretrained(folder)
    return str(folder)


def numbered(words: Iterable[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate([END, *words])}


# Of the 256 letters of bytes, those that UTF-8 has, as GPT-NeoX's tokenizer has them: without C0, C1 and F5 to FF.
OF_UTF8 = sorted({*pre_tokenizers.ByteLevel.alphabet()} - {*map(chr, (0xC0, 0xC1, *range(0xF5, 0x100)))})
FALLBACK = [f"<0x{byte:02X}>" for byte in range(256) if byte not in (0xC0, 0xC1) and byte < 0xF5]


def test_bytes_of_utf8() -> None:
    assert (len(OF_UTF8), len(FALLBACK)) == (243, 243)
    assert {*OF_UTF8} == LETTERS


KNOW_ALL = {
    "letters": (models.BPE(numbered(pre_tokenizers.ByteLevel.alphabet()), []), True),
    "letters of UTF-8": (models.BPE(numbered(OF_UTF8), []), True),
    "bytes": (models.BPE(numbered(FALLBACK), [], byte_fallback=True), False),
    "bytes beside an unknown word": (models.BPE(numbered(FALLBACK), [], byte_fallback=True, unk_token=END), False),
    "unigram": (models.Unigram([(word, 0.0) for word in numbered(FALLBACK)], unk_id=0, byte_fallback=True), False),
}


@pytest.mark.parametrize(("model", "of_bytes"), KNOW_ALL.values(), ids=KNOW_ALL)
def test_a_tokenizer_that_knows_every_byte(tmp_path: Path, model: models.Model, of_bytes: bool) -> None:
    tokenizer = saved_tokenizer(save(tmp_path, model, of_bytes=of_bytes))
    text = "a ü\0😀\U0010ffff"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.eos_token_id not in ids


DROP = {
    "no letters": (models.BPE(numbered(""), []), True),
    "some letters": (models.BPE(numbered("ab"), []), True),
    "letters of bytes without the bytes": (models.BPE(numbered(OF_UTF8), []), False),
    "letters in words of other ends": (models.BPE(numbered(OF_UTF8), [], end_of_word_suffix="</w>"), True),
    "some bytes": (models.BPE(numbered(FALLBACK[:-1]), [], byte_fallback=True), False),
    "bytes that nothing falls back to": (models.BPE(numbered(FALLBACK), []), False),
}


@pytest.mark.parametrize(("model", "of_bytes"), DROP.values(), ids=DROP)
def test_what_a_tokenizer_does_not_know_is_not_dropped(tmp_path: Path, model: models.Model, of_bytes: bool) -> None:
    folder = save(tmp_path, model, of_bytes=of_bytes)
    text = "a ü😀\U0010ffff"
    assert len(Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text).ids) < len(text.encode())
    with pytest.raises(ValueError, match=r"drops what it does not know .*; train it anew with one of them"):
        saved_tokenizer(folder)


UNKNOWN_ENDS = {
    "words": models.WordLevel({"a": 0, "</s>": 1}, unk_token="</s>"),
    "pieces": models.WordPiece({"a": 0, "</s>": 1}, unk_token="</s>"),
    "bpe": models.BPE({"a": 0, "</s>": 1}, [], unk_token="</s>"),
    "unigram": models.Unigram([("a", -1.0), ("</s>", -2.0)], unk_id=1),
}


@pytest.mark.parametrize("model", UNKNOWN_ENDS.values(), ids=UNKNOWN_ENDS)
def test_an_unknown_word_ends_no_document(tmp_path: Path, model) -> None:
    with pytest.raises(ValueError, match=r"'</s>' is its token of unknown words and ends documents too, .*; set token"):
        saved_tokenizer(save(tmp_path, model, end="</s>"))
    assert saved_tokenizer(save(tmp_path, model, end="a")).eos_token == "a"
