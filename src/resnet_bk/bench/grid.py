"""The runs of a model: each rate of its grid with the first seed, the best one with the other seeds.

What a run does and which result is best are the task's. What is tried, skipped, dropped and told is the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_bk.bench.environment import other_code
from resnet_bk.bench.protocol import Comparison
from resnet_bk.bench.run_folder import Run, files_of_runs, run_of


@dataclass(frozen=True)
class Grid:
    """The runs of a model in a folder, and what is done of them.

    Attributes:
        protocol: of the comparison; its first seed tries the rates.
        out: the folder.
        model: its name in the protocol.
        rates: peak learning rates.
        score: of a result, the lower the better, of equals the first; None for one that cannot be the best.
        searched: whether rates are tried before seeds are run; of a single one there may be nothing to choose.
    """

    protocol: Comparison
    out: Path
    model: str
    rates: Sequence[float]
    score: Callable[[dict[str, Any]], Any]
    searched: bool = True

    def run(self, rate: float, seed: int) -> Run:
        """The run at a rate with a seed."""
        return run_of(self.protocol, self.out, self.model, rate, seed)

    def possible(self) -> list[Run]:
        """Every run that may come to be made."""
        return [self.run(rate, seed) for rate in self.rates for seed in self.protocol.seeds]

    def trials(self) -> list[Run]:
        """The runs that try the rates."""
        return [self.run(rate, self.protocol.seeds[0]) for rate in self.rates]

    def tried(self) -> list[Run]:
        """Those of them that are finished."""
        return [run for run in self.trials() if run.finished]

    def complete(self) -> bool:
        """Whether every rate was tried."""
        return len(self.tried()) == len(self.rates)

    def best(self) -> float | None:
        """The rate with the best score of those tried; None if none has one."""
        scores = {run.learning_rate: self.score(run.result()) for run in self.tried()}
        known = [rate for rate, score in scores.items() if score is not None]
        return min(known, key=lambda rate: scores[rate], default=None)

    def chosen(self) -> list[Run]:
        """The runs at the best rate, one a seed, finished or not; none where it is searched and not known yet.

        Where every rate diverged, the one that tried the best of them: no other seed is run.
        """
        best: float | None = self.rates[0]
        if self.searched:
            best = self.best() if self.complete() else None
        if best is None:
            return []
        trial, *others = (self.run(best, seed) for seed in self.protocol.seeds)
        lost = self.searched and trial.result().get("diverged") is not None
        return [trial] if lost else [trial, *others]

    def done(self) -> bool:
        """Whether nothing is left to train."""
        return all(run.finished for run in (*self.trials(), *self.chosen()))

    def rates_tried(self, *keys: str) -> list[dict[str, Any]]:
        """These keys of the result of every rate tried."""
        results = [run.result() for run in self.tried()]
        return [{key: result.get(key) for key in keys} for result in results]


def left_out(grids: Sequence[Grid], out: Path) -> str:
    """Folders of the finished runs in `out` that no table has: of none of these grids, in one whose rates were not all
    tried, or neither at its best rate nor with the seed that tries the rates."""
    done = [grid for grid in grids if grid.complete() or not grid.searched]
    known = {run.folder for grid in done for run in (*grid.trials(), *grid.chosen())}
    folders = [file.parent for file in files_of_runs(out, "result.json") if file.parent not in known]
    return ", ".join(str(folder.relative_to(out)) for folder in folders)


def _nothing(run: Run) -> None:
    """Nothing is to be done with a run."""


def run_grid(
    grid: Grid,
    execute: Callable[[Run], object],
    say: Callable[[str], None],
    *,
    finished: Callable[[Run], object] = _nothing,
    chosen: Callable[[Run], object] = _nothing,
) -> list[str]:
    """Carry out what is not finished: all rates with the first seed, the best one with the other seeds.

    Args:
        grid: which runs.
        execute: carries out a run and writes its result, in which `diverged` says why it has no figures.
        say: prints a line.
        finished: called with a run that was finished before, which is not carried out again.
        chosen: called with each run at the best rate that has figures.

    Returns:
        What diverged and should not have: every rate, or a seed at the best one; a rate alone is out of the grid.
    """

    def carry_out(run: Run) -> str | None:
        if run.finished:
            finished(run)
            say(f"finished: {run.title} ({run.folder}{other_code(run.result())})")
        else:
            execute(run)
        reason: str | None = run.result().get("diverged")
        return reason

    best, seeds = grid.rates[0], grid.protocol.seeds
    if grid.searched:
        reasons = []
        for run in grid.trials():
            reason = carry_out(run)
            if reason is not None:
                reasons.append(reason)
                say(f"out of the grid: {reason}")
        if len(reasons) == len(grid.rates):
            return [f"{grid.model}: no rate of the grid {list(grid.rates)} could be trained. {reasons[0]}"]
        found = grid.best()
        assert found is not None  # one that did not diverge has a score
        best, seeds = found, seeds[1:]
        chosen(grid.run(best, grid.protocol.seeds[0]))
    lost = []
    for seed in seeds:
        run = grid.run(best, seed)
        reason = carry_out(run)
        if reason is not None:
            lost.append(reason)
            say(reason)
        else:
            chosen(run)
    return lost
