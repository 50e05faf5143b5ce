"""Writes two tables of the README from results/, ResNet-BK beside Llama: the ratios of their perplexities where both
read the same text, and every figure by what may be read and with which pointer.

    python -m benchmarks.pages.front [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench`, by default those in results/ of the tables' protocols; one of a protocol
NAME-times gives the times of NAME, and one of `quick-pointer` further models of `quick`. Without times of its own a
protocol shows those of its runs, which must then have had the machine for themselves; one without ResNet-BK with the
pointer shows none, nor does one whose runs are known to have shared the machine (`SHARED`).
--check writes nothing and exits with code 1 if the README differs from them.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.command import guarded
from benchmarks.pages.comparison import MORE_MODELS, with_more
from benchmarks.pages.page import by_model, by_protocol, need_perplexity, one_machine, page_writer, replace_all, table
from benchmarks.pages.readme import PAGE, ROOT
from resnet_bk.bench.report import formatting as fmt

PLACE = "front"
# Protocol: its text, in words.
TEXTS = {
    "quick": "Wikipedia introductions, {} words",
    "books": "books (held out: one novel), {} words",
    "seed-local-tuned": "Kyoto articles, {} words",
    "small": "Kyoto articles, {} subwords",
}
TIMES = "-times"
SHARED = ("books",)  # whose trainings stood beside each other, some of them on other machines
SUITES = (*TEXTS, "quick-pointer", "seed-local-tuned-times", "small-times")
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
    """What is known of a protocol: its results, the runs of each model, and those that are timed, if there are."""

    results: Mapping[str, Any]
    models: Mapping[str, Runs]
    timed: Mapping[str, Runs] | None

    @property
    def ours(self) -> Runs:
        """The runs that the others are counted by: of ResNet-BK with the pointer, where there are, or without."""
        return next(self.models[name] for name in OURS if name in self.models)


def entries(results: Sequence[Mapping[str, Any]]) -> dict[str, Entry]:
    """What the table shows by protocol, in the order of `TEXTS`.

    Raises:
        ValueError: results of no such protocol, a protocol without results or without ResNet-BK, a model of the table
            that leaks, or times of several machines.
    """
    by_name = by_protocol(results)
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
        if not models.keys() & {*OURS}:
            raise ValueError(f"the results of {name} have no {' or '.join(OURS)}; train one of them")
        for model in (*OURS, *LLAMA):
            need_perplexity(name, models.get(model, []))
        times = by_name.get(name + TIMES, None if name in SHARED else by_name[name])
        timed = {} if times is None else by_model(times)
        if times is not None and OURS[0] in timed:
            one_machine(times)
        found[name] = Entry(by_name[name], models, timed if OURS[0] in timed else None)
    return found


def means(entry: Entry, key: str, pointer: str) -> tuple[float, float, int] | None:
    """Of ResNet-BK and of Llama over the seeds that both have, and how many these are; None where there are none, or
    the view was not measured."""
    names = [models[POINTERS[pointer]] for models in (OURS, LLAMA)]
    seeds = set.intersection(*({run["seed"] for run in entry.models.get(name, ())} for name in names))
    found = []
    for name in names:
        # Where no state is carried every segment stands alone as it is.
        values = [
            run[CARRIED] if key == ALONE and not run["carry_state"] else run[key]
            for run in entry.models.get(name, ())
            if run["seed"] in seeds
        ]
        if not values or any(value is None for value in values):
            return None
        found.append(fmean(values))
    return found[0], found[1], len(seeds)


def pair(entry: Entry, key: str, pointer: str) -> str:
    """`ours / other (ratio)`, the lower one bold; where the seeds are fewer than the protocol has, how many."""
    known = means(entry, key, pointer)
    if known is None:
        return fmt.MISSING
    ours, other, seeds = known
    first, second = map(fmt.perplexity, (ours, other))
    if first != second:  # as printed
        first, second = (f"**{first}**", second) if ours < other else (first, f"**{second}**")
    cell = f"{first} / {second} ({ours / other:.2f})"
    return cell if seeds == len(entry.ours) else f"{cell}, {seeds} seed{'s' * (seeds != 1)}"


def over(runs: Mapping[str, Runs], key: str) -> str:
    """Of ResNet-BK over that of Llama, means over the seeds."""
    first, second = (fmean(run[key] for run in runs[name]) for name in (OURS[0], LLAMA[1]))
    return f"{first / second:.2f}"


def rows(found: Mapping[str, Entry]) -> str:
    """The table of all figures, two lines a protocol, and a sentence on time and memory."""
    lines = []
    for name, entry in found.items():
        labels = f"**{text(name, entry)}** (`{name}`)<br>{size(entry)}", ""
        for label, pointer in zip(labels, POINTERS, strict=True):
            lines.append((label, pointer, *(pair(entry, key, pointer) for key in VIEWS.values())))
    timed = {f"`{name}`": entry.timed for name, entry in found.items() if entry.timed is not None}
    columns = [[over(runs, key) for runs in timed.values()] for key in ("seconds_per_step", "peak_memory_mb")]
    costs = (
        f"A training step of ResNet-BK with the pointer takes {listed(columns[0])} times as long as one of Llama "
        f"without ({listed(list(timed))}), and {listed(columns[1])} times its memory."
    )
    return f"{table(('ResNet-BK / Llama (ratio)', 'pointer', *VIEWS), lines)}\n\n{costs}"


def summary(found: Mapping[str, Entry]) -> str:
    """The ratios alone, where both read the same text: a line a protocol."""
    lines = []
    for name, entry in found.items():
        ratios = []
        for pointer in POINTERS:
            known = means(entry, WINDOWS, pointer)
            ratios.append("not trained" if known is None else f"{known[0] / known[1]:.2f}")
        lines.append((f"{text(name, entry)} (`{name}`): {counts(entry)}", *ratios))
    return table(("", "neither has the pointer", "both have it"), lines)


def listed(values: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(values[:-1]), *values[-1:]) if part)


def text(name: str, entry: Entry) -> str:
    return TEXTS[name].format(fmt.count(entry.results["data"]["vocab_size"]))


def size(entry: Entry) -> str:
    length, seeds = entry.results["protocol"]["sequence_length"], len(entry.ours)
    return f"{counts(entry)}, segments of {length}, {seeds} seed{'s' * (seeds != 1)}"


def counts(entry: Entry) -> str:
    tokens, parameters = entry.results["data"]["train_tokens"], entry.ours[0]["parameters"]
    return f"{tokens / 1e6:.1f}M tokens, {parameters / 1e6:.1f}M parameters"


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: see `entries`; or a place is missing.
    """
    found = entries(results)
    return replace_all(page, PLACE, {"table": rows(found), "summary": summary(found)})


main = page_writer("front", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(main)
