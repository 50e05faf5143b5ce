"""Writes what each choice of the model is worth into docs/choices.md, so that no figure is typed by hand.

    python -m benchmarks.pages.choices [FILE ...] [--page FILE] [--check]

FILE is a results.json of `resnet-bk bench`, by default those in results/, or the repeats.json of `resnet-bk repeats`:

- `tuned-choices`, of three kinds: the protocol as it is, whose first model is the one that was chosen; models that it
  does not have, trained by changed code (results/tuned-choices-patched, a patch beside the file); and some of its
  models under another setting of the protocol, such as the optimizer (results/tuned-choices-settings)
- shares of rows that start from no state (results/carry-reset); a grid of learning rates has the run of `mamba2`
  without
- what tokens cost that came before (results/repeats)

--check writes nothing and exits with code 1 if the page differs from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages.comparison import need_alike
from benchmarks.pages.page import (
    HELD_OUT,
    by_model,
    machine,
    need_perplexity,
    page_writer,
    replace_all,
    table,
    trained_and_read,
)
from resnet_bk.bench.report import formatting as fmt

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "choices.md"
CHOICES = "tuned-choices"  # one model, with one part after the other changed
CHANGED_CODE = ("fixed-chain", "fixed-hopping-absorption", "two-energies", "no-norm", "real-part")
CHANGED_SETTINGS = ("adamw",)
REPEATS = "repeats"
# `seed-local-tuned` with other shares of reset rows, beside a grid of it, in which most models have none.
RESETS, RESET_PROTOCOL = "carry-reset", "seed-local-tuned"
FOLDERS = (
    CHOICES,
    *(f"{CHOICES}-patched/{name}" for name in CHANGED_CODE),
    *(f"{CHOICES}-settings/{name}" for name in CHANGED_SETTINGS),
    *(f"{RESETS}/resnet-bk-{share}" for share in (0, 10, 25, 50)),
    f"{RESETS}/mamba2-25",
    f"{RESET_PROTOCOL}-grid-mamba2",
)
FILES = [
    *(ROOT / "results" / folder / "results.json" for folder in FOLDERS),
    ROOT / "results" / REPEATS / f"{REPEATS}.json",
]
WITHOUT, OVERLAPPING = "held_out_perplexity_without_carry", "held_out_perplexity_overlapping"
# What two calls of one protocol may differ in and still have the same settings.
NO_SETTINGS = {"name", "description", "models", "seeds", "learning_rates"}


def choices(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The table of the models, and that of the settings where there are any, by the name of their places.

    Args:
        found: results of one protocol, that of the protocol as it is first.

    Raises:
        ValueError: a model of another setting that was not trained with those of the protocol, of other seeds or other
            text, or one that leaks.
    """
    for results in found:
        need_perplexity(results["protocol"]["name"], results["runs"])
    chosen = found[0]
    plain = [results for results in found if not changed_settings(results, chosen)]
    other = [results for results in found if changed_settings(results, chosen)]
    return {"table": _models(plain)} | ({"settings": _settings(chosen, other)} if other else {})


def changed_settings(results: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the protocol that differ from those of `chosen`, as they are in `results`."""
    own, usual = (of["protocol"] for of in (results, chosen))
    names = sorted((own.keys() | usual.keys()) - NO_SETTINGS)
    return {name: own.get(name) for name in names if own.get(name) != usual.get(name)}


def _models(trained: Sequence[Mapping[str, Any]]) -> str:
    """A row a model, in the order of the files and of their protocols, beside the first one."""
    lines, reached, seeds = [], {}, sorted({run["seed"] for run in trained[0]["runs"]})
    for results in trained:
        need_alike(trained[0], results)
        for name, runs in by_model(results).items():
            if sorted(run["seed"] for run in runs) != seeds:
                raise ValueError(f"{name} was not trained with the seeds {seeds} of the others; train it alike")
            reached[name] = value = fmean(run[HELD_OUT] for run in runs)
            base = next(iter(reached))
            lines.append((f"`{name}`", fmt.perplexity(value), f"{value / reached[base]:.3f}", _alone(runs)))
    columns = ("model", "held-out perplexity", f"relative to `{base}`", "state not carried")
    return f"{table(columns, lines)}\n\n{_facts(trained)}"


def _settings(chosen: Mapping[str, Any], trained: Sequence[Mapping[str, Any]]) -> str:
    """A row a model and setting, beside the same model as the protocol has it."""
    usual = by_model(chosen)
    lines = []
    for results in trained:
        settings = ", ".join(
            f"`{name}: {_as_yaml(value)}`" for name, value in changed_settings(results, chosen).items()
        )
        for name, runs in by_model(results).items():
            if name not in usual:
                raise ValueError(f"{name} with {settings} has no run with the settings of the protocol; train that too")
            value, before = (fmean(run[HELD_OUT] for run in of) for of in (runs, usual[name]))
            cells = (fmt.perplexity(value), f"{value / before:.3f}", _alone(runs), f"{runs[0]['learning_rate']:g}")
            lines.append((f"`{name}`", settings, *cells))
    columns = ("model", "setting", "held-out perplexity", "relative to without", "state not carried", "lr")
    return f"{table(columns, lines)}\n\n{_facts(trained)}"


def _as_yaml(value: Any) -> str:
    """A single value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _alone(runs: Sequence[Mapping[str, Any]]) -> str:
    """Perplexity with the state not carried, the mean over the seeds; a dash where one of them has none."""
    alone = [run[WITHOUT] for run in runs]
    return fmt.perplexity(None if None in alone else fmean(alone))


def _facts(trained: Sequence[Mapping[str, Any]]) -> str:
    """Where the runs were made, one fact a line."""
    runs = [{"environment": results["environment"], **run} for results in trained for run in results["runs"]]
    return "\n".join(f"- {line}" for line in machine({"runs": runs}))


def resets(trained: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]]) -> str:
    """A row a share of rows that start from no state; where there is no run without, the grid has one.

    Raises:
        ValueError: runs of a model that are not alike, none without in the grids either, or a model that leaks.
    """
    runs, plain = ([_with_share(run, of) for of in found for run in of["runs"]] for found in (trained, searches))
    need_perplexity(RESETS, runs)
    lines, shown = [], []
    for name in dict.fromkeys(run["model_name"] for run in runs):
        of_model = sorted((run for run in runs if run["model_name"] == name), key=lambda run: run["share"])
        if of_model[0]["share"]:
            of_model[:0] = [run for run in plain if run["model_name"] == name]
            need_perplexity(RESET_PROTOCOL, of_model)
        if of_model[0]["share"] or any(run[key] != of_model[0][key] for run in of_model for key in ALIKE):
            raise ValueError(f"{name}: no run with {RESETS} 0, or its runs differ in one of {', '.join(ALIKE)}")
        shown += of_model
        lines += [
            (f"`{name}`", f"{run['share']:g}", *(fmt.perplexity(run[key]) for key in (HELD_OUT, WITHOUT, OVERLAPPING)))
            for run in of_model
        ]
    columns = ("model", "`carry_reset`", "held-out perplexity", "state not carried", "overlapping windows")
    return f"{table(columns, lines)}\n\n" + "\n".join(f"- {line}" for line in machine({"runs": shown}))


ALIKE = ("steps", "seed", "learning_rate", "parameters")


def _with_share(run: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """The run, with its share of reset rows and where it was made."""
    share = results["protocol"]["models"][run["model_name"]].get("carry_reset", 0.0)
    return {"environment": results["environment"], **run, "share": share}


def repeats(result: Mapping[str, Any]) -> str:
    """A row a kind of token, a column a model: nats a token, the mean over its seeds."""
    models = by_model({**result, "runs": result["models"]})
    lines = []
    for place, kind in enumerate(result["kinds"]):
        losses = ([run["losses"][place] for run in runs] for runs in models.values())
        cells = (fmt.decimal(None if None in found else fmean(found), 3) for found in losses)
        lines.append((kind["name"], f"{kind['share']:.1%}", *cells))
    whole = (fmt.decimal(fmean(run["loss"] for run in runs), 3) for runs in models.values())
    lines.append(("all", fmt.MISSING, *whole))
    facts = [
        f"{result['tokens']:,} tokens of {result['dataset_name']}, {result['split']}, windows of {result['window']:,}",
        *trained_and_read(result),
    ]
    columns = ("token", "share", *(f"`{name}`" for name in models))
    return f"{table(columns, lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: results of another protocol, that do not fit together, or that nothing on the page is made of.
    """
    chosen: list[Mapping[str, Any]] = []
    reset: list[Mapping[str, Any]] = []
    searches: list[Mapping[str, Any]] = []
    for found in results:
        if "kinds" in found:
            page = replace_all(page, REPEATS, {"table": repeats(found)})
            continue
        suite, searched = found["protocol"]["name"], found["protocol"]["learning_rates"] is not None
        if suite == CHOICES:
            chosen.append(found)
        elif suite == RESETS:
            reset.append(found)
        elif suite == RESET_PROTOCOL and searched:
            searches.append(found)
        else:
            raise ValueError(
                f"the results are of protocol {suite}, not of {CHOICES}, {RESETS} or the rates of {RESET_PROTOCOL}; "
                "name other files"
            )
    if searches and not reset:
        raise ValueError(
            f"the rates of {RESET_PROTOCOL} are read for the runs without reset rows beside results of {RESETS}, and "
            f"none of these are named; name results of {RESETS} too, or leave the rates out"
        )
    if chosen:
        page = replace_all(page, CHOICES, choices(chosen))
    if reset:
        page = replace_all(page, RESETS, {"table": resets(reset, searches)})
    return page


main = page_writer("choices", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(main)
