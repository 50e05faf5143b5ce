"""A tokenizer that exists already: in a folder, or on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from resnet_bk.data.hub import hub_name

FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def saved_tokenizer(name: str) -> Any:
    """The tokenizer that `name` means.

    Args:
        name: a folder that `save_pretrained` of a tokenizer wrote, or owner/name on the hub (from its cache if it is
            there).

    Raises:
        ValueError: there is no such folder, or what is there cannot be read, has no end of a text, or is not run by
            the library tokenizers.
    """
    local = Path(name).is_dir()
    if not local and (Path(name).exists() or ":" in name or hub_name(name) is None):
        raise ValueError(
            f"tokenizer {name!r}: is neither word nor bpe, nor a folder with a saved tokenizer, nor owner/name on the "
            "hub; save one with its save_pretrained and give the folder"
        )
    if local and not holds_tokenizer(Path(name)):
        raise ValueError(f"tokenizer {name!r}: the folder holds no tokenizer; save one there with its save_pretrained")
    tokenizer = read_tokenizer(name, local=local)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"tokenizer {name!r}: is a {type(tokenizer).__name__}, which the library tokenizers does not run; take one "
            "that comes with a tokenizer.json"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"tokenizer {name!r}: has no eos_token, which ends every document; set tokenizer.eos_token, and save it"
        )
    return tokenizer


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of one. Without, transformers may make an empty tokenizer of the right kind up."""
    return any((folder / file).exists() for file in FILES)


def read_tokenizer(name: str, *, local: bool) -> Any:
    """The tokenizer of a folder, or of a model of the hub: from its cache if it is there.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        try:
            return AutoTokenizer.from_pretrained(name, local_files_only=True)
        except Exception:
            if local:
                raise
            return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers has many ways to fail here, and a damaged file is a bare Exception
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the tokenizer of {name} cannot be read ({reason}); save it again") from error


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """Special tokens of a model of this tokenizer.

    A document starts where the one before ended, so that what ends it is also the beginning. Padding, which no training
    has, is what the tokenizer says, else the end again.
    """
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    return {"pad_token_id": end if padding is None else padding, "bos_token_id": end, "eos_token_id": end}


def never_written(tokenizer: Any) -> list[int]:
    """Tokens that no text has: a tool that drops special tokens from what it shows would drop words without a trace."""
    special = (tokenizer.unk_token_id, tokenizer.pad_token_id)
    return [token for token in special if token not in (None, tokenizer.eos_token_id)]
