"""Writes the figures of docs/switches.md from results/, so that none is typed by hand.

    python -m benchmarks.pages.switches [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench` on one of the `ablation` protocols, by default those in results/. One of
`ablation-times` or `ablation-wide-times` gives the times and the memory of the table of `ablation` or `ablation-wide`
and goes with it. FILE may also be what `benchmarks.exits` and `benchmarks.trained` write.
--check writes nothing and exits with code 1 if the page differs from the files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages import performance
from benchmarks.pages.page import (
    HELD_OUT,
    by_model,
    by_protocol,
    machine,
    need_perplexity,
    one_machine,
    page_writer,
    reached,
    replace_all,
    table,
)
from resnet_bk.bench.report import formatting as fmt

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "switches.md"
# Trained beside other work, so that their times say nothing.
QUALITY = ("ablation", "ablation-wide", "ablation-price")
# Of so few steps that their perplexities say nothing.
TIMES = {"ablation": "ablation-times", "ablation-wide": "ablation-wide-times"}
COMPARED = ("exact", "plain")  # whose times the others are divided into
MEASURED = ("exits", "trained")  # results of benchmarks
FILES = [
    *(ROOT / "results" / suite / "results.json" for suite in (*QUALITY, *TIMES.values())),
    *(ROOT / "results" / f"{suite}.json" for suite in MEASURED),
]
NOT_COUNTED = ("autograd", "diagonal")  # gradients in plain PyTorch, of which FlopCounterMode sees the matmuls alone
# What a model may report of the work it did, and of which blocks: measure -> how it reads.
SKIPS = {"depth": "{value:.2f} of {blocks} blocks a token", "kept": "{value:.0%} of the sites of {blocks} blocks"}

Cells = Mapping[str, dict[str, str]]


def quality(results: Mapping[str, Any]) -> Cells:
    """Model -> operations, perplexity and the work that it did.

    Raises:
        ValueError: a model that leaks.
    """
    need_perplexity(results["protocol"]["name"], results["runs"])
    return {name: _counted(runs) | _reached(runs) for name, runs in by_model(results).items()}


def times(results: Mapping[str, Any]) -> Cells:
    """Model -> time and memory of a step.

    Raises:
        ValueError: runs of several machines, or none of a model that the others are compared with.
    """
    one_machine(results)
    models = by_model(results)
    seconds = {name: fmean(map(seconds_a_step, runs)) for name, runs in models.items()}
    for name in COMPARED:
        if name not in seconds:
            raise ValueError(f"the results hold no run of {name}, which the others are compared with; run it too")

    def cells(name: str) -> dict[str, str]:
        ratios = {f"times as fast as `{other}`": f"{seconds[other] / seconds[name]:.2f}" for other in COMPARED}
        peak = fmt.count(round(fmean(run["peak_memory_mb"] for run in models[name])))
        return {"s/step": fmt.decimal(seconds[name], 3)} | ratios | {"peak MiB": peak}

    return {name: cells(name) for name in models}


def seconds_a_step(run: Mapping[str, Any]) -> float:
    """The mean over a training but its first stretch between log lines, in which kernels are loaded and memory is
    touched for the first time.

    Raises:
        ValueError: there is one log line.
    """
    first, last = run["log"][0], run["log"][-1]
    if first["step"] == last["step"]:
        raise ValueError(
            f"{run['model_name']}, seed {run['seed']}, has one log line, which gives no time a step; train more steps"
        )
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


def rows(results: Mapping[str, Any], timed: Mapping[str, Any] | None) -> str:
    """A row a model, with its times where there are any, and where both were measured.

    Raises:
        ValueError: as `quality` and `times` do, or times of other models.
    """
    cells = quality(results)
    facts = machine(results)
    if timed is not None:
        of_times = times(timed)
        if of_times.keys() != cells.keys():
            suite = timed["protocol"]["name"]
            missing = ", ".join(sorted(of_times.keys() ^ cells.keys()))
            raise ValueError(f"{suite} and the trainings beside it are of other models ({missing}); run both of all")
        cells = {name: of_times[name] | cells[name] for name in cells}
        kinds = (("times and memory", machine(timed)), ("the rest", facts))
        facts = [f"{kind}: {'; '.join(found)}" for kind, found in kinds]
    lines = [{"model": f"`{name}`"} | found for name, found in cells.items()]
    facts.append(f"data {results['data']['name']}")
    return f"{table(list(lines[0]), [list(line.values()) for line in lines])}\n\n" + "\n".join(
        f"- {fact}" for fact in facts
    )


def _counted(runs: list[dict[str, Any]]) -> dict[str, str]:
    counted = f"{fmean(run['total_flops_per_step'] for run in runs) / 1e9:.2f}"
    in_part = runs[0]["config"].get("gradient") in NOT_COUNTED
    return {"GFLOPs a step": f"above {counted}" if in_part else counted}


def _reached(runs: list[dict[str, Any]]) -> dict[str, str]:
    measures = runs[0].get("held_out_measures") or {}
    blocks = _blocks(runs[0]["config"])
    skips = [
        text.format(value=fmean(run["held_out_measures"][key] for run in runs), blocks=blocks[key])
        for key, text in SKIPS.items()
        if key in measures
    ]
    return {
        "held-out perplexity": reached([run[HELD_OUT] for run in runs]),
        "work done": ", ".join(skips) or fmt.MISSING,
    }


def _blocks(config: Mapping[str, Any]) -> dict[str, int]:
    """How many blocks each measure is of: tokens halt at full length alone, a share of 1 is no gate."""
    layers = config["num_hidden_layers"]
    scales, shares = config.get("multi_scale") or [1] * layers, config.get("sparse_bk") or []
    gated = sum(share < 1 for share in shares) if isinstance(shares, list) else layers
    return {"depth": scales.count(1), "kept": gated}


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: results of another protocol, times without their table, or what `rows` refuses.
    """
    by_name = by_protocol(results)
    known = (*QUALITY, *TIMES.values(), *MEASURED)
    if strange := [name for name in by_name if name not in known]:
        raise ValueError(f"the results are of {strange[0]}, not of {' or '.join(known)}; name other files")
    for suite, name in TIMES.items():
        if name in by_name and suite not in by_name:
            raise ValueError(f"{name} gives the times of {suite}, whose results are not named; name them too")
    for suite in by_name.keys() & set(QUALITY):
        timed = by_name.get(TIMES.get(suite, ""))
        page = replace_all(page, suite, {"table": rows(by_name[suite], timed)})
    return performance.fill(page, [dict(by_name[name]) for name in MEASURED if name in by_name])


main = page_writer("switches", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(main)
