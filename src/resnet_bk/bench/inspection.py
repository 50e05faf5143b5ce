"""What `resnet-bk inspect` shows of a model: configuration, parameters by part, state, time scales."""

import inspect
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedConfig

from resnet_bk.bench.data import default_cache_dir, open_corpus
from resnet_bk.bench.peers import is_of_others
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.resolve import is_run
from resnet_bk.bench.run_folder import read_run
from resnet_bk.bench.run_result import config_dict
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.bench.time_scales import has_chains, time_scales
from resnet_bk.bench.trained.positions import longest_text
from resnet_bk.data import token_cache
from resnet_bk.data.saved_tokenizer import read_tokenizer
from resnet_bk.training.carried import ConstantStates, constant_state
from resnet_bk.training.mode import evaluation_mode

ROWS, TOKENS = 8, 128  # of the text that chains are measured on
STATE_TOKENS = 16  # of a text whose state is compared with that of its half


def inspect_model(model: Any, weights: str = "fresh", folder: Path | None = None) -> dict[str, Any]:
    """All that can be read off a model.

    Args:
        model: a causal LM of `transformers`.
        weights: where they came from, for the result.
        folder: that they came from. A run folder's validation text is what the chains are measured on; without one, or
            where that text cannot be read or is another since, random words are, and the result says so.
    """
    count = count_parameters(model)
    found: dict[str, Any] = {
        "model_type": model.config.model_type,
        "weights": weights,
        "causal": getattr(model.config, "causal", None),
        # JSON has no infinity, and some configurations do: it becomes the word.
        "config": json.loads(json.dumps(config_dict(model.config), default=str), parse_constant=str),
        "parameters": count.total,
        "parameters_without_embeddings": count.without_embeddings,
        "parameters_by_part": parameters_by_part(model),
        "state": generation_state(model),
        "time_scales": [],
        "measured_on": None,
    }
    if has_chains(model):
        text, name = sample_text(model, folder)
        found |= {"time_scales": time_scales(model, text), "measured_on": name}
    return found


def parameters_by_part(model: Any) -> dict[str, int]:
    """Trainable parameters by module, equal modules of all layers together: `model.layers.*.mixer`."""
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = re.sub(r"\.\d+(?=\.|$)", ".*", name).split(".")
            depth = path.index("*") + 2 if "*" in path else max(len(path) - 1, 1)
            parts[".".join(path[:depth])] += parameter.numel()
    return dict(parts)


@torch.no_grad()
def generation_state(model: Any) -> dict[str, Any] | None:
    """Memory of what `generate` keeps of the text so far, for one row: measured on two texts.

    Returns:
        `kind` (a class), `constant_bytes` and `bytes_per_token`; None for a model that keeps nothing and reads the
        whole text again for every token, or that has one position.
    """
    takes = hasattr(model.config, "use_cache") or (
        is_of_others(model.config.model_type) and "use_cache" in inspect.signature(model.forward).parameters
    )
    if not takes:
        return None
    longest = min(STATE_TOKENS, longest_text(model) or STATE_TOKENS)
    if longest < 2:
        return None
    lengths, sizes = (longest // 2, longest), []
    with evaluation_mode(model):
        for length in lengths:
            ids = torch.zeros(1, length, dtype=torch.int64, device=model.device)
            # Some models ask their cache how long it is, which without a layer of attention it cannot say.
            given = {"cache": ConstantStates(model.config)} if constant_state(model.config) else {}
            output = model(input_ids=ids, use_cache=True, **given)
            names = ("cache", "past_key_values", "cache_params", "state")
            state = next((getattr(output, name) for name in names if getattr(output, name, None) is not None), None)
            if state is None:
                return None
            sizes.append(sum(_tensor_bytes(state, set()).values()))
    growth = (sizes[1] - sizes[0]) / (lengths[1] - lengths[0])
    return {
        "kind": type(state).__name__,
        "constant_bytes": round(sizes[0] - growth * lengths[0]),
        "bytes_per_token": growth,
    }


def _tensor_bytes(value: Any, seen: set[int]) -> dict[int, int]:
    """Bytes of every tensor that can be reached from `value`, each once; a lone integer counts the tokens, whether it
    is a tensor (since `transformers` 5.25) or not, and is left out."""
    if isinstance(value, Tensor):
        counts = value.ndim == 0 and not (value.is_floating_point() or value.is_complex())
        return {} if counts else {id(value): value.nbytes}
    if id(value) in seen:
        return {}
    seen.add(id(value))
    inner: Any = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        inner = vars(value).values() if hasattr(value, "__dict__") else ()
    found: dict[int, int] = {}
    for item in inner:
        found |= _tensor_bytes(item, seen)
    return found


def sample_text(model: Any, folder: Path | None) -> tuple[Tensor, str]:
    """Tokens, int64 [ROWS, at most TOKENS], and what they are."""
    length = min(TOKENS, longest_text(model) or TOKENS)
    trouble = ""
    if folder is not None and is_run(folder):
        try:
            record = read_run(folder)
            protocol = check_protocol(record["protocol"], str(folder))
            tokenizer = read_tokenizer(folder / "model")
            corpus = open_corpus(protocol, ("validation",))
            same = corpus.fingerprint == record["data"]["fingerprints"]["corpus"]
            if not same:
                trouble = " (the text of the run is another since, or divided otherwise)"
            tokens = token_cache(corpus, "validation", tokenizer, cache_dir=default_cache_dir()).tokens
            rows = min(ROWS, len(tokens) // length)
            if same and rows:
                ids = torch.as_tensor(tokens[: rows * length].astype("int64")).view(rows, length)
                return ids, f"{corpus.name}, validation, {ids.numel():,} tokens"
        except ValueError as error:
            trouble = f" (the text of the run cannot be read: {error})"
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (ROWS, length), generator=generator), f"random words{trouble}"


def inspection_tables(name: str, found: dict[str, Any]) -> list[str | Table]:
    """What `inspect_model` found in the model of that name, a line of title before each table.

    Fields of the configuration that any model of `transformers` has with the same value are left out.
    """
    causal = {None: "", True: ", causal by declaration", False: ", NOT causal"}[found["causal"]]
    table = _table("field", "value")
    usual = PreTrainedConfig().to_dict()
    for key, value in found["config"].items():
        if key != "model_type" and value is not None and usual.get(key) != value:
            table.add_row(key, str(value))
    tables: list[str | Table] = [f"{name}: {found['model_type']}{causal}, weights {found['weights']}", table]

    table = _table("part", "number", "share")
    for part, number in found["parameters_by_part"].items():
        table.add_row(part, f"{number:,}", f"{100 * number / found['parameters']:.1f}%")
    table.add_section()
    table.add_row("all", f"{found['parameters']:,}", "")
    table.add_row("without embeddings and head", f"{found['parameters_without_embeddings']:,}", "")
    tables += ["parameters", table]

    table = _table("kept of the text", "bytes")
    state = found["state"]
    if state is None:
        table.add_row("none: every token reads the whole text again", "0")
    else:
        table.add_row(f"{state['kind']}, whatever the length", f"{state['constant_bytes']:,}")
        table.add_row("more for each token", f"{state['bytes_per_token']:,.0f}")
    tables += ["state in generation, one text", table]
    if found["time_scales"]:
        tables += [f"time scales on {found['measured_on']}", _scales_table(found)]
    return tables


def _scales_table(found: dict[str, Any]) -> Table:
    columns = ("chains", "absorption", "energy a / 2b", "sites in band", "memory, tokens")
    table = _table("layer", *columns)
    for layer in found["time_scales"]:
        memory = sorted(float("inf") if value is None else value for value in layer["memory"])
        table.add_row(
            layer["layer"],
            str(layer["chains"]),
            " ".join(f"{value:.3g}" for value in layer["absorption"]),
            " ".join(f"{value:.3g}" for value in layer["energy"]),
            f"{100 * sum(layer['in_band']) / layer['chains']:.0f}%",
            " ".join(f"{memory[place]:.3g}" for place in (0, len(memory) // 2, -1)),
        )
    table.caption = (
        "absorption and energy: 10%, 50%, 90% of sites; inside the band is |a| < 2b; "
        "memory: shortest, middle and longest chain"
    )
    return table


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
