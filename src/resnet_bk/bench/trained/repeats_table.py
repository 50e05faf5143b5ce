"""The table of losses by kind of token."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.trained.opened_run import folders_to_tell


def repeats_table(result: dict[str, Any]) -> Table:
    """A row a kind of token, a column a model."""
    table = Table(
        title=Text(f"{result['dataset_name']}, {result['split']}: nats a token, by what the window held before"),
        caption=Text(
            f"Windows of {result['window']:,} tokens, each from an empty state; their second halves, "
            f"{result['tokens']:,} tokens. repeated: the word before and this one stood together before."
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("token")
    table.add_column("share", justify="right")
    for model, folder in zip(result["models"], folders_to_tell(result["models"]), strict=True):
        label = f"{model['model_name']}\nseed {model['seed']}" + ("" if folder is None else f"\n{folder}")
        table.add_column(Text(label), justify="right", overflow="fold")
    for place, kind in enumerate(result["kinds"]):
        losses = (model["losses"][place] for model in result["models"])
        table.add_row(kind["name"], f"{kind['share']:.1%}", *(fmt.decimal(loss, 3) for loss in losses))
    table.add_row("all", fmt.MISSING, *(fmt.decimal(model["loss"], 3) for model in result["models"]))
    return table
