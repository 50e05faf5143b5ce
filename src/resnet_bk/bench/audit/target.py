"""The model that an audit is asked about: by name, folder, configuration or the name of a repository on the hub."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.inspect_model import find_model, longest_text
from resnet_bk.bench.peers import build_model, sized
from resnet_bk.bench.protocol import Protocol
from resnet_bk.data.hub import answer_within

DEADLINE_SECONDS = 10.0  # for the hub to answer; transformers itself tries again for half a minute
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def audit_target(name: str, protocol: Protocol) -> Any:
    """A causal LM, with its weights where they are saved, else freshly initialised.

    Args:
        name: a model of the protocol or a known one, a model type of transformers, a run folder, a folder written by
            save_pretrained, a config.json (or a folder with nothing else), or owner/name on the Hugging Face hub.
        protocol: where names are looked up, and whose shape they get.

    Raises:
        ValueError: it is none of these, or cannot be read or built.
    """
    path = Path(name)
    if path.is_file() or (path.is_dir() and only_config(path)):
        return _from_config(path)
    if not path.exists() and REPOSITORY.fullmatch(name):
        return _from_hub(name)
    return find_model(name, protocol)


def vocabulary(model: Any) -> int:
    """Words that a model may be fed."""
    return int(model.config.get_text_config().vocab_size)


def most_tokens(model: Any) -> int | None:
    """Tokens that a model is made for; None for any number."""
    longest = longest_text(model) or getattr(sized(model.config).get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def fitting_lengths(model: Any, lengths: Sequence[int]) -> list[int]:
    """`lengths`, none above the tokens that the model is made for."""
    longest = most_tokens(model)
    return sorted({length if longest is None else min(length, longest) for length in lengths})


def only_config(folder: Path) -> bool:
    """Whether a folder holds a configuration and no weights."""
    weights = (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json"), *folder.glob("*.bin"))
    return (folder / "config.json").exists() and not weights and not (folder / "run.json").exists()


def _from_config(path: Path) -> Any:
    try:
        return build_model(AutoConfig.from_pretrained(path), seed=0)
    except Exception as error:  # configurations of a hundred architectures fail in their own ways
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"model {path}: no configuration of a causal language model ({type(error).__name__}: {reason}); "
            "give a config.json written by save_pretrained"
        ) from error


def _from_hub(name: str) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(name, local_files_only=True)
    except OSError:  # not in the cache
        _ask_hub(name)
    except ValueError as error:
        raise ValueError(f"model {name!r}: no causal language model of transformers ({error})") from error
    try:
        return AutoModelForCausalLM.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"model {name!r}: cannot be loaded from the hub ({reason}); give a local folder") from error


def _ask_hub(name: str) -> None:
    """Make sure, within seconds, that the hub answers and has the model."""
    from huggingface_hub import HfApi, constants

    seconds = DEADLINE_SECONDS
    outcome = answer_within(seconds, lambda: HfApi().model_info(name, timeout=seconds / 2))
    if isinstance(outcome, Exception):
        reason = (str(outcome).splitlines() or [type(outcome).__name__])[0]
        raise ValueError(
            f"model {name!r}: no such local path, and the Hugging Face hub at {constants.ENDPOINT} does not have it or "
            f"cannot be reached ({reason}); check the spelling, or give a local folder"
        )


def parse_lengths(text: str) -> tuple[int, ...]:
    """'2,65,300' as numbers.

    Raises:
        ValueError: something else, or a length below 2.
    """
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 2:
        raise ValueError(f"--lengths {text!r}: must be numbers of tokens of at least 2, for example 2,65,300")
    return lengths
