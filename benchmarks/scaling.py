"""Measures a training step of ResNet-BK and Llama at longer and longer segments, and its memory.

    python -m benchmarks.scaling [--out FILE] [--quick]

Takes about 5 minutes on 2 cores. Exit code 1 if a loss is not what it should be; then no time is given for it.
"""

from collections.abc import Sequence

from benchmarks.command import guarded, out_file, parser, run
from resnet_bk.process import tune_process


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call.
    """
    given = parser("benchmarks.scaling", __doc__).parse_args(arguments)
    out = out_file(given.out, "scaling", whole=not given.quick)
    tune_process()  # before PyTorch is loaded
    from benchmarks.cases import long_segments

    return run("scaling", {long_segments.CASE: long_segments.rows}, out, quick=given.quick, whole=not given.quick)


if __name__ == "__main__":
    guarded(main)
