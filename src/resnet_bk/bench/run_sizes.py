"""Whether the runs that are in a folder have the size that they would have now.

What sizes a model from outside (`protocol.what_sizes`) may be said in another way, or have changed in what moves no
size; so where it differs, the numbers of parameters decide.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_bk.bench.json_files import finite, read_json
from resnet_bk.bench.protocol import Protocol, what_sizes
from resnet_bk.bench.run_folder import comparable, files_of_runs
from resnet_bk.bench.sizing import count_config

COUNTS = ("parameters", "parameters_without_embeddings")


def sized_otherwise(protocol: Protocol, out: Path) -> set[str]:
    """Models of the protocol with finished runs in `out` that were sized by other settings than those of now."""
    return {model for model, _, _ in _sized_otherwise(protocol, out)}


def check_sizes(protocol: Protocol, out: Path, configs: Mapping[str, Any]) -> None:
    """Nothing is written.

    Args:
        protocol: the protocol.
        out: the folder of its runs, of which all else was compared.
        configs: of its models, by name; of those that are missing nothing is looked at.

    Raises:
        ValueError: a finished run has another number of parameters.
    """
    for model, folder, keys in _sized_otherwise(protocol, out):
        if model not in configs:
            continue
        result = read_json(folder / "result.json", *COUNTS)
        total, without = there = tuple(result[key] for key in COUNTS)
        here = count_config(configs[model])
        if there != (here.total, here.without_embeddings):
            raise ValueError(
                f"--out {out} holds {folder.relative_to(out)}, a model of {total} parameters ({without} without "
                f"embeddings) that would be of {here} now, by {' and '.join(keys)}; give another folder with --out, or "
                "remove that one"
            )


def _sized_otherwise(protocol: Protocol, out: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Model, folder and the keys that differ."""
    for file in files_of_runs(out, "result.json"):
        if not file.with_name("run.json").exists():  # of which `check_checkpoints` tells
            continue
        record = read_json(file.with_name("run.json"), "model", "settings", "learning_rate", "seed", "grid")
        model = record["model"]
        settings = comparable(protocol, out, record, corpus="")
        if settings is None:
            continue
        here, there = what_sizes(finite(settings), model), what_sizes(record["settings"], model)
        if different := [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]:
            yield model, file.parent, different
