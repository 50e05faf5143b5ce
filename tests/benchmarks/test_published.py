"""Which runs may be written into results/."""

import copy
from types import SimpleNamespace

import pytest

from benchmarks.published import RESULTS, is_published
from resnet_bk.bench.json_files import read_json
from resnet_bk.bench.protocol import load_protocol

NAMED = ("ablation-wide", "adaptive", 42)
RECORDS = sorted((RESULTS / NAMED[0]).glob("*/seed-*/run.json"))


def test_folders_of_runs_are_those_of_the_results_beside_them():
    """From which a comparison is finished elsewhere."""
    folders = sorted(RESULTS.glob("*/*/seed-*/result.json"))
    assert len(folders) > 10
    for file in folders:
        result = read_json(file)
        named = ("model_name", "seed", "git_commit", "learning_rate", "held_out_perplexity")
        published = read_json(file.parents[2] / "results.json")["runs"]
        assert [result[key] for key in named] in [[run[key] for key in named] for run in published], file


def opened(file):
    """The run whose run.json this is, without its model."""
    return SimpleNamespace(folder=file.parent, record=read_json(file), protocol=load_protocol(NAMED[0]))


@pytest.fixture
def run():
    return opened(RESULTS / "ablation-wide" / "adaptive" / "seed-42" / "run.json")


def test_what_is_published():
    assert len(RECORDS) > 1
    for file in RECORDS:
        found = opened(file)
        assert is_published(found, NAMED[0], found.record["model"], found.record["seed"]), file


def test_what_does_not_touch_a_run(run):
    run.protocol = load_protocol("ablation-wide", ("seeds=[42,43]", "models.sparse.config.sparse_bk=0.9"))
    assert is_published(run, *NAMED)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("settings", "sequence_length"), 512),
        (("settings", "models.adaptive.config"), {"ponder_cost": 0.1}),
        (("learning_rate",), 1e-4),
        (("model",), "exact"),
        (("seed",), 43),
        (("data", "fingerprints", "corpus"), "another"),
        (("settings", "corpus"), "another"),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else "",
)
def test_another_run(run, place, value):
    changed = copy.deepcopy(run.record)
    *way, last = place
    part = changed
    for key in way:
        part = part[key]
    assert part[last] != value
    part[last] = value
    run.record = changed
    assert not is_published(run, *NAMED)


def test_another_protocol(run):
    run.protocol = load_protocol("ablation")
    assert not is_published(run, *NAMED)
