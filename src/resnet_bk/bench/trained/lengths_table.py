"""The table of perplexity by place."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.report import formatting as fmt


def lengths_table(result: dict[str, Any]) -> Table:
    """A row a reading of a model, a column a stretch, which begins where the one before ends."""
    count = result["documents"]
    table = Table(
        title=Text(
            f"{result['dataset_name']}, {result['split']}: perplexity by place, first {result['tokens']:,} tokens of "
            f"{count} document{'s' * (count != 1)}"
        ),
        caption=Text("\n".join(_notes(result))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("up to token", no_wrap=True)
    for _, stop in result["places"]:
        table.add_column(f"{stop:,}", justify="right", no_wrap=True)
    for model in result["models"]:
        table.add_row(Text(f"{model['model_name']}, seed {model['seed']}", style="bold"))
        for reading in model["readings"]:
            values = [None] * len(result["places"]) if reading["problem"] else reading["perplexity"]
            table.add_row(reading["name"], *map(fmt.perplexity, values))
        table.add_section()
    return table


def _notes(result: dict[str, Any]) -> list[str]:
    lines = ["carried: one stream; window W: every token has W/2 to W tokens before it and nothing else."]
    if result["documents"] == 1:
        lines.append("One document: what one text does at a place, others may not.")
    for model in result["models"]:
        name, segment = model["model_name"], model["segment"]
        lines.append(f"{name}: trained on segments of {segment:,}, carries {model['carries']}.")
        if model["carries"] == "keys and values":
            lines.append(f"{name}: positions beyond {segment:,}, in carried and longer windows, were never trained.")
        done = [reading for reading in model["readings"] if not reading["problem"]]
        if done:
            times = ", ".join(f"{reading['name']} {fmt.duration(reading['seconds'])}" for reading in done)
            lines.append(f"{name}: {times}.")
        lines += [f"{name}, {found['name']}: {found['problem']}." for found in model["readings"] if found["problem"]]
    return lines
