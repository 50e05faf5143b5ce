"""Writes the README's table of one comparison from results/, so that no figure is typed by hand.

    python -m benchmarks.pages.readme [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench`, by default that of `seed-local-tuned` in results/; the page must have a
place for its protocol.
--check writes nothing and exits with code 1 if the README differs from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages.comparison import OURS, window_ratios
from benchmarks.pages.page import HELD_OUT, by_model, leaks, need_perplexity, page_writer, reached, replace_all, table
from resnet_bk.bench.report import formatting as fmt

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "README.md"
FILES = [ROOT / "results" / "seed-local-tuned" / "results.json"]
NAMES = {
    "resnet-bk": "**ResNet-BK** (modulus state, short convolution, pointer)",
    "no-pointer": "ResNet-BK without the pointer",
    "llama": "Llama (RoPE, RMSNorm, SwiGLU)",
    "llama-pointer": "Llama with ResNet-BK's pointer",
    "gemma3": "Gemma 3 (norms also on queries, keys and outputs)",
    "gemma3-pointer": "Gemma 3 with ResNet-BK's pointer",
    "gpt2": "GPT-2",
    "mamba2": "Mamba-2",
    "gated-deltanet": "Gated DeltaNet",
}

PLAIN = "no-pointer"  # ours without the pointer, compared with models that have none
POINTED = "-pointer"  # how the names of others end that have it; its own is not compared with itself
OVERLAPPING = "held_out_perplexity_overlapping"
VIEWS = (OVERLAPPING, "held_out_perplexity_without_carry", HELD_OUT)


def rows(results: Mapping[str, Any]) -> str:
    """A row a model, the lowest perplexity in windows first (there all read the same text), models that see the answer
    last; then two n-gram models.

    No times: runs of one table may have shared the machine with other work.

    Raises:
        ValueError: a model that does not leak has no perplexity.
    """
    models = by_model(results)
    leaky = {name for name, runs in models.items() if leaks(runs)}
    need_perplexity(results["protocol"]["name"], [run for run in results["runs"] if run["model_name"] not in leaky])
    over, plain = window_ratios(results), window_ratios(results, PLAIN)

    def order(name: str) -> float:
        return float("inf") if name in leaky else fmean(run[OVERLAPPING] or run[HELD_OUT] for run in models[name])

    lines: list[tuple[str, ...]] = []
    for name in sorted(models, key=order):
        runs = models[name]
        if name in leaky:
            cells = ["leaks", *[fmt.MISSING] * 5]
        else:
            windows, *others = (reached([run[key] for run in runs]) for key in VIEWS)
            bits = fmt.decimal(fmean(run["bits_per_character"] for run in runs), 3)
            without = fmt.MISSING if name == OURS or name.endswith(POINTED) else plain.get(name, fmt.MISSING)
            cells = [windows, over.get(name, fmt.MISSING), without, *others, bits]
        lines.append((NAMES.get(name, name), *cells, fmt.count(len(runs))))
    for entry in results["ngrams"]["ngrams"]:
        if entry["order"] in (1, 5):
            name = "unigram (word frequencies alone)" if entry["order"] == 1 else "5-gram, Kneser-Ney"
            of_order = fmt.decimal(entry["bits_per_character"], 3)
            lines.append((name, *[fmt.MISSING] * 4, fmt.perplexity(entry["perplexity"]), of_order, fmt.MISSING))
    over_it = ("ResNet-BK over it", "ResNet-BK without the pointer over it")
    head = ("", "overlapping windows", *over_it, "state not carried", "state carried", "bits per character", "seeds")
    return table(head, lines)


def unknown(results: Mapping[str, Any]) -> str:
    """A sentence: how much of the text is no word of the vocabulary."""
    return f"{results['data']['validation_unk_rate']:.1%} of the held-out tokens are `<unk>`."


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: a place is missing, results have no n-grams, or see `rows`.
    """
    for found in results:
        suite = found["protocol"]["name"]
        if "ngrams" not in found:
            raise ValueError(f"the results of {suite} have no n-grams; call resnet-bk ngrams {suite} --out OUT")
        if found["ngrams"]["split"] != "validation":
            raise ValueError(
                f"the n-grams of {suite} are of the {found['ngrams']['split']} split; score --split validation"
            )
        page = replace_all(page, suite, {"table": f"{rows(found)}\n\n{unknown(found)}"})
    return page


main = page_writer("readme", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(main)
