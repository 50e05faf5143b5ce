"""Measures the operators beside their baselines.

    python -m benchmarks.ops [--only CASE,CASE] [--out FILE] [--quick]

Takes about 9 minutes and up to 4 GiB on 2 cores. Exit code 1 if a result is wrong; then no time is given for it.
"""

from collections.abc import Sequence

from benchmarks.command import choose, guarded, out_file, parser, run
from resnet_bk.process import tune_process

CASES = ("vector", "determinant", "attention", "modulus", "head", "accuracy", "threads", "startup")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call.
    """
    options = parser("benchmarks.ops", __doc__)
    options.add_argument("--only", metavar="CASE", help=f"some of {', '.join(CASES)}, apart by commas")
    given = options.parse_args(arguments)
    only = choose("--only", given.only, list(CASES))
    whole = not given.quick and len(only) == len(CASES)
    out = out_file(given.out, "ops", whole=whole)
    tune_process()  # before PyTorch is loaded
    from benchmarks.cases import accuracy, attention, determinant, head, modulus, startup, threads, vector

    modules = (vector, determinant, attention, modulus, head, accuracy, threads, startup)
    known = {module.CASE: module.rows for module in modules}
    assert tuple(known) == CASES, known
    return run("ops", {name: known[name] for name in only}, out, quick=given.quick, whole=whole)


if __name__ == "__main__":
    guarded(main)
