"""Writes every figure of the README and of docs/ anew from results/, or says which pages differ from it.

    python -m benchmarks.pages [--check]

Each writer is a command of its own as well, which takes other files: `python -m benchmarks.pages.readme --help`.
--check writes nothing and exits with code 1 if a page differs.
"""

from collections.abc import Sequence

from benchmarks.command import Parser, guarded
from benchmarks.pages import choices, course, front, performance, readme, reproduction, results, switches

WRITERS = (front, readme, course, results, choices, reproduction, switches, performance)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call, or a page that cannot be written; those after it are left as they are.
    """
    options = Parser(prog="python -m benchmarks.pages", description=__doc__)
    options.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    passed_on = ["--check"] if options.parse_args(arguments).check else []
    return max([writer.main(passed_on) for writer in WRITERS])


if __name__ == "__main__":
    guarded(main)
