"""Which runs of a model are carried out, skipped, dropped and chosen, whatever a run does."""

import json
from types import SimpleNamespace

import pytest

from resnet_bk.bench.grid import Grid, left_out, run_grid

RATES, SEEDS = [0.3, 0.1, 0.2], [7, 8]


class Task:
    """Runs whose loss is that of their rate, and None, as they diverge, where it has none."""

    def __init__(self, out, losses, diverging_seeds=(), searched=True, score=lambda result: result["loss"]):
        protocol = SimpleNamespace(name="x", models={}, seeds=SEEDS, learning_rates=RATES)
        self.grid = Grid(protocol, out, "model", list(losses), score, searched)
        self.losses, self.diverging_seeds = losses, diverging_seeds
        self.lines, self.executed, self.finished, self.chosen = [], [], [], []

    def execute(self, run):
        loss = None if run.seed in self.diverging_seeds else self.losses[run.learning_rate]
        run.folder.mkdir(parents=True)
        (run.folder / "run.json").write_text("{}")
        named = {"model_name": run.model, "learning_rate": run.learning_rate, "seed": run.seed}
        result = named | {"audit": "causal", "loss": loss}
        if loss is None:
            result["diverged"] = f"{run.title} diverged"
        (run.folder / "result.json").write_text(json.dumps(result))
        self.executed.append((run.learning_rate, run.seed))

    def run(self):
        for found in (self.lines, self.executed, self.finished, self.chosen):
            found.clear()
        note = {"finished": self.finished, "chosen": self.chosen}
        calls = {key: lambda run, to=to: to.append((run.learning_rate, run.seed)) for key, to in note.items()}
        return run_grid(self.grid, self.execute, self.lines.append, **calls)


@pytest.fixture
def task(tmp_path):
    return lambda *arguments, **options: Task(tmp_path, *arguments, **options)


def test_the_best_rate_runs_the_other_seeds(task):
    found = task({0.3: 2.0, 0.1: None, 0.2: 1.0})
    assert not found.grid.done()
    assert (found.grid.best(), found.grid.chosen()) == (None, [])
    assert found.run() == []
    assert found.executed == [(0.3, 7), (0.1, 7), (0.2, 7), (0.2, 8)]
    assert (found.finished, found.chosen) == ([], [(0.2, 7), (0.2, 8)])
    assert found.lines == ["out of the grid: model  lr 0.1  seed 7 diverged"]
    assert found.grid.done()
    assert [run.folder.relative_to(found.grid.out).as_posix() for run in found.grid.chosen()] == [
        "model/lr-0.2/seed-7",
        "model/lr-0.2/seed-8",
    ]
    assert found.grid.rates_tried("learning_rate", "loss", "diverged") == [
        {"learning_rate": 0.3, "loss": 2.0, "diverged": None},
        {"learning_rate": 0.1, "loss": None, "diverged": "model  lr 0.1  seed 7 diverged"},
        {"learning_rate": 0.2, "loss": 1.0, "diverged": None},
    ]


def test_what_is_finished_is_told_once_and_not_carried_out_again(task):
    found = task({0.3: 2.0, 0.2: 1.0})
    found.run()
    assert found.run() == []
    assert found.executed == []
    assert found.finished == [(0.3, 7), (0.2, 7), (0.2, 8)]
    assert found.chosen == [(0.2, 7), (0.2, 8)]
    assert [line.partition(" (")[0] for line in found.lines] == [
        "finished: model  lr 0.3  seed 7",
        "finished: model  lr 0.2  seed 7",
        "finished: model  lr 0.2  seed 8",
    ]
    # A part of it, as of another machine or a call that was stopped.
    (found.grid.run(0.2, 8).folder / "result.json").unlink()
    assert not found.grid.done()
    (found.grid.run(0.2, 7).folder / "run.json").unlink()
    assert [run.learning_rate for run in found.grid.tried()] == [0.3]
    assert found.grid.best() == 0.3


def test_of_equals_the_first_is_best(task):
    found = task({0.3: 1.0, 0.1: 1.0, 0.2: 1.0})
    found.run()
    assert found.grid.best() == 0.3


def test_no_rate_is_left(task):
    found = task({0.3: None, 0.1: None})
    reason = "model  lr 0.3  seed 7 diverged"
    assert found.run() == [f"model: no rate of the grid [0.3, 0.1] could be trained. {reason}"]
    assert (found.executed, found.chosen, found.grid.best()) == ([(0.3, 7), (0.1, 7)], [], None)
    assert found.grid.done()  # nothing is left to train


def test_of_rates_that_all_diverged_one_is_shown(task):
    """Where a score puts what diverged last, as that of texts does."""
    found = task({0.3: None, 0.1: None}, score=lambda result: (result.get("diverged") is not None, result["loss"] or 0))
    assert len(found.run()) == 1
    assert [(run.learning_rate, run.seed) for run in found.grid.chosen()] == [(0.3, 7)]
    assert found.grid.done()


def test_a_seed_that_diverges_costs_no_other(task):
    found = task({0.3: 2.0, 0.2: 1.0}, diverging_seeds=(8,))
    assert found.run() == ["model  lr 0.2  seed 8 diverged"]
    assert found.lines == ["model  lr 0.2  seed 8 diverged"]
    assert found.chosen == [(0.2, 7)]


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_single_rate_nothing_is_searched(task, seed):
    found = task({0.3: 1.0}, diverging_seeds=(seed,), searched=False)
    lost = f"model  lr 0.3  seed {seed} diverged"
    assert found.run() == [lost]
    assert found.lines == [lost]  # it is not out of a grid
    assert found.executed == [(0.3, 7), (0.3, 8)]
    assert found.chosen == [(0.3, other) for other in SEEDS if other != seed]


def test_a_single_rate_is_known_before_its_first_seed_is_run(task):
    found = task({0.3: 1.0}, searched=False)
    found.execute(found.grid.run(0.3, SEEDS[1]))
    assert [run.finished for run in found.grid.chosen()] == [False, True]
    searched = task({0.3: 1.0})
    assert searched.grid.chosen() == []


def test_the_best_of_some_rates_is_not_that_of_all(task):
    found = task({0.3: 2.0, 0.1: 3.0, 0.2: 1.0})
    for rate in (0.3, 0.1):
        found.execute(found.grid.run(rate, SEEDS[0]))
    assert found.grid.chosen() == []
    assert left_out([found.grid], found.grid.out) == "model/lr-0.1/seed-7, model/lr-0.3/seed-7"
    found.run()
    assert left_out([found.grid], found.grid.out) == ""
