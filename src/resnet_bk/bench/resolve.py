"""What a name on the command line means: one order for `audit`, `flops`, `inspect`, and for the cost of a leak."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from resnet_bk.bench.data import SPECIAL_IDS
from resnet_bk.bench.peers import KNOWN, is_causal_lm, resolve_configs
from resnet_bk.bench.protocol import DEFAULT_MODEL, ModelEntry, Protocol
from resnet_bk.bench.protocols import shipped_protocols
from resnet_bk.bench.run_folder import read_run
from resnet_bk.data.saved_tokenizer import FILE
from resnet_bk.hints import did_you_mean

# Keys of a protocol that shape models; what is saved has its shape.
OF_MODELS = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "vocab_size",
    "tie_word_embeddings",
    "parameters_without_embeddings",
    "parameter_tolerance",
    "models",
)
WHERE_RUNS_LIE = "a run folder is OUT/<model>/seed-<s>, of a grid OUT/<model>/lr-<r>/seed-<s>"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Named:
    """What was named.

    Attributes:
        name: as it was given.
        kind: "run": a run folder; "config": a config.json, or a folder of a model without weights; "hub": owner/name
            on the Hugging Face hub; "name": a model of the protocol, or a known one; "saved": a folder that
            `save_pretrained` wrote; "type": a model type of `transformers`.
    """

    name: str
    kind: Literal["run", "config", "hub", "name", "saved", "type"]

    @property
    def path(self) -> Path:
        """Of a run, a configuration or a saved model."""
        return Path(self.name)


def resolve(name: str, protocol: Protocol) -> Named:
    """What a name means; of several things the first in the list of `Named`.

    A run goes first, for it brings the protocol in which names are looked up. A name goes before a saved model that is
    called the same, and that before a type of `transformers`, of which there are hundreds.

    Args:
        name: as it was given.
        protocol: whose models have names.

    Raises:
        ValueError: it means nothing; of a folder that holds runs, these are named.
    """
    path = Path(name)
    if is_run(path):
        return Named(name, "run")
    if os.path.isfile(path) or _only_config(path):
        return Named(name, "config")
    if not os.path.exists(path) and REPOSITORY.fullmatch(name):
        return Named(name, "hub")
    if name in protocol.models or name in KNOWN:
        return Named(name, "name")
    if os.path.exists(path / "config.json"):
        return Named(name, "saved")
    if is_causal_lm(name):
        return Named(name, "type")
    if os.path.isdir(path):
        run_folder(path)  # says what it lacks, and which runs it holds
    refuse_protocol(name)
    known = [*protocol.models, *KNOWN, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    raise ValueError(
        f"model {name!r}{did_you_mean(name, known)} is no run folder, no model of protocol {protocol.name} "
        f"({', '.join(protocol.models)}), no known one ({', '.join(KNOWN)}), no folder with a saved model, and no "
        "causal LM type of transformers"
    )


def refuse_shape(named: Named, settings: Sequence[str], kinds: Sequence[str]) -> None:
    """Raises ValueError for a setting that shapes models, where that which was named is of one of `kinds` and has a
    shape of its own."""
    for setting in settings:
        if named.kind in kinds and setting.partition("=")[0].strip().split(".")[0] in OF_MODELS:
            raise ValueError(
                f"--set {setting}: {named.name} has a shape of its own, which no setting changes; leave it out, or "
                "name a model of the protocol"
            )


def is_protocol(name: str) -> bool:
    """Whether a name means a protocol: a shipped one or a .yaml file."""
    return name in shipped_protocols() or Path(name).suffix in (".yaml", ".yml")


def refuse_protocol(name: str) -> None:
    """Raises ValueError where the name of a model is that of a protocol."""
    if is_protocol(name):
        raise ValueError(f"{name!r} is a protocol, and a model is asked for; name one, for example {DEFAULT_MODEL}")


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return os.path.exists(path / "run.json")  # unlike that of Path, False for a name that is too long


def _only_config(path: Path) -> bool:
    """Whether a folder holds a configuration and no weights."""
    weights = ("*.safetensors", "*.safetensors.index.json", "*.bin")
    return os.path.exists(path / "config.json") and not any(any(path.glob(pattern)) for pattern in weights)


def run_folder(path: Path) -> Path:
    """The run folder that `path` is.

    Raises:
        ValueError: it is none (runs below it, or near where it would be, are named), or one that keeps no model.
    """
    if is_run(path):
        read_run(path)
        return path
    if os.path.isdir(path):
        # As deep as a folder of several protocols has them: protocol, model, rate, seed. No deeper: it may be a home.
        patterns = ("/".join(["*"] * depth + ["run.json"]) for depth in range(1, 5))
        below, place = sorted(str(file.parent) for pattern in patterns for file in path.glob(pattern)), "it"
        lack = "no run.json in it"
    elif os.path.exists(path):
        below, place, lack = [], "", "it is a file"
    else:
        (place, below), lack = _runs_near(path), "there is no such folder"
    hint = f"{place} holds the runs {_few(below)}" if below else WHERE_RUNS_LIE
    raise ValueError(f"{path} is no run folder ({lack}); {hint}")


def _runs_near(path: Path) -> tuple[str, list[str]]:
    """The nearest parent of a path that is there, and the runs as far below it as the path would be, or a folder
    further, where the rate of a grid lies between model and seed."""
    place = next(parent for parent in path.parents if os.path.exists(parent))
    if Path.cwd().is_relative_to(place.resolve()):  # the current folder or one above it, which may hold anything
        return str(place), []
    depth = len(path.relative_to(place).parts)
    patterns = ("/".join(["*"] * further + ["run.json"]) for further in (depth, depth + 1))
    return str(place), sorted(str(file.parent) for pattern in patterns for file in place.glob(pattern))


def _few(names: Sequence[str], count: int = 6) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders that `paths` are.

    Raises:
        ValueError: as `run_folder`, or one of them stands there twice.
    """
    found = [run_folder(path) for path in paths]
    places = [path.resolve() for path in found]
    twice = dict.fromkeys(str(path) for path, place in zip(found, places, strict=True) if places.count(place) > 1)
    if twice:
        raise ValueError(f"{', '.join(twice)}: given twice; name each run once")
    return found


def model_folder(path: Path) -> Path:
    """Where the model and the tokenizer are that `path` stands for: those of a run folder, or its own, as
    `save_pretrained` of both wrote them.

    Raises:
        ValueError: it is no run folder, and not a folder of both.
    """
    if is_run(path) or not os.path.exists(path / "config.json"):
        return run_folder(path) / "model"
    if not (path / FILE).exists():
        raise ValueError(
            f"{path} holds a model and no {FILE}, and text is read and written with both; save the model's tokenizer "
            "there with save_pretrained"
        )
    return path


def protocol_with(protocol: Protocol, name: str) -> Protocol:
    """The protocol with a model of that name: as it has it, else a known model, or a type of `transformers` that is not
    sized."""
    if name in protocol.models:
        return protocol
    entry = ModelEntry() if name in KNOWN else ModelEntry(transformers=name, match_parameters=False)
    return protocol.model_copy(update={"models": protocol.models | {name: entry}})


def protocol_config(protocol: Protocol, name: str) -> Any:
    """Configuration of a model of the protocol, of a known model that it does not have (sized to it), or of a type of
    transformers (of the protocol's shape).

    Raises:
        ValueError: a type that does not take that shape.
    """
    return resolve_configs(protocol_with(protocol, name), protocol.vocab_size, SPECIAL_IDS, [name])[name]
