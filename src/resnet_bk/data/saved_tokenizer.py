"""A tokenizer that exists already: the tokenizer.json of a folder, exactly as it is there."""

import json
import os
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

FILE = "tokenizer.json"
# Text in which every byte occurs that UTF-8 has: 243 of them, so that a tokenizer of them needs no more.
FIRST_TWO = (*range(0x100), *range(0x100, 0x800, 0x40))  # characters of one and of two bytes
LONGER = (0x800, *range(0x1000, 0x10000, 0x1000), *range(0x10000, 0x110000, 0x40000), 0x100000)
EVERY_BYTE = "".join(map(chr, (*FIRST_TWO, *LONGER)))
# As pieces of bytes write them, and as other tokenizers fall back to them.
LETTERS = {*"".join(piece for piece, _ in ByteLevel(False, use_regex=False).pre_tokenize_str(EVERY_BYTE))}
FALLBACK = {f"<0x{byte:02X}>" for byte in EVERY_BYTE.encode()}


def saved_tokenizer(folder: str) -> PreTrainedTokenizerFast:
    """The tokenizer that `save_pretrained` wrote into a folder, to train with.

    Raises:
        ValueError: there is none, it cannot be read, it has nothing that ends a text, ids beyond its number of words,
            or no token of its own for what it does not know.
    """
    path = Path(os.path.expanduser(folder))  # unlike that of Path, not an error where there is no such user
    if not os.path.exists(path / FILE):  # which says no, too, where a name is too long
        raise ValueError(
            f"tokenizer {folder!r}: is neither word nor bpe, nor a folder with a {FILE}; save one there with the "
            "tokenizer's save_pretrained"
        )
    tokenizer = read_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"tokenizer {folder!r}: has no eos_token, which ends every document; set tokenizer.eos_token, and save it"
        )
    check_numbering(tokenizer, f" {folder!r}:")
    _check_unknown(tokenizer, folder)
    return tokenizer


def _check_unknown(tokenizer: PreTrainedTokenizerFast, folder: str) -> None:
    """Raises ValueError where text that the tokenizer does not know would be lost, or would end documents.

    A model of another kind than BPE refuses such text itself, where it has no token for it.
    """
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    model = made["model"]
    if _has_every_byte(made):
        return
    unknown = model.get("unk_token")
    if model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    if unknown is None and model["type"] == "BPE":
        raise ValueError(
            f"tokenizer {folder!r}: drops what it does not know without a trace, having neither an unk_token nor a "
            "token for every byte; train it anew with one of them"
        )
    if unknown is not None and tokenizer.backend_tokenizer.token_to_id(unknown) == tokenizer.eos_token_id:
        raise ValueError(
            f"tokenizer {folder!r}: {unknown!r} is its token of unknown words and ends documents too, so that every "
            "unknown word would end one; set tokenizer.eos_token to another token, and save it"
        )


def _has_every_byte(made: dict[str, Any]) -> bool:
    """Whether a tokenizer, by its tokenizer.json, has a token for every byte, so that there is nothing unknown."""
    model = made["model"]
    words = {*model["vocab"]} if isinstance(model["vocab"], dict) else {piece for piece, _ in model["vocab"]}
    affixes = any(model.get(affix) for affix in ("continuing_subword_prefix", "end_of_word_suffix"))
    of_bytes = '"ByteLevel"' in json.dumps([made["pre_tokenizer"], made["normalizer"]]) and not affixes
    return (of_bytes and words >= LETTERS) or (bool(model.get("byte_fallback")) and words >= FALLBACK)


def check_numbering(tokenizer: PreTrainedTokenizerFast, name: str = "") -> None:
    """Every id is below the number of words. `name` stands in the error behind "tokenizer".

    Raises:
        ValueError: one is not.
    """
    highest = max(tokenizer.get_vocab().values())
    if highest >= len(tokenizer):
        raise ValueError(
            f"tokenizer{name} has {len(tokenizer):,} words and ids up to {highest}, for which a model of as many words "
            "has no place; number them anew"
        )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder by its tokenizer.json.

    Not by `AutoTokenizer`, which for some types of models makes another one of the same words.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # a damaged file is a bare Exception of `tokenizers`
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the tokenizer in {folder} cannot be read ({reason}); restore it, or save it again"
        ) from error


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """Special tokens of a model of this tokenizer.

    A document starts where the one before ended, so that what ends it is also the beginning. No training has padding,
    and what is padding to a model of `transformers` has no input embedding: never the token that ends documents.
    """
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    return {"pad_token_id": None if padding == end else padding, "bos_token_id": end, "eos_token_id": end}


def unknown_id(tokenizer: Any) -> int | None:
    """The token of unknown words; None where there is none, or where it is said of the token that ends documents."""
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown == tokenizer.eos_token_id else unknown


def never_written(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Special tokens that end no text: a tool that drops them from what it shows would drop words without a trace."""
    return sorted({*tokenizer.all_special_ids} - {tokenizer.eos_token_id})
