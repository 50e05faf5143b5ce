"""The model that an audit is asked about: by name, folder, configuration or the name of a repository on the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.data import SPECIAL_IDS
from resnet_bk.bench.peers import build_model, config_template, sized
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.resolve import protocol_config, resolve
from resnet_bk.bench.run_folder import read_run
from resnet_bk.bench.trained.positions import longest_text
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.data.hub import answer_within

DEADLINE_SECONDS = 10.0  # for the hub to answer; transformers itself tries again for half a minute
# Shape of a type of transformers, under the common names of the fields.
SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    **SPECIAL_IDS,
}


def audit_target(name: str, protocol: Protocol) -> Any:
    """A causal LM, with its weights where they are saved, in the precision of them, else freshly initialised.

    Args:
        name: of any kind that `resolve` knows.
        protocol: where names are looked up, and whose shape they get; a type of transformers is `SMALL`.

    Raises:
        ValueError: it is none of these, or cannot be read or built.
    """
    named = resolve(name, protocol)
    if named.kind == "config":
        return _from_config(named.path)
    if named.kind == "hub":
        return _from_hub(name)
    if named.kind == "name":
        return build_model(protocol_config(protocol, name), seed=0)
    if named.kind == "type":
        return _small(name)
    if named.kind == "run":
        read_run(named.path)
        return load_model(named.path / "model")
    return load_model(named.path)


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


def check_lengths(name: str, model: Any, lengths: Sequence[int] | None) -> None:
    """Raises ValueError for one that was asked for and that the model is not made for."""
    longest = most_tokens(model)
    too_long = [length for length in lengths or () if longest is not None and length > longest]
    if too_long:
        raise ValueError(
            f"--lengths {too_long[0]}: {name} is made for {longest} tokens; give lengths of at most that, or leave it "
            "out"
        )


def _small(name: str) -> Any:
    try:
        return build_model(config_template(name, SMALL, {})({}), seed=0)
    except Exception as error:  # any of a hundred architectures may want more than a small shape
        raise ValueError(
            f"model {name!r}: transformers cannot build it small ({type(error).__name__}: {error}); "
            "save one with save_pretrained and give its folder"
        ) from error


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
