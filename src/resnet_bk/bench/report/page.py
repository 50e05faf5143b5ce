"""The report: one self-contained HTML page beside ``results.json``, and its plots as PNG files.

The page asks for nothing over the network (its content security policy forbids it), runs no script, and is written
whole or not at all.
"""

import errno
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from resnet_bk.bench.json_files import replace_file
from resnet_bk.bench.protocol import TRAINED, ModelEntry
from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.findings import find, own_optimizers, rate_sources, reference_model
from resnet_bk.bench.report.plot_style import styles_by_model
from resnet_bk.bench.report.plots import Plot, draw_plots
from resnet_bk.bench.report.results_schema import Results, parse_results
from resnet_bk.bench.report.statistics import ModelSummary, best_of, perplexity_ratio, ranked, summarize
from resnet_bk.figures import UNKNOWN_BUCKET, perplexity

PLOT_NAMES = (
    "loss-steps",
    "loss-seconds",
    "validation-steps",
    "validation-seconds",
    "depth-steps",
    "kept-steps",
    "buckets",
    "bucket-ratios",
)
# What another folder mends: kind, permissions or name. A disk that is full or fails is no fault of the call.
OF_THE_FOLDER = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,  # a place where no folder can be made, such as /proc
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
LONG = 32  # characters; a longer value takes a line of its own
TEMPLATES = Path(__file__).parent / "templates"
# Labels of the protocol's keys, in the order in which a reader asks for them; the rest stands in the full listing.
SETTINGS = (
    ("dataset", "Data set"),
    ("data_limit", "Training tokens at most"),
    ("tokenizer", "Tokenizer"),
    ("pre_tokenizer", "Split into"),
    ("vocab_size", "Vocabulary, tokens at most"),
    ("sequence_length", "Tokens a segment"),
    ("batch_size", "Segments a step"),
    ("steps", "Steps"),
    ("epochs", "Epochs"),
    ("hidden_size", "Width"),
    ("num_layers", "Layers"),
    ("num_heads", "Heads"),
    ("tie_word_embeddings", "Embedding and head shared"),
    ("learning_rates", "Grid of learning rates"),
    ("optimizer", "Optimizer"),
    ("embedding_rate", "Embeddings' learning rate / learning rate"),
    ("weight_decay", "Weight decay"),
    ("betas", "Betas (AdamW)"),
    ("clip", "Gradient norm clipped at"),
    ("warmup_steps", "Warm-up steps"),
    ("final_lr_ratio", "Last learning rate / peak (cosine)"),
    ("seeds", "Seeds"),
    ("dtype", "Precision"),
)
LABELS = {
    "unk_rate": "<unk> rate",
    "train_unk_rate": "<unk> rate, training",
    "validation_unk_rate": "<unk> rate, validation",
    "cpu": "CPU",
    "cpu_count": "CPU cores",
    "gpu": "GPU",
    "git_commit": "Git commit",
    "git_dirty": "Uncommitted changes",
    "resnet_bk": "ResNet-BK",
    "python": "Python",
}


def write_report(results: dict[str, Any], out: Path) -> Path:
    """Write ``out/report.html`` and ``out/plots/*.png``.

    Args:
        results: the content of ``results.json``.
        out: the folder of the benchmark; made if it does not exist.

    Returns:
        The path of the page.

    Raises:
        ValueError: one line that names what ``results`` lacks, or why ``out`` is no folder to write in.
        OSError: the disk is full or fails.
    """
    parsed = parse_results(results)
    plots = draw_plots(results)
    page = render_report(parsed, plots)
    folder = out / "plots"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in plots:
            replace_file(folder / f"{plot.name}.png", plot.png)
        for name in set(PLOT_NAMES) - {plot.name for plot in plots}:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report on other results
        replace_file(out / "report.html", page.encode())
    except OSError as error:
        if error.errno not in OF_THE_FOLDER:
            raise
        raise ValueError(f"out={str(out)!r}: {error.strerror or error}; give a folder that you can write to") from error
    return out / "report.html"


def render_report(results: Results, plots: list[Plot]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(fmt, name)
        for name in ("perplexity", "spread", "decimal", "significant", "rates", "count", "flops", "memory", "duration")
    } | {"percent": fmt.percent, "p_value": fmt.p_value, "settings": _settings_text}
    models = summarize(results)
    return environment.get_template("report.html.j2").render(_context(results, models, plots))


def _context(results: Results, models: list[ModelSummary], plots: list[Plot]) -> dict[str, Any]:
    reference = reference_model(models)
    order = ranked(models)
    styles = styles_by_model([model.name for model in models])
    best = best_of(order)
    protocol = results.protocol
    entries = protocol.get("models")
    tokens = {sum(bucket.tokens for bucket in run.buckets) for model in order for run in model.runs if run.buckets}
    unknown = [run.unk_rate for model in models for run in model.runs if run.unk_rate is not None]
    tested = {run.model_name for run in results.runs if run.test_perplexity is not None}
    return {
        "name": str(protocol.get("name", "bench")),
        "description": protocol.get("description"),
        "long": LONG,
        "findings": find(results, models),
        "models": models,
        "order": order + [model for model in models if model.perplexity is None],
        "largest": max((model.perplexity.mean for model in order if model.perplexity), default=1.0),
        "reference": reference,
        "best": best,
        "ratios": {} if reference is None else {model.name: perplexity_ratio(model, reference) for model in order},
        "variables": {name: style.variable for name, style in styles.items()},
        "over_seeds": _over_seeds(models),
        "several_seeds": any(len(model.runs) > 1 for model in models),
        "seeds": sorted({seed for model in models for seed in model.seeds}),
        "any_test": any(model.name in tested for model in order),
        "test_was_read": bool(tested) or (results.ngrams is not None and results.ngrams.split == "test"),
        "any_test_carry": any(run.test_perplexity_without_carry is not None for model in order for run in model.runs),
        "any_carry": any(model.without_carry for model in models),
        "any_windows": any(model.overlapping for model in models),
        "settings": _settings(protocol),
        "entries": entries if isinstance(entries, dict) else {},
        "sources": rate_sources(results),
        "own_optimizers": own_optimizers(results),
        "buckets": _bucket_table(order),
        "epochs": _epoch_table(models),
        "ngrams": results.ngrams,
        "memory_kinds": sorted({run.peak_memory_kind for run in results.runs if run.peak_memory_kind}),
        "plots": {plot.name: plot for plot in plots},
        "svgs": {plot.name: Markup(plot.svg) for plot in plots},  # its text is escaped by the XML writer
        "held_out_tokens": tokens.pop() if len(tokens) == 1 else None,
        "unk_rate": sum(unknown) / len(unknown) if unknown else None,
        "data": _rows(results.data, skip=("description", "bucket_names", "document_tokens")),
        "data_description": results.data.get("description"),
        "environment": _rows(_environment(results)),
        "protocol_text": yaml.safe_dump(_plain(protocol), sort_keys=False, allow_unicode=True, width=100),
    }


def _over_seeds(models: list[ModelSummary]) -> str:
    """A sentence: which seeds the figures are of. Where models were not trained on the same ones, it says who has
    which."""
    names: dict[tuple[int, ...], list[str]] = {}
    for model in models:
        names.setdefault(model.seeds, []).append(model.name)
    listed = {seeds: ", ".join(map(str, seeds)) for seeds in names}
    alike = len(names) == 1
    which = (
        listed[models[0].seeds] if alike else "; ".join(f"{', '.join(of)}: {listed[on]}" for on, of in names.items())
    )
    fewest, most = min(map(len, names)), max(map(len, names))
    if most == 1:
        return f"One seed{'' if alike else ' a model'} ({which}), no spread."
    over = f"seeds {which}" if alike else f"seeds of each model ({which})"
    alone = "; one seed has no spread" if fewest == 1 else ""
    return f"Mean ± sample standard deviation over the {over}{alone}; costs are means."


def _bucket_table(order: list[ModelSummary]) -> list[dict[str, Any]]:
    columns = {model.name: model.bucket_perplexities() for model in order}
    alike = len({model.seeds for model in order}) == 1  # else the lowest may owe it to its seeds
    rows: dict[str, dict[str, Any]] = {}
    for model in order:
        for bucket in model.runs[0].buckets:
            rows.setdefault(bucket.name, {"name": bucket.name, "tokens": bucket.tokens})
    for name, row in rows.items():
        row["values"] = {model: buckets.get(name) for model, buckets in columns.items()}
    total = sum(row["tokens"] for row in rows.values())
    for where, field in (("", "known_words"), (", in overlapping windows", "known_words_overlapping")):
        figures = {model.name: getattr(model, field) for model in order}
        if any(figures.values()):
            rows[field] = {
                "name": f"all but {UNKNOWN_BUCKET}{where}",
                "tokens": total - rows[UNKNOWN_BUCKET]["tokens"],
                "values": {model: found and found.mean for model, found in figures.items()},
            }
    for row in rows.values():
        row["share"] = row["tokens"] / total if total else None
        known = {model: value for model, value in row["values"].items() if value is not None}
        row["best"] = min(known, key=known.__getitem__) if alike and len(known) > 1 else None
    return list(rows.values())


def _epoch_table(models: list[ModelSummary]) -> list[dict[str, Any]]:
    """A row an epoch and model, means over its seeds (perplexity: of the mean loss)."""
    rows = []
    for model in models:
        for index in range(min(len(run.epoch_losses) for run in model.runs)):
            loss = fmean(run.epoch_losses[index] for run in model.runs)
            time = fmean(run.epoch_times[index] for run in model.runs)
            rows.append(
                {"model": model, "epoch": index + 1, "loss": loss, "perplexity": perplexity(loss), "time": time}
            )
    return rows


def _settings(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of what was set. Where steps say how long the training is, epochs are not read, nor how words are
    split where the tokenizer exists already."""
    unread = [] if protocol.get("steps") is None else ["epochs"]
    if protocol.get("tokenizer", TRAINED[0]) not in TRAINED:
        unread.append("pre_tokenizer")
    given = {key: value for key, value in protocol.items() if value is not None and key not in unread}
    return [(label, _shown(given[key])) for key, label in SETTINGS if key in given]


def _environment(results: Results) -> dict[str, Any]:
    """Where the runs were trained and evaluated; what differs between them is listed, in the order of the runs."""
    places = [place for run in results.runs for place in run.environments + run.evaluated_in]
    places = places or [results.environment]
    keys = dict.fromkeys(key for place in places for key in place)
    shown = {
        key: list(dict.fromkeys(_shown(place[key]) for place in places if place.get(key) is not None)) for key in keys
    }
    return {key: "; ".join(values) for key, values in shown.items() if values and values != [""]}


def _rows(mapping: dict[str, Any], skip: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Label and value of each entry that is known, nested mappings in one line."""
    rows = []
    for key, value in mapping.items():
        if key not in skip and value is not None and value != {}:
            label = LABELS.get(key, key.replace("_", " ").capitalize())
            rows.append((label, _shown(value)))
    return sorted(rows, key=lambda row: len(row[1]) > LONG)  # those that take a line of their own last


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return fmt.count(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1 else f"{value:,.10g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    return str(value)


def _settings_text(entry: Any) -> str:
    """A model's own settings, those that are set."""
    if not isinstance(entry, dict):
        return ""
    told = {"learning_rate", "learning_rate_source", "carry_state"}  # have columns of their own
    usual = {name: field.default for name, field in ModelEntry.model_fields.items()}
    own = {
        key: value
        for key, value in entry.items()
        if key not in told and value not in (None, {}, []) and usual.get(key) != value
    }
    config = own.pop("config", {})
    parts = own | (config if isinstance(config, dict) else {"config": config})
    return ", ".join(f"{key} {_shown(value)}" for key, value in parts.items())


def _plain(value: Any) -> Any:
    """Only what YAML's safe writer knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
