"""Times a training step of trained models in turn: what a switch saves once its gates have learned what to skip.

    python -m benchmarks.trained RUN RUN ... [--out FILE] [--quick]

RUN are finished runs of one protocol, for example those that docs/switches.md names; the others are held to the
first. In a round every model takes a step on each of the same few held-out batches, at a learning rate of 0; the next
round has the batches after them, for how much is skipped, and how many rows a matmul gets, depends on the text. Takes
about 7 minutes on 2 cores with the runs of docs/switches.md. RUN is opened read-only; results/ is for those runs,
any others go to runs/. Exit code 1 if a model is not the trained one or skips another share of its work than in its
run; then no time is given.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.command import guarded, out_file, parser, run
from benchmarks.published import is_published
from resnet_bk.process import tune_process

if TYPE_CHECKING:
    from benchmarks.gate import Check
    from benchmarks.row import Row
    from resnet_bk.bench.trained.opened_run import OpenedRun

CASE = "switches"
# Protocol, models and seed of the runs on the page.
PROTOCOL, MODELS, SEED = (
    "ablation-wide",
    ("exact", "bf16", "adaptive", "multi-scale", "sparse", "bf16-multi-scale", "optimised", "all"),
    42,
)
BATCHES = 3  # of a round: a step on each, the state carried from one to the next
ROUNDS, SECONDS = 11, 300.0
# The first batches beside the whole held-out text: nats of loss, and the share by which the work done differs. Where a
# text has other words than the rest, both move a little; half a training more or less is 0.5 nats.
LOSS, WORK = 0.1, 0.1
MEASURES = ("depth", "kept")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call, or no such runs.
    """
    options = parser("benchmarks.trained", __doc__)
    options.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders: OUT/<model>/seed-<s>")
    given = options.parse_args(arguments)
    tune_process()  # before PyTorch is loaded
    from resnet_bk.bench.resolve import run_folder
    from resnet_bk.bench.trained.opened_run import open_run

    runs = [open_run(run_folder(folder), "validation", None, "cpu") for folder in given.runs]
    names = tuple(opened.record["model"] for opened in runs)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"RUN {' '.join(map(str, given.runs))}: must be of two or more different models; name others")
    for opened in runs:
        if opened.audit != "causal":
            raise ValueError(f"RUN {opened.folder}: the model leaks and has no held-out loss; leave it out")
        if found := differences(opened, runs[0]):
            key, (value, expected) = next(iter(found.items()))
            raise ValueError(
                f"RUN {opened.folder}: has {key}={value!r} where {runs[0].folder} has {expected!r}: their steps cannot "
                "be compared; name runs of one protocol and text"
            )
    published = names == MODELS and all(is_published(opened, PROTOCOL, opened.record["model"], SEED) for opened in runs)
    whole = published and not given.quick
    out = out_file(given.out, "trained", whole=whole)
    return run("trained", {CASE: partial(rows, runs)}, out, quick=given.quick, whole=whole)


def differences(run: "OpenedRun", other: "OpenedRun") -> dict[str, tuple[Any, Any]]:
    """What differs in what both runs were given beside the model, by key."""
    from resnet_bk.bench.protocol import NOTED  # no setting of a training

    mine, theirs = (
        {key: value for key, value in opened.protocol.shared_settings().items() if key not in NOTED}
        | {"name": opened.protocol.name}
        | {f"fingerprint of {key}": value for key, value in opened.record["data"]["fingerprints"].items()}
        for opened in (run, other)
    )
    keys = dict.fromkeys((*mine, *theirs))  # a key at its default may be there in one of them alone
    return {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}


class Steps:
    """Steps of one trained model; `take_all` is what is timed.

    Attributes:
        batches: of the held-out text, of all rounds; after the last comes the first.
        place: of the next one.
    """

    def __init__(self, opened: "OpenedRun") -> None:
        from resnet_bk.bench.training_settings import training_settings
        from resnet_bk.data import held_out_batches
        from resnet_bk.training import RunSpec, choose_head
        from resnet_bk.training.optimizer import build_optimizer

        protocol, entry = opened.protocol, opened.protocol.models[opened.record["model"]]
        self.model = opened.model.train()
        text = held_out_batches(opened.tokens.tokens, protocol.batch_size, protocol.sequence_length)
        device = self.model.device
        some = islice(text, BATCHES * (ROUNDS + 2))
        self.batches = [(ids.to(device), targets.to(device)) for ids, targets in some]
        self.place = 0
        self.head = "model" if entry.head == "model" else choose_head(self.model, self.batches[0][0])
        self.spec = RunSpec(
            name=CASE,
            steps=1,
            learning_rate=0.0,
            carry_state=opened.carry_state,
            **training_settings(protocol, opened.record["model"]),
        )
        self.optimizer = build_optimizer(self.model, self.spec)

    def take_all(self) -> list[tuple[float, dict[str, float]]]:
        """A step on each of the next batches: the loss, and what the model reports of its work."""
        from resnet_bk.training.step import training_step

        state, taken = None, []
        for _ in range(BATCHES):
            batch = self.batches[self.place]
            self.place = (self.place + 1) % len(self.batches)
            step = training_step(self.model, self.optimizer, batch, self.head, self.spec, state=state)
            state = step.state
            taken.append((step.loss.item(), {name: float(value) for name, value in step.measures.items()}))
        return taken


def rows(runs: Sequence["OpenedRun"], quick: bool) -> Iterator["Row"]:
    """One row: a line for every model."""
    from benchmarks.gate import run_gate
    from benchmarks.row import Row, Table
    from benchmarks.timing import Timing, interleaved, ratio

    steps = {opened.record["model"]: Steps(opened) for opened in runs}
    first = next(iter(steps))
    seen: dict[str, dict[str, float]] = {}
    gate = run_gate(lambda: checks(runs, steps, seen))
    timings: dict[str, Timing] = {}
    if gate.passed:
        calls: dict[str, Callable[[], object]] = {name: model.take_all for name, model in steps.items()}
        timings = interleaved(calls, 0.05 if quick else SECONDS, most_rounds=1 if quick else ROUNDS)
    lines: list[tuple[Any, ...]] = []
    for name, model in steps.items():
        time, config = timings.get(name), model.model.config
        blocks, work = possible(config), seen.get(name, {})
        faster = None if time is None else ratio(timings[first], time)
        lines.append(
            (
                name,
                None if time is None else time.seconds.median / BATCHES,
                *((None, None, None) if faster is None else (faster.median, faster.low, faster.high)),
                *(f"{work[key]:.2f} of {blocks[key]}" if key in work else None for key in MEASURES),
            )
        )
    columns = ("model", "s a step", f"times as fast as {first}", "lower quartile", "upper quartile")
    protocol = runs[0].protocol
    name = f"trained models of {protocol.name}, B={protocol.batch_size}, T={protocol.sequence_length}"
    rounds = max((len(timing.samples) for timing in timings.values()), default=0)
    commits = dict.fromkeys(commit[:12] for opened in runs for commit in opened.commits)
    notes = (
        f"{rounds} rounds of {BATCHES} steps each; trained at commit {', '.join(commits)}",
        "blocks a token: of those at full length; sites kept: a share, of the blocks with a gate; on the first batches",
    )
    table = Table((*columns, "blocks a token", "sites kept"), tuple(lines))
    yield Row(CASE, name, gate, table=table, notes=notes)


def possible(config: Any) -> dict[str, str]:
    """What each measure is a part of: tokens halt at full length alone, a share of 1 is no gate. Models that skip
    nothing have none."""
    if config.model_type != "resnet_bk":
        return {}
    gates = sum(share < 1 for share in config.site_shares())
    whole = config.block_scales().count(1)
    return {"depth": f"{whole}", "kept": f"{gates} blocks"}


def checks(
    runs: Sequence["OpenedRun"], steps: dict[str, Steps], seen: dict[str, dict[str, float]]
) -> Iterator["Check"]:
    """The models are the trained ones, and skip as much as in their runs: loss and work on the batches are about those
    of the whole held-out text. Fills `seen` with the work."""
    from benchmarks.gate import Check
    from resnet_bk.bench.json_files import read_json

    for opened in runs:
        name, result = opened.record["model"], read_json(opened.folder / "result.json")
        taken = steps[name].take_all()
        loss = fmean(value for value, _ in taken)
        yield Check(f"{name}: loss beside that of the whole text", abs(loss - result["held_out_loss"]), LOSS)
        seen[name] = {key: fmean(work[key] for _, work in taken) for key in MEASURES if key in taken[0][1]}
        for key, value in seen[name].items():
            yield Check(
                f"{name}: {key} beside that of the whole text", abs(value / result["held_out_measures"][key] - 1), WORK
            )


if __name__ == "__main__":
    guarded(main)
