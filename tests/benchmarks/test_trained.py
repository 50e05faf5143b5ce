"""Steps of tiny trained models, in turn."""

import json
import shutil

import pytest
import torch

from benchmarks import trained
from benchmarks.command import guarded
from benchmarks.pages.performance import fill
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.runner import bench
from resnet_bk.bench.trained.opened_run import open_run
from tests.bench.tiny_bench import settings, write_text

pytestmark = pytest.mark.sweep  # of benchmarks/, which is not measured


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Runs of a model without switches, of one whose tokens may halt and of one with a gate."""
    folder = tmp_path_factory.mktemp("trained")
    text = write_text(folder / "text.txt")
    plain = {"transformers": "resnet_bk", "learning_rate": 1e-2, "carry_state": True}
    models = {
        "plain": plain,
        "adaptive": plain | {"config": {"adaptive_computation": True}},
        "sparse": plain | {"config": {"sparse_bk": [1, 0.5]}},
    }
    protocol = settings(text, num_layers=2, steps=4, models=models, parameter_tolerance=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
        bench(check_protocol(protocol, "tiny"), folder / "out", report=False)
        other = protocol | {"models": {"plain": plain}, "batch_size": 2}
        bench(check_protocol(other, "tiny"), folder / "other", report=False)
        gpt2 = protocol | {"models": {"plain": plain, "gpt2": {"learning_rate": 1e-2}}}
        bench(check_protocol(gpt2, "tiny"), folder / "gpt2", models=["gpt2"], report=False)
        muon = protocol | {"models": {"plain": plain}, "optimizer": "muon"}
        bench(check_protocol(muon, "tiny"), folder / "muon", report=False)
        yield folder / "out"


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "tune_process", lambda: None)
        patch.setattr(trained, "WORK", 0.5)  # a tiny model on a tiny text
        with pytest.raises(SystemExit) as ended:
            guarded(lambda _: trained.main([str(argument) for argument in arguments]))
    return ended.value.code


def runs(out, *names):
    return [out / name / "seed-42" for name in names]


def changed_run(out, folder, change, name="sparse"):
    """A copy of a run, with another result.json."""
    shutil.copytree(out / name / "seed-42", folder)
    file = folder / "result.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    return folder


def test_every_model_takes_its_steps(out, tmp_path):
    file = tmp_path / "trained.json"
    assert call(*runs(out, "plain", "adaptive", "sparse"), "--quick", "--out", file) == 0
    found = json.loads(file.read_text())
    (row,) = found["rows"]
    assert row["gate"]["passed"]
    assert [check["name"].split(" beside")[0] for check in row["gate"]["checks"]] == [
        *("plain: loss", "adaptive: loss", "adaptive: depth", "sparse: loss", "sparse: kept")
    ]
    assert row["table"]["columns"][:3] == ["model", "s a step", "times as fast as plain"]
    plain, adaptive, sparse = row["table"]["rows"]
    assert [line[0] for line in (plain, adaptive, sparse)] == ["plain", "adaptive", "sparse"]
    assert all(line[1] > 0 and line[2] > 0 for line in (plain, adaptive, sparse))
    assert plain[5:] == [None, None]
    measured = {
        name: json.loads((out / name / "seed-42" / "result.json").read_text()) for name in ("adaptive", "sparse")
    }
    depth, kept = measured["adaptive"]["held_out_measures"]["depth"], measured["sparse"]["held_out_measures"]["kept"]
    assert adaptive[5].endswith(" of 2")
    assert float(adaptive[5].split()[0]) == pytest.approx(depth, abs=0.1)
    assert adaptive[6] is None
    assert sparse[6].endswith(" of 1 blocks")
    assert float(sparse[6].split()[0]) == pytest.approx(kept, abs=0.1)
    page = "<!-- begin trained:switches -->\n<!-- end -->\n"
    assert "| plain | " in fill(page, [found | {"quick": False, "whole": True}])


def test_a_model_without_switches_takes_its_steps_too(out, tmp_path):
    file, others = tmp_path / "trained.json", out.parent / "gpt2"
    assert call(*runs(out, "plain"), *runs(others, "gpt2"), "--quick", "--out", file) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert row["gate"]["passed"]
    assert [line[5:] for line in row["table"]["rows"]] == [[None, None]] * 2


def test_steps_leave_the_weights_alone_and_read_the_same_text(out):
    models = [trained.Steps(open_run(folder, "validation", None)) for folder in runs(out, "plain", "sparse")]
    steps = models[1]
    before = {name: value.clone() for name, value in steps.model.state_dict().items()}
    first, second = steps.take_all(), steps.take_all()
    assert len({loss for loss, _ in first + second}) == 2 * trained.BATCHES > 2  # another text in every round
    steps.place = 0
    assert [steps.take_all(), steps.take_all()] == [first, second]
    assert all(torch.equal(value, before[name]) for name, value in steps.model.state_dict().items())
    for mine, theirs in zip(models[0].batches, steps.batches, strict=True):
        assert torch.equal(mine[0], theirs[0])


@pytest.mark.parametrize(
    ("name", "change", "verdict"),
    [
        ("sparse", lambda found: found | {"held_out_loss": found["held_out_loss"] - 0.3}, "RED: sparse: loss beside"),
        ("sparse", lambda found: found | {"held_out_measures": {"kept": 9.0}}, "RED: sparse: kept beside"),
        ("adaptive", lambda found: found | {"held_out_measures": {"depth": 9.0}}, "RED: adaptive: depth beside"),
    ],
)
def test_a_model_that_is_not_that_of_its_run_is_red(out, tmp_path, name, change, verdict):
    file = tmp_path / "trained.json"
    wrong = changed_run(out, tmp_path / "run", change, name)
    assert call(*runs(out, "plain"), wrong, "--quick", "--out", file) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert row["gate"]["verdict"].startswith(verdict)
    assert {line[1] for line in row["table"]["rows"]} == {None}


def test_where_the_figures_go(out, monkeypatch):
    """results/ is for the published runs alone."""
    whole = []
    monkeypatch.setattr(trained, "out_file", lambda *_, **named: whole.append(named["whole"]))
    monkeypatch.setattr(trained, "run", lambda *_, **__: 0)
    names = runs(out, "plain", "sparse")
    assert call(*names) == 0
    monkeypatch.setattr(trained, "is_published", lambda run, *named: named[1] == run.record["model"])
    assert call(*names) == 0
    monkeypatch.setattr(trained, "MODELS", ("plain", "sparse"))
    assert call(*names) == 0
    assert call(*names, "--quick") == 0
    monkeypatch.setattr(trained, "is_published", lambda run, *named: named[1] == "plain")
    assert call(*names) == 0
    assert whole == [False, False, True, False, False]


def test_bad_calls(out, tmp_path, capsys):
    for wrong in (runs(out, "plain"), runs(out, "plain", "plain")):
        assert call(*wrong) == 2
        assert "must be of two or more different models; name others" in capsys.readouterr().err
    other = out.parent / "other" / "plain" / "seed-42"
    assert call(*runs(out, "sparse"), other) == 2
    assert f"RUN {other}: has batch_size=2 where {out / 'sparse' / 'seed-42'} has 4" in capsys.readouterr().err
    muon = out.parent / "muon" / "plain" / "seed-42"  # of AdamW no settings tell, for it was there first
    for first, second, has in ((runs(out, "sparse")[0], muon, "'muon'"), (muon, runs(out, "sparse")[0], "None")):
        assert call(first, second) == 2
        assert f"RUN {second}: has optimizer={has} where {first} has" in capsys.readouterr().err
    leaks = changed_run(out, tmp_path / "leaks", lambda found: found | {"audit": "leaks"})
    assert call(*runs(out, "plain"), leaks) == 2
    assert "leaks: the model leaks and has no held-out loss; leave it out" in capsys.readouterr().err
    assert call(tmp_path / "no", out) == 2
    assert "is no run folder" in capsys.readouterr().err
