"""Measures one more token of ResNet-BK and Llama after longer and longer texts, and the memory of what they keep.

    python -m benchmarks.generation [--out FILE] [--quick]

Takes 2 minutes on 2 cores. Exit code 1 if logits are not what they should be; then no time is given for them.
"""

from collections.abc import Sequence

from benchmarks.command import guarded, out_file, parser, run
from resnet_bk.process import tune_process


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call.
    """
    given = parser("benchmarks.generation", __doc__).parse_args(arguments)
    out = out_file(given.out, "generation", whole=not given.quick)
    tune_process()  # before PyTorch is loaded
    from benchmarks.cases import generation

    return run("generation", {generation.CASE: generation.rows}, out, quick=given.quick, whole=not given.quick)


if __name__ == "__main__":
    guarded(main)
