"""Measures a training step of ResNet-BK beside its peers, shows where the time goes, and what each of its gradients,
the short convolution and the pointer cost.

    python -m benchmarks.models [--models A,B] [--out FILE] [--quick]

Takes under 5 minutes on 2 cores. Exit code 1 if a model does not train as it should; then no time is given.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.command import guarded, out_file, parser, run
from resnet_bk.process import tune_process

if TYPE_CHECKING:
    from benchmarks.row import Row


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call.
    """
    options = parser("benchmarks.models", __doc__)
    options.add_argument("--models", metavar="A,B", default="gpt2,llama", help="the peers; by default gpt2,llama")
    given = options.parse_args(arguments)
    names = [name.strip() for name in given.models.split(",") if name.strip()]
    whole = not given.quick and given.models == options.get_default("models")
    out = out_file(given.out, "models", whole=whole)
    tune_process()  # before PyTorch is loaded
    from benchmarks.cases import gradients, pointed_tokens, short_convolution, training_step

    training_step.check_names(names)
    cases: dict[str, Callable[[bool], Iterator[Row]]] = {
        training_step.CASE: partial(training_step.rows, models=names),
        gradients.CASE: gradients.rows,
        short_convolution.CASE: short_convolution.rows,
        pointed_tokens.CASE: pointed_tokens.rows,
    }
    return run("models", cases, out, quick=given.quick, whole=whole)


if __name__ == "__main__":
    guarded(main)
