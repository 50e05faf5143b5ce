"""The n-gram baselines as a table and as a line."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from resnet_bk.bench.ngrams.kneser_ney import FALLBACK_DISCOUNTS
from resnet_bk.bench.report import formatting as fmt


def ngram_table(result: dict[str, Any]) -> Table:
    """The baselines, one row an order."""
    caption = (
        f"{result['method']}; {result['train_tokens']:,} training tokens, {result['tokens']:,} held-out tokens "
        f"predicted, {result['vocab_size']:,} words, {fmt.percent(result['unk_rate'])} <unk>."
    )
    if not all(entry["discounts_estimated"] for entry in result["ngrams"]):
        caption += (
            f" *: at some order too few n-grams are rare to estimate the discounts from; {FALLBACK_DISCOUNTS} there."
        )
    table = Table(
        title=Text(f"{result['protocol']} on {result['dataset_name']}: n-gram baselines, {result['split']} split"),
        caption=Text(caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("model")
    for header in ("perplexity", "nats/token", "bits/char", "different n-grams", "discounts", "time"):
        table.add_column(header, justify="right", no_wrap=True)
    for entry in result["ngrams"]:
        discounts = ", ".join(f"{value:.2f}" for value in entry["discounts"])
        table.add_row(
            entry["name"],
            fmt.perplexity(entry["perplexity"]),
            fmt.decimal(entry["loss"], 3),
            fmt.decimal(entry["bits_per_character"], 3),
            fmt.count(entry["different_ngrams"]),
            discounts if entry["discounts_estimated"] else f"{discounts} *",
            fmt.duration(entry["seconds"]),
        )
    return table


def describe_ngrams(result: dict[str, Any]) -> str:
    """One line: the perplexities by order."""
    figures = ", ".join(f"{entry['name']} {fmt.perplexity(entry['perplexity'])}" for entry in result["ngrams"])
    return f"n-gram baselines, {result['split']} perplexity: {figures}"
