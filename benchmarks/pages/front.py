"""Writes the README's first table from results/: ResNet-BK beside Llama, by what both may read and with which pointer.

    python -m benchmarks.pages.front [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench`, by default those in results/ of the table's protocols; one of a protocol
NAME-times gives the times of NAME, and one of `quick-pointer` further models of `quick`. Without times of its own a
protocol shows those of its runs, which must then have had the machine for themselves.
--check writes nothing and exits with code 1 if the README differs from them.
"""

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.command import guarded
from benchmarks.pages.comparison import MORE_MODELS, with_more
from benchmarks.pages.page import by_model, one_machine, page_writer, replace_all, table
from benchmarks.pages.readme import PAGE, ROOT
from resnet_bk.bench.report import formatting as fmt

PLACE = "front"
# Protocol: its text, in words.
TEXTS = {
    "seed-local-tuned": "Kyoto articles, {} words",
    "small": "Kyoto articles, {} subwords",
    "quick": "Wikipedia introductions, {} words",
}
TIMES = "-times"
SUITES = ("seed-local-tuned", "seed-local-tuned-times", "small", "small-times", "quick", "quick-pointer")
FILES = [ROOT / "results" / suite / "results.json" for suite in SUITES]

ALONE, CARRIED, WINDOWS = (
    "held_out_perplexity_without_carry",
    "held_out_perplexity",
    "held_out_perplexity_overlapping",
)
OURS, LLAMA = ("resnet-bk", "no-pointer"), ("llama-pointer", "llama")  # with the pointer and without
VIEWS = {"overlapping windows": WINDOWS, "state not carried": ALONE, "state carried": CARRIED}
POINTERS = {"neither": 1, "both": 0}  # the place in OURS and LLAMA

Runs = list[dict[str, Any]]


class Entry(NamedTuple):
    """What is known of a protocol: its results, the runs of each model, and those that are timed."""

    results: Mapping[str, Any]
    models: Mapping[str, Runs]
    timed: Mapping[str, Runs]


def entries(results: Sequence[Mapping[str, Any]]) -> dict[str, Entry]:
    """What the table shows by protocol, in the order of `TEXTS`.

    Raises:
        ValueError: results of no such protocol, a protocol without results, or times of several machines.
    """
    by_name = {found["protocol"]["name"]: found for found in results}
    known = {*TEXTS, *MORE_MODELS, *(name + TIMES for name in TEXTS)}
    if strange := by_name.keys() - known:
        raise ValueError(
            f"the table has no place for {', '.join(sorted(strange))}; name results of {', '.join(sorted(known))}"
        )
    if missing := [name for name in TEXTS if name not in by_name]:
        raise ValueError(f"the table lacks {', '.join(missing)}; name their results too")
    found = {}
    for name in TEXTS:
        entry = by_name[name]
        for other, of in MORE_MODELS.items():
            if of == name and other in by_name:
                entry = with_more(entry, by_name[other])
        models = by_model(entry)
        times = by_name.get(name + TIMES, by_name[name])
        one_machine(times)
        found[name] = Entry(by_name[name], models, by_model(times))
    return found


def pair(entry: Entry, key: str, ours: str, other: str) -> str:
    """`ours / other (ratio)`, means over the seeds that both have, the lower one bold; where these are fewer than the
    protocol has, how many."""
    seeds = set.intersection(*({run["seed"] for run in entry.models.get(name, ())} for name in (ours, other)))
    means = []
    for name in (ours, other):
        # Where no state is carried every segment stands alone as it is.
        values = [
            run[CARRIED] if key == ALONE and not run["carry_state"] else run[key]
            for run in entry.models.get(name, ())
            if run["seed"] in seeds
        ]
        if not values or any(value is None for value in values):
            return fmt.MISSING
        means.append(fmean(values))
    first, second = map(fmt.perplexity, means)
    if first != second:  # as printed
        first, second = (f"**{first}**", second) if means[0] < means[1] else (first, f"**{second}**")
    cell = f"{first} / {second} ({means[0] / means[1]:.2f})"
    return cell if len(seeds) == len(entry.models[OURS[0]]) else f"{cell}, {len(seeds)} seed{'s' * (len(seeds) != 1)}"


def over(runs: Mapping[str, Runs], key: str) -> str:
    """Of ResNet-BK over that of Llama, means over the seeds."""
    first, second = (fmean(run[key] for run in runs[name]) for name in (OURS[0], LLAMA[1]))
    return f"{first / second:.2f}"


def rows(found: Mapping[str, Entry]) -> str:
    """The table, two lines a protocol, and a sentence on time and memory."""
    lines = []
    for name, entry in found.items():
        labels = f"**{text(name, entry)}** (`{name}`)", size(entry)
        for label, (pointer, place) in zip(labels, POINTERS.items(), strict=True):
            cells = [pair(entry, key, OURS[place], LLAMA[place]) for key in VIEWS.values()]
            lines.append((label, pointer, *cells))
    timed = [over(entry.timed, "seconds_per_step") for entry in found.values()]
    memory = [over(entry.timed, "peak_memory_mb") for entry in found.values()]
    costs = (
        f"In this order a training step of ResNet-BK with the pointer takes {listed(timed)} times as long as one of "
        f"Llama without, and {listed(memory)} times its memory."
    )
    return f"{table(('ResNet-BK / Llama (ratio)', 'pointer', *VIEWS), lines)}\n\n{costs}"


def listed(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def text(name: str, entry: Entry) -> str:
    return TEXTS[name].format(fmt.count(entry.results["data"]["vocab_size"]))


def size(entry: Entry) -> str:
    runs = entry.models[OURS[0]]
    counts = entry.results["data"]["train_tokens"], runs[0]["parameters"]
    tokens, parameters = (f"{count / 1e6:.1f}M" for count in counts)
    length = entry.results["protocol"]["sequence_length"]
    return f"{tokens} tokens, {parameters} parameters, segments of {length}, {len(runs)} seeds"


main = page_writer(
    "front", __doc__, PAGE, FILES, lambda page, found: replace_all(page, PLACE, {"table": rows(entries(found))})
)

if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
