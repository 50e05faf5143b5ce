"""What a benchmark leaves for a reader."""

from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_bk.bench.ngrams.table import describe_ngrams


def publish(results: dict[str, Any], out: Path, console: Console) -> None:
    """The table on the terminal, the report beside results.json."""
    # matplotlib takes a second to import: not before it is needed.
    from resnet_bk.bench.report.page import write_report
    from resnet_bk.bench.report.table import results_table

    page = write_report(results, out)
    console.print(results_table(results))
    if results.get("ngrams"):
        console.print(describe_ngrams(results["ngrams"]), highlight=False)
    console.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)
