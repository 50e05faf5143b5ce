"""Measures what length costs ResNet-BK and Llama: a training step at longer and longer segments, one more token after
longer and longer texts, and the memory of what is kept of them.

    python -m benchmarks.scaling [--out FILE] [--quick]

Takes about 7 minutes on 2 cores. Exit code 1 if a loss or logits are not what they should be; then no time is given for
them.
"""

import sys
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
    from benchmarks.cases import generation, long_segments

    cases = {module.CASE: module.rows for module in (long_segments, generation)}
    return run("scaling", cases, out, quick=given.quick)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
