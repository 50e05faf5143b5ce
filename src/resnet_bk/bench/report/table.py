"""The table of results on the terminal."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import ModelSummary, Spread, best_of, ranked, summarize
from resnet_bk.figures import clock


def results_table(results: dict[str, Any]) -> Table:
    """One row a model, means over seeds, the best perplexity bold; 100 columns wide at most for usual names.

    A model that failed the causality audit shows ``leaks`` in the place of its perplexity.

    Raises:
        ValueError: one line that names what ``results`` lacks.
    """
    parsed = parse_results(results)
    models = summarize(parsed)
    best = best_of(ranked(models))

    table = Table(
        title=Text(f"{parsed.protocol.get('name', 'bench')} on {parsed.data.get('name', 'its data')}"),
        caption=Text(_caption(models)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        show_edge=False,
    )
    table.add_column("model", overflow="fold", min_width=9)
    views = _any_views(models)
    headers = ["held-out\nperplexity", "train\nperpl.", "bits/\nchar", "params\nno emb.", "steps"]
    headers[1:1] = ["no carry\nwindows"] if views else []
    for header in (*headers, "lr", "s/step\ntok/s", "time", "peak\nMiB"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("audit", no_wrap=True)
    for model in models:
        table.add_row(*_row(model, views), style="bold" if model.name == best else "")
    return table


def _any_views(models: list[ModelSummary]) -> bool:
    return any(model.without_carry or model.overlapping for model in models)


def _row(model: ModelSummary, views: bool) -> list[Text]:
    first = model.runs[0]
    leaks = model.state == "leaks"
    figure = fmt.spread(model.perplexity) if model.state == "ranked" else model.state
    bits = fmt.decimal(model.mean("bits_per_character"), 3) if model.state == "ranked" else fmt.MISSING
    time = model.mean("training_time")
    return [
        Text(model.name),
        Text(figure, style="red" if model.state != "ranked" else ""),
        *([Text(f"{_mean(model.without_carry)}\n{_mean(model.overlapping)}")] if views else []),
        Text(fmt.perplexity(model.mean("final_perplexity"))),
        Text(bits),
        Text(f"{fmt.short_count(first.parameters)}\n{fmt.short_count(first.parameters_without_embeddings)}"),
        Text(fmt.count(first.steps)),
        Text(fmt.rates(model.learning_rates)),
        Text(f"{fmt.significant(model.mean('seconds_per_step'))}\n{fmt.short_count(model.mean('tokens_per_second'))}"),
        Text(fmt.MISSING if time is None else clock(time)),
        Text(fmt.count(model.mean("peak_memory_mb"))),
        Text("leaks" if leaks else "causal", style="red" if leaks else ""),
    ]


def _mean(figure: Spread | None) -> str:
    return fmt.perplexity(None if figure is None else figure.mean)


def _caption(models: list[ModelSummary]) -> str:
    counts = {len(model.runs) for model in ranked(models)}
    if not counts:
        seeds = "of no model here"
    elif counts == {1}:
        seeds = "one seed, no spread"
    else:
        shown = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        seeds = f"mean ± sample standard deviation over {shown} seeds"
    unknown = [run.unk_rate for model in models for run in model.runs if run.unk_rate]
    # A vocabulary that misses much of the text makes for a low perplexity.
    share = (
        f"{fmt.percent(max(unknown), 2)} of the held-out tokens are <unk>, one word to all models.\n" if unknown else ""
    )
    views = "No carry: state reset at each segment. Windows: overlapping by half, no state handed on.\n"
    return (
        f"Held-out perplexity: over the whole split ({seeds}); lower is better.\n"
        f"{share}"
        f"{views if _any_views(models) else ''}"
        "Training perplexity: over the last epoch, while the model learns from it; no result."
    )
