"""Two or more finished benchmarks side by side: the same models on other data, or under other settings.

What belongs to the data (tokens, vocabulary, `<unk>`) comes first, then every model has a block of its own. A figure is
the mean over the seeds of a model, as in the report of its benchmark; a ratio is of the seeds that both have.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.environment import machine
from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.results_schema import Ngram, Results, parse_results
from resnet_bk.bench.report.statistics import ModelSummary, on_shared_seeds, summarize
from resnet_bk.bench.run_folder import read_results

# What makes two perplexities figures of the same thing.
SAME_TEXT = ("validation_tokens", "tokenizer")
# How many rows a text is laid out in, each of which begins without what came before: the more, the higher.
ROWS = "batch_size"
SAME_TRAINING_TEXT = ("train_tokens", "tokenizer")


def compare_results(paths: Sequence[Path]) -> dict[str, Any]:
    """Figures of several benchmarks.

    Args:
        paths: OUT folders of `resnet-bk bench`, or results.json files.

    Returns:
        `results`: a list, one entry a path, with `path`, `protocol`, `dataset_name`, `data` (tokens, vocabulary, unk
        rates), `models` (name -> figures, None where there is none) and `ngrams` (name -> perplexity);
        `on_shared_seeds`: for two paths, name -> the figures of both over the seeds that both have, of models for which
        there are such;
        `perplexities_comparable`: whether all were measured on the same held-out tokens; `one_corpus`: whether their
        texts are one, in whatever tokens; `rows_alike`: whether they were measured in as many rows;
        `training_perplexities_comparable`: whether all were trained on the same tokens; `times_comparable`: whether all
        runs were made on one kind of processor or GPU with as many threads, as far as the results say.

    Raises:
        ValueError: fewer than two paths, a path given twice, a file that is missing or no results.
    """
    if len(paths) < 2:
        raise ValueError(f"compare takes two or more folders that resnet-bk bench wrote, but got {len(paths)}")
    files = [path / "results.json" if path.is_dir() or path.suffix != ".json" else path for path in paths]
    twice = {str(file) for file in files if [other.resolve() for other in files].count(file.resolve()) > 1}
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} is given twice; name each benchmark once")
    parsed = []
    for path, file in zip(paths, files, strict=True):
        try:
            parsed.append(parse_results(read_results(file)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return {
        "results": [_figures(path, results) for path, results in zip(paths, parsed, strict=True)],
        "on_shared_seeds": _on_shared_seeds(*parsed) if len(parsed) == 2 else {},
        "perplexities_comparable": _one_text(parsed, SAME_TEXT),
        "one_corpus": _one_text(parsed, ("corpus",)),
        "rows_alike": len({results.protocol.get(ROWS) for results in parsed}) == 1,
        "training_perplexities_comparable": _one_text(parsed, SAME_TRAINING_TEXT),
        "times_comparable": _one_machine(parsed),
    }


def _one_text(parsed: Sequence[Results], keys: Sequence[str]) -> bool:
    """Whether all have the same tokens, by these fingerprints; not where results do not say."""
    texts = [tuple((results.data.get("fingerprints") or {}).get(key) for key in keys) for results in parsed]
    return len(set(texts)) == 1 and None not in texts[0]


def _one_machine(parsed: Sequence[Results]) -> bool:
    """Whether all runs were trained on one kind of machine, as far as they say."""
    known: dict[str, set[Any]] = {}
    for results in parsed:
        for run in results.runs:
            for place in run.environments or [results.environment]:
                for key, value in machine(place, run.device).items():
                    known.setdefault(key, set()).add(value)
    return all(len(values) == 1 for values in known.values())


def _figures(path: Path, results: Results) -> dict[str, Any]:
    first = results.runs[0]
    return {
        "path": str(path),
        "protocol": results.protocol.get("name"),
        "dataset_name": results.data.get("name"),
        "data": {
            "train_tokens": results.data.get("train_tokens"),
            "held_out_tokens": results.data.get("validation_tokens"),
            "vocab_size": results.data.get("vocab_size", first.vocab_size),
            "train_unk_rate": results.data.get("train_unk_rate"),
            "held_out_unk_rate": results.data.get("validation_unk_rate", first.unk_rate),
        },
        "models": {model.name: _model(model) for model in summarize(results)},
        "ngrams": {entry.name: entry.perplexity for entry in _held_out_ngrams(results)},
    }


def _on_shared_seeds(first: Results, second: Results) -> dict[str, list[dict[str, Any]]]:
    models = [{model.name: model for model in summarize(results)} for results in (first, second)]
    return {
        name: [_model(model) for model in on_shared_seeds(ours, models[1][name])]
        for name, ours in models[0].items()
        if name in models[1] and {*ours.seeds} & {*models[1][name].seeds}
    }


def _held_out_ngrams(results: Results) -> list[Ngram]:
    """The n-gram models, where they were scored on the split that the models are."""
    found = results.ngrams
    return found.ngrams if found is not None and found.split == "validation" else []


def _model(model: ModelSummary) -> dict[str, Any]:
    ranked = model.state == "ranked"
    return {
        "state": model.state,
        "seeds": list(model.seeds),
        "learning_rates": list(model.learning_rates),
        "parameters": model.runs[0].parameters,
        "parameters_without_embeddings": model.runs[0].parameters_without_embeddings,
        "steps": model.runs[0].steps,
        "total_tokens": model.runs[0].total_tokens,
        "held_out_perplexity": model.perplexity.mean if model.perplexity else None,
        "held_out_perplexity_without_carry": model.without_carry.mean if model.without_carry else None,
        "held_out_perplexity_overlapping": model.mean("held_out_perplexity_overlapping") if ranked else None,
        "bits_per_character": model.mean("bits_per_character") if ranked else None,
        "training_perplexity": model.mean("final_perplexity"),
        "training_time": model.mean("training_time"),
        "tokens_per_second": model.mean("tokens_per_second"),
        "peak_memory_mb": model.mean("peak_memory_mb"),
        # One that diverged has none.
        "peak_memory_kinds": sorted(
            {str(run.peak_memory_kind) for run in model.runs if run.peak_memory_mb is not None}
        ),
        "total_flops_per_step": model.mean("total_flops_per_step"),
        "total_training_flops": model.mean("total_training_flops"),
    }


Show = Callable[[Any], str]
DATA_ROWS: tuple[tuple[str, str, Show], ...] = (
    ("train_tokens", "training tokens", fmt.count),
    ("held_out_tokens", "held-out tokens", fmt.count),
    ("vocab_size", "vocabulary", fmt.count),
    ("train_unk_rate", "<unk>, training", lambda value: fmt.percent(value, 2)),
    ("held_out_unk_rate", "<unk>, held-out", lambda value: fmt.percent(value, 2)),
)
MODEL_ROWS: tuple[tuple[str, str, Show], ...] = (
    ("seeds", "seeds", lambda value: ", ".join(map(str, value))),
    ("learning_rates", "learning rates", lambda value: ", ".join(f"{rate:g}" for rate in value)),
    ("held_out_perplexity", "held-out perplexity", fmt.perplexity),
    ("held_out_perplexity_without_carry", "the same, state not carried", fmt.perplexity),
    ("held_out_perplexity_overlapping", "the same, overlapping windows", fmt.perplexity),
    ("training_perplexity", "training perplexity, last epoch", fmt.perplexity),
    ("bits_per_character", "held-out bits/character", lambda value: fmt.decimal(value, 3)),
    ("parameters", "parameters", fmt.count),
    ("total_tokens", "tokens seen", fmt.count),
    ("training_time", "training time", fmt.duration),
    ("tokens_per_second", "tokens/s", fmt.count),
    ("peak_memory_mb", "peak memory", fmt.memory),
    ("total_flops_per_step", "FLOPs a step", fmt.flops),
    ("total_training_flops", "FLOPs of the training", fmt.flops),
)
# No row where no model carries a state, or for results of before there was such a figure.
IF_ANY = ("held_out_perplexity_without_carry", "held_out_perplexity_overlapping")
NOT_ACROSS_TEXTS = ("held_out_perplexity", *IF_ANY)
# Overlapping windows but for the first see half a segment or more, in whatever row they are.
NOT_ACROSS_ROWS = (
    "held_out_perplexity",
    "held_out_perplexity_without_carry",
    "bits_per_character",
    "training_perplexity",
)
NOT_ACROSS_TRAINING_TEXTS = ("training_perplexity",)
NO_RATIO = ("seeds", "learning_rates")
# Bits a character of one corpus can be compared whatever the tokens, but for unknown words: one is charged as one
# word, and brings all of its characters.
NOT_ACROSS_CORPORA = ("bits_per_character",)
NOT_ACROSS_MACHINES = ("training_time", "tokens_per_second", "peak_memory_mb")


def comparison_table(compared: dict[str, Any]) -> Table:
    """One column a benchmark; between two, their ratio (second over first)."""
    results = compared["results"]
    table = Table(caption=Text(_caption(compared)), caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for found in results:
        table.add_column(Text(f"{found['dataset_name']}\n{found['path']}"), justify="right", overflow="fold")
    if len(results) == 2:
        table.add_column("second /\nfirst", justify="right")

    def add(
        label: str, values: list[Any], show: Show, ratio: Sequence[Any] | None, instead: Sequence[str | None] = ()
    ) -> None:
        """A row; `ratio` holds the two figures whose ratio is shown."""
        cells = [Text("–" if value is None else show(value)) for value in values]
        for place, state in enumerate(instead):
            if state is not None:
                cells[place] = Text(state, style="red")
        if len(results) == 2:
            usable = ratio is not None and None not in (*ratio, *values) and ratio[0]
            cells.append(Text(fmt.significant(ratio[1] / ratio[0]) if ratio is not None and usable else ""))
        table.add_row(Text(label), *cells)

    for key, label, show in DATA_ROWS:
        values = [found["data"][key] for found in results]
        add(label, values, show, values)
    same = compared["perplexities_comparable"]
    without_ratio = (
        *NO_RATIO,
        *(() if same else NOT_ACROSS_TEXTS),
        *(() if compared["rows_alike"] else NOT_ACROSS_ROWS),
        *(() if compared["training_perplexities_comparable"] else NOT_ACROSS_TRAINING_TEXTS),
        *(() if same or (compared["one_corpus"] and not _unknown(compared)) else NOT_ACROSS_CORPORA),
        *(() if compared["times_comparable"] else NOT_ACROSS_MACHINES),
    )
    for name in dict.fromkeys(name for found in results for name in found["ngrams"]):
        values = [found["ngrams"].get(name) for found in results]
        add(f"{name} perplexity", values, fmt.perplexity, values if same else None)
    for name in dict.fromkeys(name for found in results for name in found["models"]):
        table.add_section()
        table.add_row(Text(name, style="bold"))
        models = [found["models"].get(name) for found in results]
        shared = compared["on_shared_seeds"].get(name)
        other_memory = _other_memory(shared)
        for key, label, show in MODEL_ROWS:
            values = [None if model is None else model[key] for model in models]
            if key in IF_ANY and values == [None] * len(values):
                continue
            instead = [
                None if key != "held_out_perplexity" or model is None or model["state"] == "ranked" else model["state"]
                for model in models
            ]
            unlike = key in without_ratio or (key == "peak_memory_mb" and other_memory)
            ratio = None if unlike or shared is None else [model[key] for model in shared]
            add(f"  {label}", values, show, ratio, instead=instead)
    return table


def _other_seeds(compared: dict[str, Any]) -> bool:
    """Whether a model that both have was not trained with the same seeds."""
    if len(compared["results"]) != 2:
        return False
    first, second = (found["models"] for found in compared["results"])
    return any(first[name]["seeds"] != second[name]["seeds"] for name in first.keys() & second.keys())


def _other_memory(shared: Sequence[dict[str, Any]] | None) -> bool:
    """Whether the peaks of a model in the two results were measured in other ways."""
    kinds = [model["peak_memory_kinds"] for model in shared or ()]
    return all(kinds) and any(kind != kinds[0] for kind in kinds)


def _unknown(compared: dict[str, Any]) -> bool:
    """Whether words of a held-out text are `<unk>`."""
    return any(found["data"]["held_out_unk_rate"] for found in compared["results"])


def _caption(compared: dict[str, Any]) -> str:
    if compared["perplexities_comparable"]:
        text = "The same held-out tokens and vocabulary"
        text += ": perplexities can be compared." if compared["rows_alike"] else "."
        if not compared["training_perplexities_comparable"]:
            text += " They were trained on other tokens: no ratio of training perplexities is shown."
    else:
        text = (
            "Other held-out text or vocabulary: perplexities say how hard each text is for its model and are no "
            "contest; no ratio of them is shown. "
        )
        if not compared["one_corpus"]:
            text += "Nor is one of bits a character, for the texts are not known to be one."
        elif _unknown(compared):
            text += "Nor is one of bits a character, which are the fewer the more words are <unk>."
        else:
            text += "Bits a character depend less on the vocabulary."
    if not compared["rows_alike"]:
        text += (
            "\nOther numbers of rows (batch_size), each of which begins without what came before: no ratio of held-out "
            "perplexities or bits a character is shown but in overlapping windows, and none of training perplexities."
        )
    if _other_seeds(compared):
        text += "\nRatios are of the seeds that both have."
    if not compared["times_comparable"]:
        text += (
            "\nMade on other processors or with other numbers of threads: times and memory cannot be compared, and no "
            "ratio of them is shown."
        )
    elif any(map(_other_memory, compared["on_shared_seeds"].values())):
        text += "\nWhere peak memory was measured in other ways (peak_memory_kind), no ratio of it is shown."
    return text
