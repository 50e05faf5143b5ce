"""Writes the figures of the README's tables from results/, so that none is typed by hand.

    python -m benchmarks.pages.readme [FILE ...] [--page FILE] [--check]

FILE is the results.json of `resnet-bk bench`, by default those in results/ of the protocols that the README shows; one
of `quick-pointer` gives further models of `quick`.
--check writes nothing and exits with code 1 if the README differs from them.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.command import guarded
from benchmarks.pages.page import by_model, page_writer, reached, replace_all, table
from resnet_bk.bench.protocol import NOT_OF_A_RUN, Protocol
from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import compare_documents, summarize

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "README.md"
SUITES = ("seed-local-tuned", "small", "quick")
# Results -> the protocol of whose work they are further models.
MORE_MODELS = {"quick-pointer": "quick"}
# What results whose models stand in one table have alike: settings of the protocol, and fingerprints of the text.
SHARED = sorted({*Protocol.model_fields} - {*NOT_OF_A_RUN})
TEXT = ("corpus", "train_tokens", "validation_tokens")
PEERS = "quick-peers"  # on the text of `quick`, whose n-grams stand with that
FILES = [ROOT / "results" / suite / "results.json" for suite in (*SUITES, *MORE_MODELS, PEERS)]
NAMES = {
    "resnet-bk": "**ResNet-BK** (modulus state, short convolution, pointer)",
    "no-pointer": "ResNet-BK without the pointer",
    "no-convolution": "ResNet-BK without the convolution",
    "llama": "Llama (RoPE, RMSNorm, SwiGLU)",
    "llama-pointer": "Llama with ResNet-BK's pointer",
    "gpt2": "GPT-2",
    "mamba2": "Mamba-2",
    "gated-deltanet": "Gated DeltaNet",
    "kimi-delta": "Kimi delta attention",
    "xlstm": "xLSTM",
}

HELD_OUT = (
    "held_out_perplexity",
    "held_out_perplexity_without_carry",
    "held_out_perplexity_overlapping",
)


def rows(results: Mapping[str, Any]) -> str:
    """A row a model, the lowest perplexity first, then n-gram models where there are any; models that see the answer
    last.

    No times: runs of one table may have shared the machine with other work.
    """
    models, over = by_model(results), ratios(results)

    def bits(runs: list[dict[str, Any]]) -> str:
        if runs[0]["audit"] == "leaks":
            return fmt.MISSING
        return fmt.decimal(fmean(run["bits_per_character"] for run in runs), 3)

    def order(item: tuple[str, list[dict[str, Any]]]) -> float:
        return float("inf") if item[1][0]["audit"] == "leaks" else fmean(run["held_out_perplexity"] for run in item[1])

    lines: list[tuple[str, ...]] = []
    for name, runs in sorted(models.items(), key=order):
        # A model that leaks has none of these.
        carried, *others = (reached([run[key] for run in runs]) for key in HELD_OUT)
        if runs[0]["audit"] == "leaks":
            carried = "leaks"
        ratio = over.get(name, fmt.MISSING)
        lines.append((NAMES.get(name, name), carried, ratio, *others, bits(runs), fmt.count(len(runs))))
    for entry in results["ngrams"]["ngrams"] if "ngrams" in results else ():
        if entry["order"] in (1, 5):
            name = "unigram (word frequencies alone)" if entry["order"] == 1 else "5-gram, Kneser-Ney"
            of_order = fmt.decimal(entry["bits_per_character"], 3)
            lines.append((name, fmt.perplexity(entry["perplexity"]), *[fmt.MISSING] * 3, of_order, fmt.MISSING))
    held_out = ("held-out perplexity", "ResNet-BK over it (95%)", "state not carried", "overlapping windows")
    return table(("", *held_out, "bits per character", "seeds"), lines)


def ratios(results: Mapping[str, Any]) -> dict[str, str]:
    """The perplexity of the first of `NAMES` over that of every other model, of the seeds that both have, with its
    interval over the documents; none where it was not trained, or the documents are too few."""
    models = {model.name: model for model in summarize(parse_results(dict(results)))}
    (ours, _), *_ = NAMES.items()
    if ours not in models:
        return {}
    tokens = results["data"].get("document_tokens", [])
    compared = {name: compare_documents(models[ours], model, tokens) for name, model in models.items() if name != ours}
    return {
        name: f"{interval.ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})"
        for name, interval in compared.items()
        if interval is not None
    }


def unknown(results: Mapping[str, Any]) -> str:
    """A sentence: how much of the text is no word of the vocabulary."""
    return f"{results['data']['validation_unk_rate']:.1%} of the held-out tokens are `<unk>`."


def with_more(found: Mapping[str, Any], more: Mapping[str, Any]) -> Mapping[str, Any]:
    """Results with the runs of models that they do not have themselves.

    Raises:
        ValueError: those are of other text or settings.
    """
    first, second = (of["protocol"] | (of.get("data") or {}).get("fingerprints", {}) for of in (found, more))
    # A key that came later is in one of them alone.
    differ = [key for key in (*SHARED, *TEXT) if {key} <= first.keys() & second.keys() and first[key] != second[key]]
    if differ:
        names = " and ".join(of["protocol"]["name"] for of in (found, more))
        raise ValueError(f"{names} differ in {', '.join(differ)}, and cannot stand in one table; train them alike")
    known = {run["model_name"] for run in found["runs"]}
    return {**found, "runs": [*found["runs"], *(run for run in more["runs"] if run["model_name"] not in known)]}


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the figures of `results`.

    Raises:
        ValueError: a place is missing, or results have no n-grams.
    """
    for found in results:
        suite = found["protocol"]["name"]
        if suite in MORE_MODELS:
            continue
        if suite == PEERS:
            page = replace_all(page, suite, {"table": rows(found)})
            continue
        if "ngrams" not in found:
            raise ValueError(f"the results of {suite} have no n-grams; call resnet-bk ngrams {suite} --out OUT")
        if found["ngrams"]["split"] != "validation":
            raise ValueError(
                f"the n-grams of {suite} are of the {found['ngrams']['split']} split; score --split validation"
            )
        for more in results:
            if MORE_MODELS.get(more["protocol"]["name"]) == suite:
                found = with_more(found, more)
        page = replace_all(page, suite, {"table": f"{rows(found)}\n\n{unknown(found)}"})
    return page


main = page_writer("readme", __doc__, PAGE, FILES, fill)

if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
