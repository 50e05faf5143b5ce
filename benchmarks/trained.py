"""Times a training step of trained models in turn: what a switch saves once its gates have learned what to skip.

    python -m benchmarks.trained RUN RUN ... [--out FILE] [--quick]

RUN are finished runs of one protocol, for example those that docs/performance.md names; the others are held to the
first. Every model takes its steps on the same held-out text, one step each a round, at a learning rate of 0, so that
all rounds do the same work. Takes about 5 minutes on 2 cores with the runs of docs/performance.md. RUN is opened
read-only; results/ is for those runs, any others go to runs/. Exit code 1 if a model is not the trained one; then no
time is given.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.command import guarded, out_file, parser, run
from resnet_bk.process import tune_process

if TYPE_CHECKING:
    from benchmarks.gate import Check
    from benchmarks.row import Row
    from resnet_bk.bench.inspect_model import OpenedRun

CASE = "switches"
# Protocol and models of the runs on the page.
PUBLISHED = (
    "ablation-wide",
    ("exact", "diagonal", "bf16", "adaptive", "multi-scale", "sparse", "optimised", "all"),
)
BATCHES = 3  # a step on each in turn, the state carried from one to the next
ROUNDS, SECONDS = 21, 300.0
# Nats between the loss of the first batches and the whole held-out text; an untrained model is off by several.
TOLERANCE = 0.5


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call, or no such runs.
    """
    options = parser("benchmarks.trained", __doc__)
    options.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders: OUT/<model>/seed-<s>")
    given = options.parse_args(arguments)
    tune_process()  # before PyTorch is loaded
    from resnet_bk.bench.inspect_model import open_run, run_folder

    runs = [open_run(run_folder(folder), "validation", None) for folder in given.runs]
    names = tuple(opened.record["model"] for opened in runs)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"RUN {' '.join(map(str, given.runs))}: must be of two or more different models; name others")
    for opened in runs:
        same = runs[0].record["data"]["fingerprints"]
        if opened.protocol.name != runs[0].protocol.name or opened.record["data"]["fingerprints"] != same:
            raise ValueError(f"RUN {opened.folder}: is of another protocol or text than {runs[0].folder}; name others")
    published = (runs[0].protocol.name, names) == PUBLISHED
    out = out_file(given.out, "trained", whole=published and not given.quick)
    return run("trained", {CASE: partial(rows, runs)}, out, quick=given.quick)


class Steps:
    """Steps of one trained model; `take` is what is timed."""

    def __init__(self, opened: "OpenedRun") -> None:
        from resnet_bk.bench.run import split_batches
        from resnet_bk.training import RunSpec, choose_head
        from resnet_bk.training.optimizer import build_optimizer

        protocol, entry = opened.protocol, opened.protocol.models[opened.record["model"]]
        self.model, self.carry, self.dtype = opened.model.train(), opened.carry_state, protocol.dtype
        text = split_batches(opened.tokens, protocol.batch_size, protocol.sequence_length)
        self.batches = list(islice(text, BATCHES))
        self.head = "model" if entry.head == "model" else choose_head(self.model, self.batches[0][0])
        self.clip = float("inf") if protocol.clip is None else protocol.clip
        spec = RunSpec(name=CASE, steps=1, learning_rate=0.0, optimizer=protocol.optimizer)
        self.optimizer = build_optimizer(self.model, spec)
        self.place, self.state = 0, None

    def take(self) -> tuple[float, dict[str, float]]:
        """One step of the optimizer: the loss, and what the model reports of its work."""
        import torch
        from torch.nn.utils import clip_grad_norm_

        from resnet_bk.training import causal_lm_loss

        ids, targets = self.batches[self.place]
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            found = causal_lm_loss(self.model, ids, targets, self.head, carry_state=self.carry, state=self.state)
        (found.value if found.auxiliary is None else found.value + found.auxiliary).backward()
        clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.place = (self.place + 1) % len(self.batches)
        self.state = None if found.state is None or self.place == 0 else found.state.detach()
        return found.value.item(), {name: float(value) for name, value in found.measures.items()}


def rows(runs: Sequence["OpenedRun"], quick: bool) -> Iterator["Row"]:
    """One row: a line for every model."""
    from benchmarks.gate import run_gate
    from benchmarks.row import Row, Table
    from benchmarks.timing import Timing, interleaved, ratio

    steps = {opened.record["model"]: Steps(opened) for opened in runs}
    first = next(iter(steps))
    seen: dict[str, list[tuple[float, dict[str, float]]]] = {
        name: [model.take() for _ in model.batches] for name, model in steps.items()
    }
    gate = run_gate(lambda: checks(runs, seen))
    timings: dict[str, Timing] = {}
    if gate.passed:
        calls: dict[str, Callable[[], object]] = {name: model.take for name, model in steps.items()}
        timings = interleaved(calls, 0.05 if quick else SECONDS, most_rounds=1 if quick else ROUNDS)
    lines: list[tuple[Any, ...]] = []
    for name, taken in seen.items():
        work = [fmean(of[key] for _, of in taken) if key in taken[0][1] else None for key in ("depth", "kept")]
        time = timings.get(name)
        faster = None if time is None else ratio(timings[first], time)
        lines.append(
            (
                name,
                None if time is None else time.seconds.median,
                *((None, None, None) if faster is None else (faster.median, faster.low, faster.high)),
                *work,
            )
        )
    columns = ("model", "s a step", f"times as fast as {first}", "lower quartile", "upper quartile")
    protocol = runs[0].protocol
    name = f"trained models of {protocol.name}, B={protocol.batch_size}, T={protocol.sequence_length}"
    rounds = max((len(timing.samples) for timing in timings.values()), default=0)
    commits = dict.fromkeys((opened.record["environment"]["git_commit"] or "unknown")[:12] for opened in runs)
    notes = (f"{rounds} rounds of one step each; trained at commit {', '.join(commits)}",)
    table = Table((*columns, "blocks a token", "share of sites kept"), tuple(lines))
    yield Row(CASE, name, gate, table=table, notes=notes)


def checks(runs: Sequence["OpenedRun"], seen: dict[str, list[tuple[float, dict[str, float]]]]) -> Iterator["Check"]:
    """The weights are the trained ones: the loss is about that of the whole held-out text."""
    from benchmarks.gate import Check
    from resnet_bk.bench.run_folder import read_json

    for opened in runs:
        name = opened.record["model"]
        reached = read_json(opened.folder / "result.json")["held_out_loss"]
        loss = fmean(value for value, _ in seen[name])
        yield Check(f"{name}: loss beside that of the whole held-out text", abs(loss - reached), TOLERANCE)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
