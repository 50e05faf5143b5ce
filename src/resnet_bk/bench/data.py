"""The data of a protocol: corpus, tokenizer, tokens of the splits, word-frequency buckets."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from resnet_bk.bench.documents import document_tokens
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.protocols import ELSEWHERE
from resnet_bk.data import (
    Corpus,
    TokenCache,
    TokenStream,
    cached_tokenizer,
    frequency_buckets,
    held_out_batches,
    load_corpus,
    token_cache,
)
from resnet_bk.data.corpus import WHOLE
from resnet_bk.data.saved_tokenizer import saved_tokenizer, unknown_id
from resnet_bk.data.tokenizer import KINDS, tokenizer_fingerprint
from resnet_bk.hints import in_home
from resnet_bk.training.progress import counter

# Of every tokenizer that is trained here, for models of which the tokenizer is not asked; else `special_ids`.
SPECIAL_IDS: dict[str, int | None] = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}


def default_cache_dir() -> Path:
    """Where tokenizers and tokens are kept: the environment's RESNET_BK_CACHE, else .cache/resnet-bk of the home.

    Raises:
        ValueError: it is below the home of a user who is not there.
    """
    return in_home(os.environ.get("RESNET_BK_CACHE") or "~/.cache/resnet-bk", "RESNET_BK_CACHE")


def open_corpus(protocol: Protocol, splits: Iterable[str] = ("train", "validation")) -> Corpus:
    """The corpus of a protocol, which must have `splits`.

    Raises:
        ValueError: it is not there or cannot be used; the message names --data.
    """
    try:
        corpus = load_corpus(protocol.dataset)
        for split in splits:
            if split not in corpus.splits:
                raise ValueError(
                    f"data: {corpus.name!r} has no split {split!r}, only {', '.join(corpus.splits)}; name a file "
                    "or folder so, or give the training text alone, which is divided 90/5/5"
                )
    except ValueError as error:
        elsewhere = protocol.dataset.startswith(ELSEWHERE) and not Path(protocol.dataset).exists()
        which = "its text does not come with the package: give your own" if elsewhere else "give other text"
        raise ValueError(f"{error} ({which} with --data)") from error
    return corpus


def check_split(corpus: Corpus, split: str) -> None:
    """Raises ValueError where a corpus has no split of that name."""
    known = [*corpus.splits, *([] if corpus.whole is None else [WHOLE])]
    if split not in known:
        raise ValueError(f"--split {split}: {corpus.name} has {', '.join(known)}; name one of them")


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation read.

    Attributes:
        bucket_of_token: int64 [V], see `resnet_bk.data.frequency_buckets`.
        bucket_names: name of each bucket.
    """

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    cache_dir: Path
    train: TokenCache
    validation: TokenCache
    bucket_of_token: Tensor = field(repr=False)
    bucket_names: list[str]

    def split(self, name: str) -> TokenCache:
        """Tokens of a split, all of them (training is cut at `data_limit`)."""
        if name == "train":
            return self.train
        if name == "validation":
            return self.validation
        return split_tokens(self.corpus, name, self.tokenizer, self.cache_dir)

    @cached_property
    def document_tokens(self) -> list[int]:
        """Tokens predicted in each document of the validation split."""
        return document_tokens(self.validation.tokens, self.tokenizer.eos_token_id)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of the text, of the tokenizer and of the tokens."""
        return {
            "corpus": self.corpus.fingerprint,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "train_tokens": self.train.fingerprint,
            "validation_tokens": self.validation.fingerprint,
        }

    def summary(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "name": self.corpus.name,
            "description": self.corpus.description,
            "fingerprints": self.fingerprints(),
            "vocab_size": len(self.tokenizer),
            "train_tokens": len(self.train.tokens),
            "train_unk_rate": self.train.unknown_rate,
            "validation_tokens": len(self.validation.tokens),
            "validation_characters": self.validation.characters,
            "validation_unk_rate": self.validation.unknown_rate,
            "document_tokens": self.document_tokens,
            "bucket_names": self.bucket_names,
        }


def split_tokens(
    corpus: Corpus, split: str, tokenizer: PreTrainedTokenizerFast, cache_dir: Path, limit: int | None = None
) -> TokenCache:
    """Tokens of a split, all of them or the first `limit`, from the cache or made now, with their number shown."""
    with counter(f"tokens of {corpus.name}, {split}") as progress:
        return token_cache(corpus, split, tokenizer, cache_dir=cache_dir, limit=limit, progress=progress)


def protocol_tokenizer(protocol: Protocol, corpus: Corpus, cache_dir: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a protocol: trained on the corpus, or one that exists.

    Raises:
        ValueError: text that cannot be read, no such tokenizer, or one of more words than the protocol's.
    """
    if protocol.tokenizer not in KINDS:
        tokenizer = saved_tokenizer(protocol.tokenizer)
        if len(tokenizer) > protocol.vocab_size:
            raise ValueError(
                f"tokenizer {protocol.tokenizer!r}: has {len(tokenizer):,} words, more than "
                f"vocab_size={protocol.vocab_size}; set vocab_size={len(tokenizer)}"
            )
        return tokenizer
    with counter(f"vocabulary of {corpus.name}, characters") as progress:
        return cached_tokenizer(
            corpus,
            kind=protocol.tokenizer,
            vocab_size=protocol.vocab_size,
            pre_tokenizer=protocol.pre_tokenizer,
            cache_dir=cache_dir,
            progress=progress,
        )


def prepare(protocol: Protocol, corpus: Corpus, cache_dir: Path) -> Prepared:
    """Tokenizer and tokens, from the cache or made now.

    Raises:
        ValueError: text that cannot be read, or too little of it for one batch.
    """
    tokenizer = protocol_tokenizer(protocol, corpus, cache_dir)
    train = split_tokens(corpus, "train", tokenizer, cache_dir, protocol.data_limit)
    validation = split_tokens(corpus, "validation", tokenizer, cache_dir)
    TokenStream(train.tokens, protocol.batch_size, protocol.sequence_length)  # is there enough for a batch?
    held_out_batches(validation.tokens, protocol.batch_size, protocol.sequence_length)
    buckets, names = frequency_buckets(train.tokens, len(tokenizer), unknown_id(tokenizer))
    return Prepared(corpus, tokenizer, cache_dir, train, validation, buckets, names)
