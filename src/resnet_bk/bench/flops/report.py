"""What `resnet-bk flops` prints: the counts of a model or of a protocol's models, as a dict and as tables."""

from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.flops.count import depends_on_text, step_flops
from resnet_bk.bench.protocol import Protocol
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.bench.trained.positions import check_positions

PHASES = ("forward_flops", "backward_flops", "optimizer_flops", "total_flops_per_step", "total_training_flops")


def protocol_steps(protocol: Protocol) -> int | None:
    """Steps of a run, as far as the protocol alone says; where it has no `steps`, those of a text that is as long as
    `data_limit`. None where that is open too."""
    if protocol.steps is not None or protocol.data_limit is None:
        return protocol.steps
    # As resnet_bk.data.TokenStream cuts a text into batches.
    return protocol.epochs * ((protocol.data_limit - 1) // protocol.batch_size // protocol.sequence_length)


def model_flops(model: Any, protocol: Protocol, name: str | None = None, steps: int | None = None) -> dict[str, Any]:
    """Counts of a model for the batches and steps of a protocol.

    What a model skips by the text (`counted_on`) is that of random words and of the weights that it has.

    Args:
        model: a causal LM of `transformers`.
        protocol: its batch_size, sequence_length, steps and optimizer are read.
        name: of the model in the protocol, where it is there; it may have an optimizer of its own.
        steps: of a run that is done; None for what the protocol says.

    Raises:
        ValueError: segments longer than the model's positions, or an optimizer that has no use for it.
    """
    check_positions(model, protocol)
    words = None
    if depends_on_text(model.config):
        shape = (protocol.batch_size, protocol.sequence_length)
        words = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    optimizer = protocol.optimizer_of(name)
    found = step_flops(model, protocol.batch_size, protocol.sequence_length, words, optimizer=optimizer)
    steps = protocol_steps(protocol) if steps is None else steps
    counts = found.as_dict()
    for count in (counts, counts["flops_convention"]):
        if count is not None:
            count["total_training_flops"] = None if steps is None else steps * count["total_flops_per_step"]
    return {
        "model_type": model.config.model_type,
        "parameters": count_parameters(model).total,
        "batch_size": protocol.batch_size,
        "sequence_length": protocol.sequence_length,
        "steps": steps,
        "counted_on": "any words" if words is None else "random words, with these weights",
        **counts,
        "by_operator": {
            name: {"forward_flops": forward, "backward_flops": backward}
            for name, (forward, backward) in found.by_operator.items()
        },
    }


def comparison_table(title: str, counted: dict[str, dict[str, Any]]) -> Table:
    """One row a model."""
    columns = ("parameters", *PHASES[:4])
    table = Table(title=Text(title))
    table.add_column("model")
    for column in columns:
        table.add_column(_words(column), justify="right")
    for name, numbers in counted.items():
        table.add_row(name, *(f"{numbers[column]:,}" for column in columns))
        if numbers["flops_convention"] is not None:
            shown = {"parameters": numbers["parameters"]} | numbers["flops_convention"]
            table.add_row("  as the report counts", *(f"{shown[column]:,}" for column in columns))
    return table


def model_tables(name: str, counted: dict[str, Any]) -> list[str | Table]:
    """The report's count row by row where it applies, FlopCounterMode's by operator, and the two side by side; a line
    of title before each."""
    shape = f"one step of {counted['batch_size']} x {counted['sequence_length']} tokens"
    if counted["counted_on"] != "any words":
        shape += f" ({counted['counted_on']})"
    convention = counted["flops_convention"]
    tables: list[str | Table] = []
    if convention is not None:
        table = _table("component", "times", "forward", "backward")
        for row in convention["components"]:
            numbers = (row["times"], row["forward_flops"], row["backward_flops"])
            table.add_row(row["component"], *(f"{number:,}" for number in numbers))
        table.add_section()
        table.add_row("a layer", "1", f"{convention['forward_flops_per_layer']:,}", "")
        table.add_row("sum", "", f"{convention['forward_flops']:,}", f"{convention['backward_flops']:,}")
        tables += [f"{name}: the earlier report's count, {shape}", table]
    table = _table("operator", "forward", "backward")
    for operator, numbers in counted["by_operator"].items():
        table.add_row(operator, f"{numbers['forward_flops']:,}", f"{numbers['backward_flops']:,}")
    table.add_section()
    table.add_row("sum", f"{counted['forward_flops']:,}", f"{counted['backward_flops']:,}")
    tables += [f"{name}: counted by FlopCounterMode, {shape}", table]

    columns = ["counted"] if convention is None else ["the report's", "counted", "counted / the report's"]
    table = _table("FLOPs", *columns)
    for phase in PHASES:
        number = counted[phase]
        if number is None:
            continue
        words = f"training of {counted['steps']:,} steps" if phase == PHASES[-1] else _words(phase)
        cells = [f"{number:,}"]
        if convention is not None:
            cells = [f"{convention[phase]:,}", *cells, f"{number / convention[phase]:.5f}"]
        table.add_row(words, *cells)
    return [*tables, f"{name}: {counted['parameters']:,} parameters", table]


def _words(key: str) -> str:
    return key.replace("_flops", "").replace("_", " ")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
