"""Steps of tiny trained models, in turn."""

import json

import pytest

from benchmarks import trained
from benchmarks.command import guarded
from benchmarks.tables import fill
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.runner import bench
from tests.bench.tiny_bench import settings, write_text


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
        other = protocol | {"models": {"plain": plain}, "vocab_size": protocol["vocab_size"] - 1}
        bench(check_protocol(other, "tiny"), folder / "other", report=False)
        yield folder / "out"


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "tune_process", lambda: None)
        with pytest.raises(SystemExit) as ended:
            guarded(lambda: trained.main([str(argument) for argument in arguments]))
    return ended.value.code


def runs(out, *names):
    return [out / name / "seed-42" for name in names]


def test_every_model_takes_its_steps(out, tmp_path):
    file = tmp_path / "trained.json"
    assert call(*runs(out, "plain", "adaptive", "sparse"), "--quick", "--out", file) == 0
    found = json.loads(file.read_text())
    (row,) = found["rows"]
    assert row["gate"]["passed"]
    assert row["table"]["columns"][:3] == ["model", "s a step", "times as fast as plain"]
    plain, adaptive, sparse = row["table"]["rows"]
    assert [line[0] for line in (plain, adaptive, sparse)] == ["plain", "adaptive", "sparse"]
    assert plain[2:5] == [1, 1, 1]
    assert all(line[1] > 0 and line[2] > 0 for line in (adaptive, sparse))
    assert plain[5:] == [None, None]
    assert 1 <= adaptive[5] <= 2
    assert adaptive[6] is None
    assert 0 < sparse[6] <= 1
    page = "<!-- begin trained:switches -->\n<!-- end -->\n"
    assert "| plain | " in fill(page, [found | {"quick": False}])


def test_steps_leave_the_weights_alone_and_start_over(out, monkeypatch):
    from resnet_bk.bench.inspect_model import open_run

    steps = trained.Steps(open_run(out / "sparse" / "seed-42", "validation", None))
    before = {name: value.clone() for name, value in steps.model.state_dict().items()}
    first, again = ([steps.take() for _ in steps.batches] for _ in range(2))
    assert first == again
    assert len({loss for loss, _ in first}) == len(steps.batches) > 1
    assert all(bool((value == before[name]).all()) for name, value in steps.model.state_dict().items())


def test_other_weights_are_red(out, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "TOLERANCE", 1e-9)  # these few batches are not the whole text
    file = tmp_path / "trained.json"
    assert call(*runs(out, "plain", "sparse"), "--quick", "--out", file) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert row["gate"]["verdict"].startswith("RED: ")
    assert {line[1] for line in row["table"]["rows"]} == {None}


def test_where_the_figures_go(out, monkeypatch):
    """results/ is for the published runs alone."""
    whole = []
    monkeypatch.setattr(trained, "out_file", lambda *_, **named: whole.append(named["whole"]))
    monkeypatch.setattr(trained, "run", lambda *_, **__: 0)
    names = runs(out, "plain", "sparse")
    assert call(*names) == 0
    monkeypatch.setattr(trained, "PUBLISHED", ("tiny", ("plain", "sparse")))
    assert call(*names) == 0
    assert call(*names, "--quick") == 0
    assert whole == [False, True, False]


def test_bad_calls(out, tmp_path, capsys):
    for wrong in (runs(out, "plain"), runs(out, "plain", "plain")):
        assert call(*wrong) == 2
        assert "must be of two or more different models; name others" in capsys.readouterr().err
    other = out.parent / "other" / "plain" / "seed-42"
    assert call(*runs(out, "sparse"), other) == 2
    assert f"RUN {other}: is of another protocol or text than" in capsys.readouterr().err
    assert call(tmp_path, out) == 2
    assert "is no run folder" in capsys.readouterr().err
