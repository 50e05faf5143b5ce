"""Writes the figures of the `seed-local` runs into docs/reproduction.md, so that none is typed by hand.

    python -m benchmarks.pages.reproduction [FILE] [--page FILE] [--check]

FILE is what `resnet-bk bench seed-local` and `resnet-bk ngrams seed-local` left, by default
results/seed-local/results.json. --check writes nothing and exits with code 1 if the page differs from the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages.page import machine, one_machine, page_writer, replace_all, table
from resnet_bk.bench.report import formatting as fmt

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reproduction.md"
RESULTS = ROOT / "results" / "seed-local" / "results.json"

SUITE = "seed-local"
SEED = "resnet-bk-seed"
# Of the earlier report; the components are per layer but for embedding and head.
REPORT = {
    "parameters": 4_146_120,
    "steps": 9_764,
    "seconds": 1_898,
    "perplexity": 982,
    "forward_flops": 8_143_880_192,
    "backward_flops": 16_284_008_448,
    "optimizer_flops": 62_191_800,
    "total_flops_per_step": 24_490_080_440,
    "total_training_flops": 239_123_985_496_960,
}


def report_rows(results: Mapping[str, Any]) -> str:
    """The earlier report's rows beside the run of the same model here."""
    run = _runs(results)[SEED]
    convention = run["flops_convention"]
    tokens = run["total_tokens"] // run["steps"]
    rows = [
        ("parameters", fmt.count(REPORT["parameters"]), fmt.count(run["parameters"])),
        ("optimizer steps", fmt.count(REPORT["steps"]), fmt.count(run["steps"])),
        ("training time, s", f"{fmt.count(REPORT['seconds'])} (laptop GPU)", f"{run['training_time']:,.0f} (CPU)"),
        (
            "tokens a second",
            f"{REPORT['steps'] * tokens / REPORT['seconds']:,.0f} (from time and steps)",
            fmt.count(run["tokens_per_second"]),
        ),
        (
            "perplexity",
            fmt.count(REPORT["perplexity"]),
            f"{fmt.perplexity(run['final_perplexity'])} in training, {fmt.perplexity(run['leaking_perplexity'])} on "
            "held-out text, both with the answer in sight",
        ),
        *(
            (f"{name} FLOPs", fmt.count(REPORT[key]), fmt.count(convention[key]))
            for name, key in (
                ("forward", "forward_flops"),
                ("backward", "backward_flops"),
                ("optimizer", "optimizer_flops"),
                ("a step's", "total_flops_per_step"),
            )
        ),
        (
            "training FLOPs",
            fmt.count(REPORT["total_training_flops"]),
            fmt.count(convention["total_flops_per_step"] * run["steps"]),
        ),
    ]
    return table(("row", "the report", f"`{SEED}` here"), rows)


def model_rows(results: Mapping[str, Any]) -> str:
    """Every run, and the n-gram models on the same tokens."""
    one_machine(results)
    rows = []
    for run in _runs(results).values():
        held_out = fmt.perplexity(run["held_out_perplexity"])
        if run["audit"] == "leaks":
            held_out = f"leaks ({fmt.perplexity(run['leaking_perplexity'])})"
        elif run["held_out_perplexity_without_carry"] is not None:
            held_out += f" ({fmt.perplexity(run['held_out_perplexity_without_carry'])} without carried state)"
        rows.append(
            (
                f"`{run['model_name']}`",
                fmt.count(run["parameters"]),
                f"{run['learning_rate']:g}",
                f"{run['training_time']:,.0f}",
                fmt.decimal(run["seconds_per_step"], 4),
                fmt.count(run["tokens_per_second"]),
                fmt.count(run["peak_memory_mb"]),
                " / ".join(fmt.perplexity(value) for value in run["epoch_perplexities"]),
                held_out,
            )
        )
    for entry in results["ngrams"]["ngrams"]:
        rows.append((entry["name"], *[fmt.MISSING] * 7, fmt.perplexity(entry["perplexity"])))
    columns = ("model", "parameters", "lr", "time, s", "s/step", "tokens/s", "peak MiB", "training perplexity by epoch")
    return table((*columns, "held-out perplexity"), rows)


def facts(results: Mapping[str, Any]) -> str:
    """On what it ran."""
    counts = results["ngrams"]
    data = (
        f"data {results['data']['name']}: {counts['train_tokens']:,} training tokens, {counts['tokens']:,} held-out "
        f"tokens predicted, {counts['vocab_size']:,} words, {fmt.percent(counts['unk_rate'])} `<unk>`"
    )
    return "\n".join(f"- {line}" for line in [*machine(results), data])


def _runs(results: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for run in results["runs"]:
        if run["model_name"] in found:
            raise ValueError(f"the results hold several runs of {run['model_name']}; the page takes one seed a model")
        found[run["model_name"]] = run
    return found


def fill(page: str, results: Mapping[str, Any]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: the page lacks a place or has an unknown one; results without the seed model or the n-grams.
    """
    if SEED not in _runs(results) or "ngrams" not in results:
        raise ValueError(
            f"the results must hold a run of {SEED} and n-gram baselines; call resnet-bk bench seed-local --out OUT, "
            "then resnet-bk ngrams seed-local --out OUT"
        )
    if results["ngrams"]["split"] != "validation":
        raise ValueError(f"the n-grams are of the {results['ngrams']['split']} split; score --split validation")
    texts = {"report": report_rows(results), "models": model_rows(results), "machine": facts(results)}
    return replace_all(page, SUITE, texts)


def _only(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of the one file there may be."""
    if len(found) > 1:
        raise ValueError(f"{len(found)} files are named; the page is filled from one")
    return found[0]


main = page_writer("reproduction", __doc__, PAGE, [RESULTS], lambda page, found: fill(page, _only(found)))

if __name__ == "__main__":
    guarded(main)
