"""Writes the figures of the `ablation` protocols into docs/switches.md, so that none is typed by hand.

    python -m benchmarks.ablation [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench` on one of the `ablation` protocols, by default those in results/.
`ablation-times` and `ablation-wide-times` are short runs of `ablation` and `ablation-wide`, for the time alone, on a
machine without other work, as the page says: a table has its perplexities from the trainings and its times from these.
--check writes nothing and exits with code 1 if the page differs from the files.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.command import guarded
from benchmarks.page import by_model, fill_page, machine, one_machine, read_json, replace_all, table
from resnet_bk.bench import formatting as fmt

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "switches.md"
# protocol -> the models whose speed the others are compared with; none where no time was taken.
SUITES: dict[str, tuple[str, ...]] = {
    "ablation": ("exact", "plain"),
    "ablation-wide": ("exact", "plain"),
    "ablation-price": (),
}
TIMES = "-times"  # behind the name of the protocol: the runs that were made for their times
FILES = [
    ROOT / "results" / name / "results.json"
    for suite, compared in SUITES.items()
    for name in ((suite, suite + TIMES) if compared else (suite,))
]
CURVES = "ablation-price"  # also has the course of the training
NOT_COUNTED = ("autograd", "diagonal")  # gradients in plain PyTorch, of which FlopCounterMode sees the matmuls alone
# What a model may report of the work it did, and of which blocks: measure -> how it reads.
SKIPS = {"depth": "{value:.2f} of {blocks} blocks a token", "kept": "{value:.0%} of the sites of {blocks} blocks"}
QUALITY = ("held-out perplexity", "work done")
TENTHS = range(1, 11)


def rows(trained: Mapping[str, Any], timed: Mapping[str, Any] | None, compared: Sequence[str]) -> str:
    """A row a model: its time and memory, where they were taken, and what the trained one does. A model that was only
    timed has the operations of its first step, and no quality.

    Raises:
        ValueError: times of several machines, or a model trained and not timed.
    """
    models, runs_timed = by_model(trained), by_model(timed) if timed is not None else {}
    times = _times(timed, compared) if timed is not None else {}
    if timed is not None and not set(models) <= set(times):
        raise ValueError(
            f"of the models trained ({', '.join(models)}) only {', '.join(times)} were timed; run the rest"
        )

    def cells(name: str) -> dict[str, str]:
        runs = models.get(name, [])
        counting = runs or runs_timed[name]
        counted = f"{fmean(run['total_flops_per_step'] for run in counting) / 1e9:.2f}"
        in_part = counting[0]["config"].get("gradient") in NOT_COUNTED
        return {
            "model": f"`{name}`",
            **times.get(name, {}),
            "GFLOPs a step": f"above {counted}" if in_part else counted,
            **(_quality(runs) if runs else dict.fromkeys(QUALITY, fmt.MISSING)),
        }

    filled = [cells(name) for name in times or models]
    facts = [*machine(trained), f"data {trained['data']['name']}"]
    if timed is not None:
        facts = ["times and memory: " + "; ".join(machine(timed)), "trainings: " + "; ".join(facts)]
    lines = "\n".join(f"- {line}" for line in facts)
    return f"{table(list(filled[0]), [list(row.values()) for row in filled])}\n\n{lines}"


def _times(results: Mapping[str, Any], compared: Sequence[str]) -> dict[str, dict[str, str]]:
    """Cells of the columns that are about time and memory, by model."""
    one_machine(results)
    models = by_model(results)
    for name in compared:
        if name not in models:
            raise ValueError(f"the results hold no run of {name}, which the others are compared with; run it too")
    seconds = {name: seconds_a_step(runs) for name, runs in models.items()}
    return {
        name: {
            "s/step": fmt.decimal(seconds[name], 3),
            **{f"times as fast as `{other}`": f"{seconds[other] / seconds[name]:.2f}" for other in compared},
            "peak MiB": fmt.count(round(fmean(run["peak_memory_mb"] for run in runs))),
        }
        for name, runs in models.items()
    }


def seconds_a_step(runs: Sequence[Mapping[str, Any]]) -> float:
    """The median over the stretches between two log lines; the one before the first line holds the start as well.

    Raises:
        ValueError: no two lines.
    """
    stretches = [
        (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
        for run in runs
        for first, last in pairwise(run["log"])
    ]
    if not stretches:
        raise ValueError(f"a run of {runs[0]['model_name']} has logged no two steps; --set log_interval=1")
    return median(stretches)


def _quality(runs: list[dict[str, Any]]) -> dict[str, str]:
    perplexities = [run["held_out_perplexity"] for run in runs]
    spread = f" ± {stdev(perplexities):.1f}" if len(runs) > 1 else ""
    measures = runs[0].get("held_out_measures") or {}
    blocks = _blocks(runs[0]["config"])
    skips = [
        text.format(value=fmean(run["held_out_measures"][key] for run in runs), blocks=blocks[key])
        for key, text in SKIPS.items()
        if key in measures
    ]
    return dict(
        zip(QUALITY, (fmt.perplexity(fmean(perplexities)) + spread, ", ".join(skips) or fmt.MISSING), strict=True)
    )


def _blocks(config: Mapping[str, Any]) -> dict[str, int]:
    """How many blocks each measure is of: tokens halt at full length alone, a share of 1 is no gate."""
    layers = config["num_hidden_layers"]
    scales, shares = config.get("multi_scale") or [1] * layers, config.get("sparse_bk") or []
    gated = sum(share < 1 for share in shares) if isinstance(shares, list) else layers
    return {"depth": scales.count(1), "kept": gated}


def curves(results: Mapping[str, Any], measure: str) -> str:
    """What the models that report a measure reported in the course of the training, first seed, at every tenth of it:
    the mean of the log lines of that tenth."""
    lines = []
    for name, runs in by_model(results).items():
        tenths: dict[int, list[float]] = {}
        for line in runs[0]["log"]:
            if measure in line.get("measures", {}):
                tenths.setdefault(-(-10 * line["step"] // runs[0]["steps"]), []).append(line["measures"][measure])
        if tenths:
            means = (f"{fmean(tenths[n]):.2f}" if n in tenths else fmt.MISSING for n in TENTHS)
            lines.append((f"`{name}`", *means))
    return table(("model", *(f"{10 * n}%" for n in TENTHS)), lines)


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: results of another protocol, or without the runs that are compared with.
    """
    by_name = {found["protocol"]["name"]: found for found in results}
    for name in by_name:
        suite = name.removesuffix(TIMES)
        if suite not in SUITES or (name != suite and not SUITES[suite]):
            raise ValueError(f"the results are of protocol {name}, not of {' or '.join(SUITES)}; name other files")
    for suite in dict.fromkeys(name.removesuffix(TIMES) for name in by_name):
        for needed in (suite, suite + TIMES) if SUITES[suite] else (suite,):
            if needed not in by_name:
                raise ValueError(f"there are no results of {needed}, with which a table is made; name its file too")
        texts = {"table": rows(by_name[suite], by_name.get(suite + TIMES), SUITES[suite])}
        if suite == CURVES:
            texts |= {measure: curves(by_name[suite], measure) for measure in SKIPS}
        page = replace_all(page, suite, texts)
    return page


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call.
    """
    return fill_page(
        arguments,
        module="ablation",
        description=__doc__,
        page=PAGE,
        files=FILES,
        fill=lambda page, files: fill(page, [read_json(file) for file in files]),
    )


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
