"""Word-level and byte-level BPE tokenizers of the `tokenizers` library, trained here, saved with the model."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from resnet_bk.data.corpus import Corpus, Piece
from resnet_bk.data.storage import cached_folder

UNKNOWN, END, PADDING = "<unk>", "<eos>", "<pad>"
SPECIAL_TOKENS = [UNKNOWN, END, PADDING]
KINDS = ("word", "bpe")
PRE_TOKENIZERS = ("words", "whitespace")
SPECIAL = re.compile("|".join(SPECIAL_TOKENS))
BYTES = 256
_FILE = "tokenizer.json"

# A token of "words" is a run of letters, digits and underscores, or one other mark that is not whitespace.
WORDS = r"\w+|[^\w\s]"
# A token of "whitespace" in BPE keeps the space before it, so that text comes back byte by byte.
SPACED = r" ?\S+|\s+"

SPLITS: dict[tuple[str, str], Any] = {
    ("word", "words"): pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
    ("word", "whitespace"): pre_tokenizers.WhitespaceSplit(),
    ("bpe", "words"): pre_tokenizers.ByteLevel(add_prefix_space=False),
    ("bpe", "whitespace"): pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPACED), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}

# Reading "words" back: these spaces go. A space before a token depends on that token and on those before it alone,
# never on what follows, so that text streamed token by token only ever grows.
JOINED = [
    r" (?=[.,;:!?%)\]}…])",  # closing marks lean left
    r"(?<=[(\[{]) ",  # opening marks lean right
    r"(?<=[$£€#]) (?=\d)",
    r"(?<=\w) (?=[-/'’])",  # inner marks of words: twenty-one, and/or, don't
    r"(?<=\w[-/]) (?=\w)",
    r"(?<=\w['’]) (?=(?:s|t|re|ve|ll|d|m)\b)",
    r"(?<=\d,) (?=\d{3}\b)",
    r"(?<=\d\.) (?=\d)",
    r"(?<=\d) (?=–)",
    r"(?<=\d–) (?=\d)",
]


def train_tokenizer(
    documents: Iterable[str], *, kind: str = "word", vocab_size: int = 30_000, pre_tokenizer: str = "words"
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with the special tokens `<unk>` (0), `<eos>` (1, ends a document) and `<pad>` (2).

    kind: "word" (whole words, the rest is `<unk>`) or "bpe" (byte-level, no text is unknown).
    vocab_size: size of the vocabulary, special tokens included; fewer where the text has fewer words.
    pre_tokenizer: "words" (words and punctuation marks apart) or "whitespace" (what stands between whitespace).

    The result depends on the text alone: words are ranked by count, equal counts in alphabetical order.

    Raises ValueError for an unknown kind or pre_tokenizer, for a vocab_size that is no integer or too small, and for
    documents that are one text, or none, or hold something else.
    """
    _check(kind, vocab_size, pre_tokenizer)
    if isinstance(documents, str | bytes):
        raise ValueError("documents must be texts, but got one, whose letters would be read; pass [text]")
    tokenizer: Any
    trainer: Any
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False, min_frequency=1
        )
        if pre_tokenizer == "words":  # without a decoder tokens are joined by spaces
            tokenizer.decoder = decoders.Sequence(
                [
                    decoders.Replace(Regex(r"^(?=.)"), " "),
                    decoders.Fuse(),
                    *(decoders.Replace(Regex(pattern), "") for pattern in JOINED),
                    decoders.Strip(" ", 1, 0),
                ]
            )
    else:
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL_TOKENS,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = SPLITS[kind, pre_tokenizer]
    # A special token that stands in the text is no word of it: as one it would have two places in the vocabulary.
    tokenizer.train_from_iterator(_without_special_tokens(documents), trainer)
    return _wrap(tokenizer)


def _without_special_tokens(documents: Iterable[str]) -> Iterator[str]:
    """Raises ValueError where one of them is no text, or there is none."""
    number = -1
    for number, text in enumerate(documents):
        if not isinstance(text, str):
            raise ValueError(
                f"documents must be texts, but number {number} is {type(text).__name__}; decode or drop it"
            )
        yield SPECIAL.sub(" ", text)
    if number < 0:
        raise ValueError("documents holds no text, from which no vocabulary can be made; pass at least one")


def cached_tokenizer(
    corpus: Corpus,
    *,
    kind: str = "word",
    vocab_size: int = 30_000,
    pre_tokenizer: str = "words",
    cache_dir: str | Path,
    progress: Callable[[int], object] | None = None,
) -> PreTrainedTokenizerFast:
    """`train_tokenizer` on the train split of a corpus, kept under cache_dir by content and settings.

    progress: called with the number of characters so far while it is trained; never called if it exists.

    Raises ValueError as `train_tokenizer` and `Corpus.documents` do, and where cache_dir cannot be written.
    """
    _check(kind, vocab_size, pre_tokenizer)
    settings = ["tokenizer-2", corpus.fingerprint, kind, vocab_size, pre_tokenizer]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]

    def build(folder: Path) -> None:
        pieces = _counted(corpus.pieces("train"), progress or (lambda characters: None))
        trained = train_tokenizer(pieces, kind=kind, vocab_size=vocab_size, pre_tokenizer=pre_tokenizer)
        # Not by its own `save`, whose errors are of no class that says that the disk is full.
        (folder / _FILE).write_text(trained.backend_tokenizer.to_str(pretty=True), encoding="utf-8", newline="\n")
        digest = hashlib.sha256((folder / _FILE).read_bytes()).hexdigest()
        (folder / "metadata.json").write_text(json.dumps({"sha256": digest, "settings": settings}), encoding="utf-8")

    return cached_folder(Path(cache_dir) / f"tokenizer-{key}", _load, build)


def _counted(pieces: Iterable[Piece], progress: Callable[[int], object]) -> Iterator[str]:
    characters = 0
    for text, _ in pieces:
        yield text
        characters += len(text)
        progress(characters)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash of what decides the token ids of a text: not of padding, truncation or decoding."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for key in ("padding", "truncation", "post_processor", "decoder"):
        content.pop(key)
    content["end"] = tokenizer.eos_token_id
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def reads_pieces(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether no token of it reaches across the places where documents are cut into pieces (`resnet_bk.data.corpus`):
    those that are trained here."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = [json.loads(split.__getstate__()) for split in SPLITS.values()]
    added = [token["content"] for token in content["added_tokens"]]  # others may hold spaces
    return content["normalizer"] is None and content["pre_tokenizer"] in ours and added == SPECIAL_TOKENS


def _load(folder: Path) -> PreTrainedTokenizerFast | None:
    try:
        content = (folder / _FILE).read_bytes()
        metadata = json.loads((folder / "metadata.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(metadata, dict) or metadata.get("sha256") != hashlib.sha256(content).hexdigest():
        return None
    return _wrap(Tokenizer.from_buffer(content))


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        eos_token=END,
        pad_token=PADDING,
        padding_side="left",  # a causal model generates from the right end of a batch
    )


def _check(kind: str, vocab_size: int, pre_tokenizer: str) -> None:
    if kind not in KINDS:
        raise ValueError(
            f"kind={kind!r}: must be one of {', '.join(KINDS)}; name one, or read a tokenizer that exists with "
            "saved_tokenizer"
        )
    if pre_tokenizer not in PRE_TOKENIZERS:
        raise ValueError(
            f"pre_tokenizer={pre_tokenizer!r}: must be one of {', '.join(PRE_TOKENIZERS)}; name one, or leave it out"
        )
    smallest = len(SPECIAL_TOKENS) + (1 if kind == "word" else BYTES)
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool) or vocab_size < smallest:
        parts = f"{', '.join(SPECIAL_TOKENS)} and {'one word' if kind == 'word' else f'{BYTES} bytes'}"
        raise ValueError(f"vocab_size={vocab_size!r}: must be an integer of at least {smallest} ({parts}); raise it")
