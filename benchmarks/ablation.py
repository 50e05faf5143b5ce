"""Writes the figures of the `ablation` protocols into docs/switches.md, so that none is typed by hand.

    python -m benchmarks.ablation [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench` on one of the `ablation` protocols (`ablation-times` is of `ablation`,
`ablation-wide-times` of `ablation-wide`, for the times alone, as the page says), by default those in results/.
--check writes nothing and exits with code 1 if the page differs from the files.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import guarded
from benchmarks.page import by_model, fill_page, machine, one_machine, reached, read_json, replace_all, table
from resnet_bk.bench import formatting as fmt

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "switches.md"
QUALITY = ("ablation", "ablation-wide", "ablation-price")  # beside other work: their times say nothing
TIMES = ("ablation-times", "ablation-wide-times")  # of so few steps that their perplexities say nothing
COMPARED = ("exact", "plain")  # whose times the others are divided into
FILES = [ROOT / "results" / suite / "results.json" for suite in (*QUALITY, *TIMES)]
CURVES = "ablation-price"  # also has the course of the training
NOT_COUNTED = ("autograd", "diagonal")  # gradients in plain PyTorch, of which FlopCounterMode sees the matmuls alone
# What a model may report of the work it did, and of which blocks: measure -> how it reads.
SKIPS = {"depth": "{value:.2f} of {blocks} blocks a token", "kept": "{value:.0%} of the sites of {blocks} blocks"}
TENTHS = range(1, 11)


def quality(results: Mapping[str, Any]) -> str:
    """A row a model: operations, perplexity and the work that it did."""
    return _rows(results, lambda _, runs: _counted(runs) | _reached(runs))


def times(results: Mapping[str, Any]) -> str:
    """A row a model: time, memory and operations of a step.

    Raises:
        ValueError: runs of several machines, or none of a model that the others are compared with.
    """
    one_machine(results)
    seconds = {name: fmean(map(seconds_a_step, runs)) for name, runs in by_model(results).items()}
    for name in COMPARED:
        if name not in seconds:
            raise ValueError(f"the results hold no run of {name}, which the others are compared with; run it too")

    def cells(name: str, runs: list[dict[str, Any]]) -> dict[str, str]:
        ratios = {f"times as fast as `{other}`": f"{seconds[other] / seconds[name]:.2f}" for other in COMPARED}
        peak = fmt.count(round(fmean(run["peak_memory_mb"] for run in runs)))
        return {"s/step": fmt.decimal(seconds[name], 3)} | ratios | {"peak MiB": peak} | _counted(runs)

    return _rows(results, cells)


def seconds_a_step(run: Mapping[str, Any]) -> float:
    """The mean over a training but its first stretch between log lines, in which kernels are loaded and memory is
    touched for the first time."""
    first, last = run["log"][0], run["log"][-1]
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


def _rows(results: Mapping[str, Any], cells: Callable[[str, list[dict[str, Any]]], dict[str, str]]) -> str:
    filled = [{"model": f"`{name}`"} | cells(name, runs) for name, runs in by_model(results).items()]
    facts = "\n".join(f"- {line}" for line in [*machine(results), f"data {results['data']['name']}"])
    return f"{table(list(filled[0]), [list(row.values()) for row in filled])}\n\n{facts}"


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
        "held-out perplexity": reached([run["held_out_perplexity"] for run in runs]),
        "work done": ", ".join(skips) or fmt.MISSING,
    }


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
    for found in results:
        suite = found["protocol"]["name"]
        if suite not in (*QUALITY, *TIMES):
            known = " or ".join((*QUALITY, *TIMES))
            raise ValueError(f"the results are of protocol {suite}, not of {known}; name other files")
        texts = {"table": times(found) if suite in TIMES else quality(found)}
        if suite == CURVES:
            texts |= {measure: curves(found, measure) for measure in SKIPS}
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
