"""The table of a recall benchmark."""

from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.report.formatting import MISSING


def recall_table(results: dict[str, Any]) -> Table:
    """Accuracy of every model on every test, over the seeds, and below it what to beware of."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        by_model.setdefault(run["model_name"], []).append(run)
    table = Table(
        title="Multi-query associative recall: share of the questions answered",
        caption=Text("\n".join(_notes(results, by_model))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("model", "state", "parameters", "lr"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for kind in results["protocol"]["test"]:
        table.add_column(f"{kind['length']}\n{kind['pairs']} pairs", justify="right")
    for model, runs in by_model.items():
        first = runs[0]
        name = model if all(run["audit"] == "causal" for run in runs) else f"{model} (leaks)"
        cells = [_over_seeds([run["accuracy"][place] for run in runs]) for place in range(len(first["accuracy"]))]
        table.add_row(name, _state(first), f"{first['parameters']:,}", f"{first['learning_rate']:g}", *cells)
    return table


def _state(run: dict[str, Any]) -> str:
    if run["state_numbers"] is not None:
        return f"{run['state_numbers']:,}"
    return "grows" if run["attention"] else MISSING


def _over_seeds(values: list[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _notes(results: dict[str, Any], by_model: dict[str, list[dict[str, Any]]]) -> list[str]:
    longest = max(kind["length"] for kind in results["protocol"]["train"])
    seeds = ", ".join(f"{model} {len(runs)}" for model, runs in by_model.items())
    lines = [f"Seeds: {seeds}." if by_model else "No model has finished its grid of learning rates."]
    if any(len(runs) == 1 for runs in by_model.values()):
        lines.append("One seed says little: a run of this task often recalls all or nothing.")
    if any(kind["length"] > longest for kind in results["protocol"]["test"]):
        lines.append(f"Beyond {longest} tokens a test is of the length too: nothing was trained there.")
    for model, (first, *_) in by_model.items():
        rates = [tried["learning_rate"] for tried in first["learning_rates_tried"]]
        if len(rates) > 1 and first["learning_rate"] in (min(rates), max(rates)):
            lines.append(f"{model}: its rate is at the end of the grid; another might be better.")
    return lines + [f"{found['title']}: diverged, no figures." for found in results["diverged"]]
