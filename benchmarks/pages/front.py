"""Writes the README's first table from results/: ResNet-BK beside Llama, by what both may read and with which pointer.

    python -m benchmarks.pages.front [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench`, by default those in results/ of the columns; one of a protocol NAME-times
gives the times of column NAME, and one of `quick-pointer` further models of `quick`. Without times of its own a column
shows those of its runs, which must then have had the machine for themselves.
--check writes nothing and exits with code 1 if the README differs from them.
"""

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.command import guarded
from benchmarks.pages.page import by_model, one_machine, page_writer, replace_all, table
from benchmarks.pages.readme import PAGE, ROOT
from resnet_bk.bench.report import formatting as fmt

PLACE = "front"
# Protocol of a column: its text, in words.
COLUMNS = {
    "seed-local-tuned": "articles on Kyoto; {} words",
    "small": "the same; {} subwords",
    "quick": "Wikipedia introductions; {} words",
}
MORE_MODELS = {"quick-pointer": "quick"}
TIMES = "-times"
SUITES = ("seed-local-tuned", "seed-local-tuned-times", "small", "small-times", "quick", "quick-pointer")
FILES = [ROOT / "results" / suite / "results.json" for suite in SUITES]

ALONE, CARRIED, WINDOWS = (
    "held_out_perplexity_without_carry",
    "held_out_perplexity",
    "held_out_perplexity_overlapping",
)
OURS, LLAMA = ("resnet-bk", "no-pointer"), ("llama-pointer", "llama")  # with the pointer and without
PAIRS = {
    "overlapping windows, no pointer": (WINDOWS, OURS[1], LLAMA[1]),
    "overlapping windows, both with the pointer": (WINDOWS, OURS[0], LLAMA[0]),
    "state not carried, no pointer": (ALONE, OURS[1], LLAMA[1]),
    "state not carried, both with the pointer": (ALONE, OURS[0], LLAMA[0]),
    "state carried, no pointer": (CARRIED, OURS[1], LLAMA[1]),
    "state carried, both with the pointer": (CARRIED, OURS[0], LLAMA[0]),
    "state carried, only ResNet-BK with the pointer": (CARRIED, OURS[0], LLAMA[1]),
}
MEASURES = {
    "time of a training step, over Llama's": "seconds_per_step",
    "memory of the training, over Llama's": "peak_memory_mb",
}

Runs = list[dict[str, Any]]


class Column(NamedTuple):
    """What is known of a protocol: its results, the runs of each model, and those that are timed."""

    results: Mapping[str, Any]
    models: Mapping[str, Runs]
    timed: Mapping[str, Runs]


def columns(results: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns by protocol, in the order of `COLUMNS`.

    Raises:
        ValueError: results of no column, a column without results, or times of several machines.
    """
    by_name = {found["protocol"]["name"]: found for found in results}
    known = {*COLUMNS, *MORE_MODELS, *(name + TIMES for name in COLUMNS)}
    if strange := by_name.keys() - known:
        raise ValueError(
            f"the table has no place for {', '.join(sorted(strange))}; name results of {', '.join(sorted(known))}"
        )
    if missing := [name for name in COLUMNS if name not in by_name]:
        raise ValueError(f"the table lacks {', '.join(missing)}; name their results too")
    found = {}
    for name in COLUMNS:
        models = by_model(by_name[name])
        for other, column in MORE_MODELS.items():
            if column == name and other in by_name:
                # The models of the protocol itself come first where both have them.
                models = by_model(by_name[other]) | models
        times = by_name.get(name + TIMES, by_name[name])
        one_machine(times)
        found[name] = Column(by_name[name], models, by_model(times))
    return found


def pair(column: Column, key: str, ours: str, other: str) -> str:
    """`ours / other (ratio)`, means over the seeds that both have, the lower one bold; fewer seeds than the column has
    are told."""
    seeds = set.intersection(*({run["seed"] for run in column.models.get(name, ())} for name in (ours, other)))
    means = []
    for name in (ours, other):
        # Where no state is carried every segment stands alone as it is.
        values = [
            run[key] if run[key] is not None or key != ALONE else run[CARRIED]
            for run in column.models.get(name, ())
            if run["seed"] in seeds
        ]
        if not values or any(value is None for value in values):
            return fmt.MISSING
        means.append(fmean(values))
    first, second = map(fmt.perplexity, means)
    if first != second:  # as printed
        first, second = (f"**{first}**", second) if means[0] < means[1] else (first, f"**{second}**")
    cell = f"{first} / {second} ({means[0] / means[1]:.2f})"
    return cell if len(seeds) == len(column.models[OURS[0]]) else f"{cell}, {len(seeds)} seed{'s' * (len(seeds) != 1)}"


def over(runs: Mapping[str, Runs], key: str) -> str:
    """Of ResNet-BK over that of Llama, means over the seeds."""
    first, second = (fmean(run[key] for run in runs[name]) for name in (OURS[0], LLAMA[1]))
    return f"{first / second:.2f}"


def rows(found: Mapping[str, Column]) -> str:
    """The table."""
    lines = {
        "text; vocabulary": [text(name, column) for name, column in found.items()],
        "training tokens; parameters; tokens a segment; seeds": [size(column) for column in found.values()],
    }
    for label, chosen in PAIRS.items():
        lines[label] = [pair(column, *chosen) for column in found.values()]
    for label, key in MEASURES.items():
        lines[label] = [over(column.timed, key) for column in found.values()]
    return table(("", *(f"`{name}`" for name in found)), [(label, *cells) for label, cells in lines.items()])


def text(name: str, column: Column) -> str:
    return COLUMNS[name].format(fmt.count(column.results["data"]["vocab_size"]))


def size(column: Column) -> str:
    runs = column.models[OURS[0]]
    counts = column.results["data"]["train_tokens"], runs[0]["parameters"]
    tokens, parameters = (f"{count / 1e6:.1f}M" for count in counts)
    return f"{tokens}; {parameters}; {column.results['protocol']['sequence_length']}; {len(runs)}"


main = page_writer(
    "front", __doc__, PAGE, FILES, lambda page, found: replace_all(page, PLACE, {"table": rows(columns(found))})
)

if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
