"""Writes the figures of result files into docs/performance.md, so that none is typed by hand.

    python -m benchmarks.pages.performance [FILE ...] [--page FILE] [--check]

The page has places `<!-- begin SUITE:CASE -->` ... `<!-- end -->`; what stands between is replaced. --check writes
nothing and exits with code 1 if the page differs from the files. What trained models save has its tables in
docs/switches.md (benchmarks/pages/switches.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import guarded
from benchmarks.machine import describe
from benchmarks.pages.page import page_writer, places, replace
from benchmarks.text import markdown

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
RESULTS = Path(__file__).parents[2] / "results"
SUITES = ("ops", "models", "scaling", "generation")


def fill(page: str, results: Sequence[dict[str, Any]]) -> str:
    """The page with the figures of `results`; places of other suites stay as they are.

    Raises:
        ValueError: results of a quick or unfinished run or of a part of one, or other cases in the results than there
            are places.
    """
    for found in results:
        suite = found["suite"]
        if found["quick"] or not found["complete"] or not found.get("whole", True):  # of before it was noted
            raise ValueError(
                f"the results of {suite} are of a quick or unfinished run, of a part of one, or of other models than "
                f"those of the page; run benchmarks.{suite} to its end as the page says"
            )
        given = places(page, suite) - {"machine"}
        cases = {row["case"] for row in found["rows"]}
        if given != cases:
            raise ValueError(
                f"the page has places for {suite}: {', '.join(sorted(given)) or 'none'}, but the results have "
                f"{', '.join(sorted(cases)) or 'none'}; run all cases, or give each a place in the page"
            )
        texts = {case: markdown([row for row in found["rows"] if row["case"] == case]) for case in cases}
        texts["machine"] = "\n".join(f"- {line}" for line in describe(found["machine"]))
        page = replace(page, suite, texts)
    return page


main = page_writer("performance", __doc__, PAGE, [RESULTS / f"{suite}.json" for suite in SUITES], fill)

if __name__ == "__main__":
    guarded(main)
