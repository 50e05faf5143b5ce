"""Writes the figures of the tuned comparisons into docs/results.md, so that none is typed by hand.

    python -m benchmarks.results [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench` on one of the protocols of the page, by default those in results/: the
comparisons in results/PROTOCOL, grids of learning rates in results/PROTOCOL-grid and results/PROTOCOL-grid-MODELS,
shares of rows that start from no state in results/carry-reset, the choices of the model in results/tuned-choices
(first the protocol as it is, see benchmarks/choices.py), associative recall in results/mqar, times of ResNet-BK and
Llama side by side in results/PROTOCOL-times. FILE may also be the
lengths.json of `resnet-bk lengths`, by default results/lengths, or the repeats.json of `resnet-bk repeats`, by default
results/repeats. Only what has a place on the page can be named.
--check writes nothing and exits with code 1 if the page differs from them.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import choices
from benchmarks.command import guarded
from benchmarks.page import by_model, fill_page, machine, one_machine, reached, read_json, replace_all, table, timed
from resnet_bk.bench import formatting as fmt
from resnet_bk.bench.statistics import paired_t_test

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
COMPARISONS = ("seed-local-tuned", "seed-local-tuned-two-epochs", "small")
CHOICES = "tuned-choices"  # one model, with one part after the other changed
CHANGED_CODE = ("fixed-chain", "fixed-hopping-absorption", "two-energies", "no-norm", "real-part")
CHANGED_SETTINGS = ("adamw",)
RECALL = "mqar"
LENGTHS, REPEATS = "lengths", "repeats"
TIMES = ("seed-local-tuned-times", "small-times")  # ours and Llama side by side, nothing else on the machine
# `seed-local-tuned` with other shares of reset rows, beside its grids, in which most models have none.
RESETS, RESET_PROTOCOL = "carry-reset", "seed-local-tuned"
GRIDS = (
    *(f"seed-local-tuned-grid{models}" for models in ("", "-mamba2", "-deltanet", "-peers", "-pointer")),
    "small-grid",
)
RESET_RUNS = (*(f"{RESETS}/resnet-bk-{share}" for share in (0, 10, 25, 50)), f"{RESETS}/mamba2-25")
CHOICE_RUNS = (
    CHOICES,
    *(f"{CHOICES}-patched/{name}" for name in CHANGED_CODE),
    *(f"{CHOICES}-settings/{name}" for name in CHANGED_SETTINGS),
)
FOLDERS = (*COMPARISONS, *GRIDS, *RESET_RUNS, *CHOICE_RUNS, RECALL, *TIMES)
FILES = [
    *(ROOT / "results" / folder / "results.json" for folder in FOLDERS),
    *(ROOT / "results" / name / f"{name}.json" for name in (LENGTHS, REPEATS)),
]
# What the others are held to: the Transformers as `transformers` has them.
TRANSFORMERS = ("llama", "gpt2")
OURS, LLAMA = "resnet-bk", "llama"
HELD_OUT, WITHOUT = "held_out_perplexity", "held_out_perplexity_without_carry"
OVERLAPPING = "held_out_perplexity_overlapping"


def best_transformer(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The Transformer with the lowest mean held-out perplexity.

    Raises:
        ValueError: there is none.
    """
    reached = {name: fmean(run[HELD_OUT] for run in models[name]) for name in TRANSFORMERS if name in models}
    if not reached:
        raise ValueError(f"the results hold no run of {' or '.join(TRANSFORMERS)}, which others are compared with")
    return min(reached, key=lambda name: reached[name])


def rows(results: Mapping[str, Any]) -> str:
    """A row a model, the lowest perplexity first."""
    models = by_model(results)
    base = best_transformer(models)
    reference = fmean(run[HELD_OUT] for run in models[base])
    comparable = by_model({"runs": timed(results)})
    times = {run["seed"]: run["training_time"] for run in comparable.get(base, [])}

    def in_time(run: Mapping[str, Any]) -> float | None:
        return at_time(run, times.get(run["seed"], fmean(times.values()))) if times else None

    windows = any(run.get(OVERLAPPING) is not None for runs in models.values() for run in runs)
    lines = []
    for name, runs in sorted(models.items(), key=lambda item: fmean(run[HELD_OUT] for run in item[1])):
        cells = {
            "model": f"`{name}`",
            "held-out perplexity": reached([run[HELD_OUT] for run in runs]),
            "seeds": fmt.count(len(runs)),
            f"relative to `{base}`": f"{fmean(run[HELD_OUT] for run in runs) / reference:.3f}",
            "state not carried": reached([run[WITHOUT] for run in runs]),
        }
        if windows:  # results of before there was such a figure have none
            cells["overlapping windows"] = reached([run.get(OVERLAPPING) for run in runs])
        lines.append(
            cells
            | {
                f"in the time of `{base}`": reached([in_time(run) for run in comparable.get(name, [])]),
                "parameters": fmt.count(runs[0]["parameters"]),
                "lr": f"{runs[0]['learning_rate']:g}",
                "tokens/s": speed(comparable.get(name, [])),
                "peak MiB": peak(comparable.get(name, [])),
            }
        )
    data = results["data"]
    facts = [*machine(results), *whose_times(results, "times and memory"), *paired_tests(models)]
    facts.append(f"data {data['name']}: {data['train_tokens']:,} training tokens")
    return f"{table(list(lines[0]), [list(line.values()) for line in lines])}\n\n" + "\n".join(
        f"- {line}" for line in facts
    )


def paired_tests(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A fact: the paired tests of ours with every model that has two seeds or more of it."""
    found = []
    for other in models.keys() - {OURS} if OURS in models else ():
        first, second = ({run["seed"]: run[HELD_OUT] for run in models[name]} for name in (OURS, other))
        seeds = sorted(first.keys() & second.keys())
        if len(seeds) > 1:
            test = paired_t_test([first[seed] for seed in seeds], [second[seed] for seed in seeds])
            found.append(f"`{other}` {fmt.p_value(test.p_value)}, {test.count} seeds")
    return [f"paired t test of `{OURS}`, on the logarithm, two-sided: {'; '.join(sorted(found))}"] if found else []


def whose_times(results: Mapping[str, Any], what: str) -> list[str]:
    """A fact about what depends on the machine where some of it has no place on the page."""
    return [f"{what}: of the runs on the first machine alone"] if len(timed(results)) < len(results["runs"]) else []


def speed(runs: Sequence[Mapping[str, Any]]) -> str:
    """Tokens a second, the mean over the runs."""
    return fmt.count(round(fmean(run["tokens_per_second"] for run in runs))) if runs else fmt.MISSING


def peak(runs: Sequence[Mapping[str, Any]]) -> str:
    """MiB, the mean over the runs."""
    return fmt.count(round(fmean(run["peak_memory_mb"] for run in runs))) if runs else fmt.MISSING


def course(results: Mapping[str, Any]) -> str:
    """Held-out perplexity in the course of the training, the mean over seeds."""
    models = by_model(results)
    steps = [point["step"] for point in results["runs"][0]["validation_log"]]
    lines = []
    for name, runs in models.items():
        logs = [{point["step"]: point["perplexity"] for point in run["validation_log"]} for run in runs]
        lines.append((f"`{name}`", *(fmt.perplexity(fmean(log[step] for log in logs)) for step in steps)))
    return table(("model", *(f"{fmt.count(step)} steps" for step in steps)), lines)


def times(found: Sequence[Mapping[str, Any]]) -> str:
    """A row a protocol: seconds a step of each run and memory of ours and of Llama, and what is left of the ratios.

    Raises:
        ValueError: results without one of the two, or of several machines.
    """
    lines = []
    for results in found:
        one_machine(results)
        models = by_model(results)
        name = results["protocol"]["name"]
        if missing := {OURS, LLAMA} - models.keys():
            raise ValueError(f"the results of {name} have no {' or '.join(sorted(missing))}; time both")
        cells = [f"`{name.removesuffix('-times')}`"]
        for key, digits in (("seconds_per_step", 3), ("peak_memory_mb", 0)):
            values = {model: [run[key] for run in models[model]] for model in (OURS, LLAMA)}
            cells += [", ".join(f"{value:,.{digits}f}" for value in values[model]) for model in values]
            cells.append(f"{fmean(values[OURS]) / fmean(values[LLAMA]):.2f}")
        lines.append(cells)
    columns = [f"`{model}`, {unit}" for unit in ("s a step", "MiB") for model in (OURS, LLAMA)]
    columns = ["", *columns[:2], "ratio", *columns[2:], "ratio"]
    facts = machine({"runs": [run for results in found for run in results["runs"]]})
    return f"{table(columns, lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


def at_time(run: Mapping[str, Any], seconds: float) -> float | None:
    """Perplexity at the last validation of a run within so many seconds of training."""
    reached = [point["perplexity"] for point in run["validation_log"] if point["seconds"] <= seconds]
    return reached[-1] if reached else None


def grid(searches: Sequence[Mapping[str, Any]]) -> str:
    """What every rate of one grid reached, in one or several calls.

    Raises:
        ValueError: the grids differ.
    """
    rates = searches[0]["protocol"]["learning_rates"]
    lines = []
    for results in searches:
        if results["protocol"]["learning_rates"] != rates:
            raise ValueError(f"the grids differ: {rates} and {results['protocol']['learning_rates']}; search one grid")
        for name, runs in by_model(results).items():
            reached = {entry["learning_rate"]: entry[HELD_OUT] for entry in runs[0]["learning_rates_tried"]}
            lines.append((f"`{name}`", *(fmt.perplexity(reached.get(rate)) for rate in rates)))
    return table(("model", *(f"lr {rate:g}" for rate in rates)), lines)


def resets(trained: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]]) -> str:
    """A row a share of rows that start from no state; where there is no run without, the grid has one.

    Raises:
        ValueError: runs of a model that are not alike, or none without in the grids either.
    """
    runs, plain = ([_with_share(run, of) for of in found for run in of["runs"]] for found in (trained, searches))
    lines, shown = [], []
    for name in dict.fromkeys(run["model_name"] for run in runs):
        of_model = sorted((run for run in runs if run["model_name"] == name), key=lambda run: run["share"])
        if of_model[0]["share"]:
            of_model[:0] = [run for run in plain if run["model_name"] == name]
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


def recall(results: Mapping[str, Any]) -> str:
    """A row a model, in the order of the protocol: what its layers carry, and the share of the questions it answers."""
    protocol = results["protocol"]
    tests = [f"{kind['length']:,} tokens, {kind['pairs']} pairs" for kind in protocol["test"]]
    lines = []
    comparable = by_model({"runs": timed(results)})
    for name, runs in by_model(results).items():
        first = runs[0]
        carried = "grows with the text" if first["attention"] else fmt.count(first["state_numbers"])
        shares = [[run["accuracy"][place] for run in runs] for place in range(len(tests))]
        cells = [f"{fmean(of):.3f}" + (f" ± {stdev(of):.3f}" if len(of) > 1 else "") for of in shares]
        times = [run["training_time"] for run in comparable.get(name, [])]
        minutes = f"{fmean(times) / 60:.1f}" if times else fmt.MISSING
        leaks = "" if all(run["audit"] == "causal" for run in runs) else " (leaks)"
        parameters = fmt.count(first["parameters_without_embeddings"])
        lines.append((f"`{name}`{leaks}", carried, parameters, f"{first['learning_rate']:g}", *cells, minutes))
    facts = machine({**results, "runs": [run | run["environment"] for run in results["runs"]]}) + whose_times(
        results, "times"
    )
    epochs = f"{protocol['epochs']} epoch{'s' * (protocol['epochs'] != 1)}"
    facts.append(f"{epochs} of {sum(kind['examples'] for kind in protocol['train']):,} examples")
    facts.append(f"seeds: {', '.join(f'{name} {len(runs)}' for name, runs in by_model(results).items())}")
    facts += [f"{found['title']}: diverged, no figures" for found in results["diverged"]]
    columns = ("model", "state, all layers", "parameters without embeddings", "lr", *tests, "minutes of training")
    return f"{table(columns, lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


def lengths(result: Mapping[str, Any]) -> str:
    """A row a reading of a model, a column a stretch of the documents: perplexity, the mean over the seeds."""
    found: dict[tuple[str, str], list[Sequence[float]]] = {}
    for model in result["models"]:
        for reading in model["readings"]:
            if reading["problem"] is None:
                found.setdefault((f"`{model['model_name']}`", reading["name"]), []).append(reading["perplexity"])
    lines = [(*names, *(fmt.perplexity(fmean(of)) for of in zip(*runs, strict=True))) for names, runs in found.items()]
    facts = [
        f"{result['documents']} documents of {result['dataset_name']}, {result['split']}; "
        f"{result['unk_rate']:.2%} `<unk>`",
        *_trained(result),
    ]
    places = (f"{start:,} to {stop:,}" for start, stop in result["places"])
    return f"{table(('model', 'read', *places), lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


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
        *_trained(result),
    ]
    columns = ("token", "share", *(f"`{name}`" for name in models))
    return f"{table(columns, lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


def _trained(result: Mapping[str, Any]) -> list[str]:
    """Where the models of such a file were trained and read."""
    commits = dict.fromkeys(
        commit[:12] for model in result["models"] for commit in (model["trained_at_commit"] or "unknown").split(", ")
    )
    seeds = "; ".join(
        f"{name} {', '.join(str(run['seed']) for run in runs)}"
        for name, runs in by_model({**result, "runs": result["models"]}).items()
    )
    return [f"trained at commit {', '.join(commits)}", f"seeds: {seeds}", *machine(result)]


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: results of another protocol, or without a Transformer.
    """
    searches: dict[str, list[Mapping[str, Any]]] = {}
    reset: list[Mapping[str, Any]] = []
    chosen: list[Mapping[str, Any]] = []
    side_by_side: list[Mapping[str, Any]] = []
    for found in results:
        if "places" in found:
            page = replace_all(page, LENGTHS, {"table": lengths(found)})
            continue
        if "kinds" in found:
            page = replace_all(page, REPEATS, {"table": repeats(found)})
            continue
        suite = found["protocol"]["name"]
        if suite not in (known := (*COMPARISONS, CHOICES, RECALL, RESETS, *TIMES)):
            raise ValueError(f"the results are of protocol {suite}, not of {' or '.join(known)}; name other files")
        if suite in TIMES:
            side_by_side.append(found)
        elif suite == RESETS:
            reset.append(found)
        elif suite == CHOICES:
            chosen.append(found)
        elif suite == RECALL:
            page = replace_all(page, suite, {"table": recall(found)})
        elif found["protocol"]["learning_rates"] is not None:
            searches.setdefault(suite, []).append(found)
        else:
            page = replace_all(page, suite, {"table": rows(found), "course": course(found)})
    for suite, of_suite in searches.items():
        page = replace_all(page, f"{suite}-grid", {"table": grid(of_suite)})
    if side_by_side:
        page = replace_all(page, "times", {"table": times(side_by_side)})
    if chosen:
        page = replace_all(page, CHOICES, choices.tables(chosen))
    if reset:
        page = replace_all(page, RESETS, {"table": resets(reset, searches.get(RESET_PROTOCOL, []))})
    return page


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call.
    """
    return fill_page(
        arguments,
        module="results",
        description=__doc__,
        page=PAGE,
        files=FILES,
        fill=lambda page, files: fill(page, [read_json(file) for file in files]),
    )


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
