"""The table of perplexity by place."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.trained.opened_run import folders_to_tell


def lengths_table(result: dict[str, Any]) -> Table:
    """A row a reading of a model, a column a stretch, which begins where the one before ends."""
    folders = folders_to_tell(result["models"])
    count = result["documents"]
    table = Table(
        title=Text(
            f"{result['dataset_name']}, {result['split']}: perplexity by place, first {result['tokens']:,} tokens of "
            f"{count} document{'s' * (count != 1)}"
        ),
        caption=Text("\n".join(_notes(result, folders))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    # A path is folded, or it would push figures out.
    table.add_column("up to token", no_wrap=folders.count(None) == len(folders), overflow="fold")
    for _, stop in result["places"]:
        table.add_column(f"{stop:,}", justify="right", no_wrap=True)
    for model, folder in zip(result["models"], folders, strict=True):
        label = f"{model['model_name']}, seed {model['seed']}"
        table.add_row(Text(label if folder is None else f"{label}: {folder}", style="bold"))
        for reading in model["readings"]:
            values = [None] * len(result["places"]) if reading["problem"] else reading["perplexity"]
            table.add_row(reading["name"], *map(fmt.perplexity, values))
        table.add_section()
    return table


def _notes(result: dict[str, Any], folders: list[str | None]) -> list[str]:
    lines = ["carried: one stream; window W: every token has W/2 to W tokens before it and nothing else."]
    if result["documents"] == 1:
        lines.append("One document: what one text does at a place, others may not.")
    for model, folder in zip(result["models"], folders, strict=True):
        name, segment = model["model_name"], model["segment"]
        name = name if folder is None else f"{name}, {folder}"
        carried = all(reading["problem"] is None for reading in model["readings"] if reading["name"] == "carried")
        what = f", carries {model['carries']}" if carried else ""
        lines.append(f"{name}: trained on segments of {segment:,}{what}.")
        if model["carries"] == "keys and values":
            lines.append(f"{name}: positions beyond {segment:,}, in carried and longer windows, were never trained.")
        done = [reading for reading in model["readings"] if not reading["problem"]]
        if done:
            times = ", ".join(f"{reading['name']} {fmt.duration(reading['seconds'])}" for reading in done)
            lines.append(f"{name}: {times}.")
        lines += [f"{name}, {found['name']}: {found['problem']}." for found in model["readings"] if found["problem"]]
    return lines
