"""Measures early exit: held-out perplexity, blocks a token and time of a trained model with `adaptive_computation`, at
lower and lower thresholds.

    python -m benchmarks.exits RUN [--out FILE] [--quick]

RUN is a finished run, for example the one that docs/switches.md names. Takes about 2 minutes on 2 cores.
RUN is opened read-only; results/ is for the run of docs/switches.md, any other goes to runs/. Exit code 1 if the loss
at the threshold of the training is not that of the run or the lowest one saves no work; then no time is given.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import guarded, out_file, parser, run
from benchmarks.published import is_published
from resnet_bk.process import tune_process

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.gate import Check
    from benchmarks.row import Row
    from resnet_bk.bench.trained.opened_run import OpenedRun
    from resnet_bk.training.evaluate import Evaluation

CASE = "early exit"
THRESHOLDS = (0.9, 0.7, 0.5, 0.3, 0.1)
PUBLISHED = ("ablation", "adaptive", 42)  # protocol, model and seed of the run on the page
TIMED_BATCHES = 8
LOSS = 1e-4  # nats; with other sums in another order a few tokens of a text halt elsewhere
SAVES = 0.999  # of the blocks at the threshold of the training, at most, at the lowest one


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call, or no such run.
    """
    options = parser("benchmarks.exits", __doc__)
    options.add_argument("run", metavar="RUN", type=Path, help="a run folder: OUT/<model>/seed-<s>")
    given = options.parse_args(arguments)
    tune_process()  # before PyTorch is loaded
    from resnet_bk.bench.resolve import run_folder
    from resnet_bk.bench.trained.opened_run import open_run

    opened = open_run(run_folder(given.run), "validation", None, "cpu")
    config = opened.model.config
    if opened.audit != "causal":
        raise ValueError(f"RUN {given.run}: the model leaks and has no held-out loss; name another run")
    if not getattr(config, "adaptive_computation", False):
        raise ValueError(
            f"RUN {given.run}: no token of this {config.model_type} halts; name a run of a model with "
            "adaptive_computation"
        )
    if config.halting_threshold <= min(THRESHOLDS):
        raise ValueError(
            f"RUN {given.run}: its halting_threshold={config.halting_threshold} must be above {min(THRESHOLDS)}, the "
            "lowest threshold measured; name another run"
        )
    whole = is_published(opened, *PUBLISHED) and not given.quick
    out = out_file(given.out, "exits", whole=whole)
    return run("exits", {CASE: partial(rows, opened)}, out, quick=given.quick, whole=whole)


def rows(opened: "OpenedRun", quick: bool) -> Iterator["Row"]:
    """One row: a line for every threshold, that of the training first."""
    from benchmarks.gate import run_gate
    from benchmarks.row import Row, Table
    from benchmarks.timing import Timing, interleaved, ratio
    from resnet_bk.bench.json_files import read_json

    config = opened.model.config
    trained = config.halting_threshold
    thresholds = (trained, *(threshold for threshold in THRESHOLDS if threshold < trained))
    found = {threshold: evaluated(opened, threshold, 1 if quick else None) for threshold in thresholds}
    loss = evaluated(opened, trained).loss if quick else found[trained].loss
    beside = abs(loss - read_json(opened.folder / "result.json")["held_out_loss"])
    gate = run_gate(lambda: checks(found, thresholds, beside))
    batches = sum(1 for _ in islice(held_out(opened), TIMED_BATCHES))  # a short text has fewer
    timings: dict[str, Timing] = {}
    if gate.passed:
        contenders: dict[str, Callable[[], object]] = {
            str(threshold): partial(evaluated, opened, threshold, TIMED_BATCHES) for threshold in thresholds
        }
        timings = interleaved(contenders, 0.05 if quick else 90.0, most_rounds=1 if quick else 11)
    lines = []
    for threshold in thresholds:
        timing, reached = timings.get(str(threshold)), found[threshold]
        lines.append(
            (
                threshold,
                reached.measures["depth"],
                reached.perplexity,
                None if timing is None else timing.seconds.median / batches,
                None if timing is None else ratio(timings[str(trained)], timing).median,
            )
        )
    blocks = config.block_scales().count(1)
    columns = ("threshold", f"blocks a token, of {blocks}", "held-out perplexity", "s a batch", "times as fast")
    protocol = opened.protocol
    name = f"{opened.record['model']} of {protocol.name}, B={protocol.batch_size}, T={protocol.sequence_length}"
    notes = (f"trained {opened.record['training']['steps']} steps at the threshold of the first line",)
    yield Row(CASE, name, gate, table=Table(columns, tuple(lines)), notes=notes)


def evaluated(opened: "OpenedRun", threshold: float, batches: int | None = None) -> "Evaluation":
    """The held-out text, or its first batches, read at a threshold."""
    from resnet_bk.training import evaluate

    model, text = opened.model, islice(held_out(opened), batches)
    model.config.early_exit_threshold = threshold
    return evaluate(model, text, head="fused", carry_state=opened.carry_state, dtype=opened.protocol.dtype)


def held_out(opened: "OpenedRun") -> Iterator[tuple["Tensor", "Tensor"]]:
    """Its batches."""
    from resnet_bk.data import held_out_batches

    return held_out_batches(opened.tokens.tokens, opened.protocol.batch_size, opened.protocol.sequence_length)


def checks(found: dict[float, "Evaluation"], thresholds: Sequence[float], beside: float) -> Iterator["Check"]:
    """At the first threshold, that of the training, the loss is `beside` that of the run, and the last saves blocks.

    Neighbours are not compared: what a stopped token writes into later chains differs, so that another may go deeper.
    """
    from benchmarks.gate import Check

    first, last = thresholds[0], thresholds[-1]
    yield Check("threshold of the training: loss beside that of the run", beside, LOSS)
    share = found[last].measures["depth"] / found[first].measures["depth"]
    yield Check(f"threshold {last}: share of the blocks at {first}", share, SAVES)


if __name__ == "__main__":
    guarded(main)
