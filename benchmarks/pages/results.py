"""Writes the figures of the tuned comparisons into docs/results.md, so that none is typed by hand.

    python -m benchmarks.pages.results [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench` on one of the protocols of the page, by default those in results/: the
comparisons in results/PROTOCOL, further models of one of them in results/quick-pointer, grids of learning rates in
results/PROTOCOL-grid and results/PROTOCOL-grid-MODELS, comparison and grid in one in results/quick-peers,
associative recall in results/mqar, times of ResNet-BK and Llama side by side in results/PROTOCOL-times.
FILE may also be the lengths.json of `resnet-bk lengths`, by default results/lengths. Only what has a place on the page
can be named.
--check writes nothing and exits with code 1 if the page differs from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages.comparison import MORE_MODELS, OURS, joined, need_alike, ratios
from benchmarks.pages.page import (
    HELD_OUT,
    by_model,
    machine,
    need_perplexity,
    one_machine,
    page_writer,
    reached,
    replace_all,
    table,
    timed,
    trained_and_read,
)
from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.results_schema import Bucket, known_words
from resnet_bk.bench.report.statistics import paired_t_test

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
COMPARISONS = ("seed-local-tuned", "seed-local-tuned-two-epochs", "seed-local-tuned-parts", "small", "quick", "books")
SEARCHED = ("quick-peers",)  # comparisons whose protocol has the grid of their rates
RECALL = "mqar"
LENGTHS = "lengths"
TIMES = ("seed-local-tuned-times", "small-times")  # ours and Llama side by side, nothing else on the machine
GRIDS = (
    *(f"seed-local-tuned-grid{models}" for models in ("", "-no-pointer", "-mamba2", "-deltanet", "-peers", "-pointer")),
    "small-grid",
)
FILES = [
    *(
        ROOT / "results" / folder / "results.json"
        for folder in (*COMPARISONS, *MORE_MODELS, *SEARCHED, *GRIDS, RECALL, *TIMES)
    ),
    ROOT / "results" / LENGTHS / f"{LENGTHS}.json",
]
# What the others are held to: the Transformers as `transformers` has them.
TRANSFORMERS = ("llama", "gpt2")
LLAMA = "llama"
WITHOUT, OVERLAPPING = "held_out_perplexity_without_carry", "held_out_perplexity_overlapping"
WITHOUT_POINTER, POINTERS = "no-pointer", {OURS, "llama-pointer", "gemma3-pointer"}


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
    """A row a model, the lowest perplexity first.

    Raises:
        ValueError: a model that leaks.
    """
    need_perplexity(results["protocol"]["name"], results["runs"])
    models = by_model(results)
    base = best_transformer(models)
    comparable = by_model({"runs": timed(results)})
    lines = []
    for name, runs in sorted(models.items(), key=lambda item: fmean(run[HELD_OUT] for run in item[1])):
        cells = {
            "model": f"`{name}`",
            "held-out perplexity": reached([run[HELD_OUT] for run in runs]),
            "seeds": fmt.count(len(runs)),
            f"relative to `{base}`": relative(runs, models[base]),
            "state not carried": reached([run[WITHOUT] for run in runs]),
            "overlapping windows": reached([run[OVERLAPPING] for run in runs]),
            "parameters": fmt.count(runs[0]["parameters"]),
            "lr": f"{runs[0]['learning_rate']:g}",
            "peak MiB": peak(comparable.get(name, [])),
        }
        lines.append(cells)
    data = results["data"]
    facts = [*machine(results), *whose(results, "memory"), *intervals(results), *paired_tests(models)]
    facts.append(f"data {data['name']}: {data['train_tokens']:,} training tokens")
    facts += [*ngrams(results), *unknown_words(results)]
    return f"{table(list(lines[0]), [list(line.values()) for line in lines])}\n\n" + "\n".join(
        f"- {line}" for line in facts
    )


def relative(runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> str:
    """Mean perplexity over that of `base`, of the seeds that both have."""
    ours, theirs = ({run["seed"]: run[HELD_OUT] for run in found} for found in (runs, base))
    shared = ours.keys() & theirs.keys()
    return f"{fmean(ours[seed] for seed in shared) / fmean(theirs[seed] for seed in shared):.3f}" if shared else "–"


def intervals(results: Mapping[str, Any]) -> list[str]:
    """A fact: ours over every other model, with the interval over the held-out documents."""
    if not results["data"].get("document_tokens"):
        return []
    found = "; ".join(f"`{name}` {ratio}" for name, ratio in ratios(results).items())
    return [f"`{OURS}` over another, of the seeds that both have (95% over the held-out documents): {found}"] * bool(
        found
    )


def ngrams(results: Mapping[str, Any]) -> list[str]:
    """A fact: what word frequencies alone reach on this text, and five words.

    Raises:
        ValueError: they are of another split than the perplexities.
    """
    if "ngrams" not in results:
        return []
    if results["ngrams"]["split"] != "validation":
        raise ValueError(
            f"the n-grams of {results['protocol']['name']} are of the {results['ngrams']['split']} split; score "
            "--split validation"
        )
    reached = {entry["order"]: fmt.perplexity(entry["perplexity"]) for entry in results["ngrams"]["ngrams"]}
    return [f"unigram {reached[1]}, 5-gram (Kneser-Ney) {reached[5]}"]


def unknown_words(results: Mapping[str, Any]) -> list[str]:
    """A fact: how much of the text is no word of the vocabulary, and what models reach on all that is."""
    share = results["data"].get("validation_unk_rate")
    if share is None:
        return []
    text = f"{share:.1%} of the held-out tokens are `<unk>`"
    for key, where in (("buckets", "as in the first column"), ("overlapping_buckets", "in windows")):
        found = {
            name: [known_words([Bucket.model_validate(bucket) for bucket in run.get(key) or ()]) for run in runs]
            for name, runs in by_model(results).items()
        }
        known = {name: [value for value in values if value is not None] for name, values in found.items()}
        shown = sorted((fmean(known[name]), name) for name, values in found.items() if None not in values)
        if shown:
            models = ", ".join(f"`{name}` {reached(known[name])}" for _, name in shown)
            text += f"; perplexity of all others, {where}: {models}"
    return [text]


def paired_tests(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Facts: ratios and paired tests of ours with every model that has two seeds or more of it, with the state carried
    and in windows, where all see the same text; the latter of ours without the pointer, too, with models without."""
    facts = []
    for ours, key, where in (
        (OURS, HELD_OUT, "in the first column"),
        (OURS, OVERLAPPING, "in windows"),
        (WITHOUT_POINTER, OVERLAPPING, "in windows"),
    ):
        found = []
        pointers = POINTERS if ours == WITHOUT_POINTER else set()
        for other in models.keys() - {ours} - pointers if ours in models else ():
            first, second = (
                {run["seed"]: run[key] for run in models[name] if run[key] is not None} for name in (ours, other)
            )
            seeds = sorted(first.keys() & second.keys())
            if len(seeds) > 1:
                test = paired_t_test([first[seed] for seed in seeds], [second[seed] for seed in seeds])
                found.append(f"`{other}` {test.ratio:.3f} ({fmt.p_value(test.p_value)}, {test.count} seeds)")
        if found:
            tests = "geometric mean over seeds (paired t test on the logarithm, two-sided)"
            facts.append(f"`{ours}` {where} over another, {tests}: {'; '.join(sorted(found))}")
    return facts


def whose(results: Mapping[str, Any], what: str) -> list[str]:
    """A fact about what depends on the machine where some of it has no place on the page."""
    return [f"{what}: of the runs on the first machine alone"] if len(timed(results)) < len(results["runs"]) else []


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
        reached = ([log[step] for log in logs] for step in steps)
        lines.append((f"`{name}`", *(fmt.perplexity(None if None in found else fmean(found)) for found in reached)))
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


def grid(searches: Sequence[Mapping[str, Any]]) -> str:
    """What every rate of one grid reached, in one or several calls.

    Raises:
        ValueError: the grids differ, also in text or settings, or a model leaks.
    """
    rates = searches[0]["protocol"]["learning_rates"]
    lines = []
    for results in searches:
        if results["protocol"]["learning_rates"] != rates:
            raise ValueError(f"the grids differ: {rates} and {results['protocol']['learning_rates']}; search one grid")
        need_alike(searches[0], results)
        need_perplexity(results["protocol"]["name"], results["runs"])
        for name, runs in by_model(results).items():
            reached = {entry["learning_rate"]: entry[HELD_OUT] for entry in runs[0]["learning_rates_tried"]}
            lines.append((f"`{name}`", *(fmt.perplexity(reached.get(rate)) for rate in rates)))
    return table(("model", *(f"lr {rate:g}" for rate in rates)), lines)


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
    facts = machine({**results, "runs": [run | run["environment"] for run in results["runs"]]}) + whose(
        results, "times"
    )
    epochs = f"{protocol['epochs']} epoch{'s' * (protocol['epochs'] != 1)}"
    facts.append(f"{epochs} of {sum(kind['examples'] for kind in protocol['train']):,} examples")
    facts.append(f"seeds: {', '.join(f'{name} {len(runs)}' for name, runs in by_model(results).items())}")
    facts += [f"{found['title']}: diverged, no figures" for found in results["diverged"]]
    columns = ("model", "state, all layers", "parameters without embeddings", "lr", *tests, "minutes of training")
    return f"{table(columns, lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


def lengths(result: Mapping[str, Any]) -> str:
    """A row a reading of a model, a column a stretch of the documents: perplexity, the mean over the seeds; dashes
    where the model cannot read so, and below the table why.

    Raises:
        ValueError: the seeds of a model differ in whether they can, or why not.
    """
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for model in result["models"]:
        for reading in model["readings"]:
            found.setdefault((model["model_name"], reading["name"]), []).append(reading)
    lines, problems = [], []
    for (name, read), of_seeds in found.items():
        problem = of_seeds[0]["problem"]
        if any(reading["problem"] != problem for reading in of_seeds):
            told = " or ".join(dict.fromkeys(reading["problem"] or "none" for reading in of_seeds))
            raise ValueError(
                f"{name}, {read}: its seeds differ in the problem with reading so ({told}), and have no mean; read "
                "seeds of one protocol"
            )
        if problem is None:
            runs = zip(*(reading["perplexity"] for reading in of_seeds), strict=True)
            cells = [fmt.perplexity(fmean(values)) for values in runs]
        else:
            cells = [fmt.MISSING] * len(result["places"])
            problems.append(f"`{name}`, {read}: {problem}")
        lines.append((f"`{name}`", read, *cells))
    facts = [
        f"{result['documents']} documents of {result['dataset_name']}, {result['split']}; "
        f"{result['unk_rate']:.2%} `<unk>`",
        *problems,
        *trained_and_read(result),
    ]
    places = (f"{start:,} to {stop:,}" for start, stop in result["places"])
    return f"{table(('model', 'read', *places), lines)}\n\n" + "\n".join(f"- {line}" for line in facts)


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: results of another protocol, or without a Transformer.
    """
    searches: dict[str, list[Mapping[str, Any]]] = {}
    side_by_side: list[Mapping[str, Any]] = []
    for found in results:
        if "places" in found:
            page = replace_all(page, LENGTHS, {"table": lengths(found)})
    for found in joined([found for found in results if "places" not in found]):
        suite = found["protocol"]["name"]
        if suite not in (known := (*COMPARISONS, *SEARCHED, RECALL, *TIMES)):
            raise ValueError(f"the results are of protocol {suite}, not of {' or '.join(known)}; name other files")
        if suite in TIMES:
            side_by_side.append(found)
        elif suite == RECALL:
            page = replace_all(page, suite, {"table": recall(found)})
        elif suite in SEARCHED:
            page = replace_all(page, suite, {"table": rows(found), "course": course(found), "grid": grid([found])})
        elif len(found["protocol"]["learning_rates"] or ()) > 1:  # of one rate nothing is searched
            searches.setdefault(suite, []).append(found)
        else:
            page = replace_all(page, suite, {"table": rows(found), "course": course(found)})
    for suite, of_suite in searches.items():
        page = replace_all(page, f"{suite}-grid", {"table": grid(of_suite)})
    if side_by_side:
        page = replace_all(page, "times", {"table": times(side_by_side)})
    return page


main = page_writer("results", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(main)
