"""Early exit measured on a tiny trained model."""

import json

import pytest

from benchmarks import exits, timing
from benchmarks.command import guarded
from benchmarks.pages.performance import fill
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.runner import bench
from tests.bench.tiny_bench import settings, write_text

pytestmark = pytest.mark.sweep  # of benchmarks/, which is not measured


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of a model whose tokens may halt after the first of two blocks, and of one whose tokens may not."""
    folder = tmp_path_factory.mktemp("exits")
    text = write_text(folder / "text.txt")
    plain = {"transformers": "resnet_bk", "learning_rate": 1e-2}
    models = {"plain": plain, "adaptive": plain | {"config": {"adaptive_computation": True}}}
    protocol = settings(text, num_layers=2, steps=4, models=models, parameter_tolerance=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
        bench(check_protocol(protocol, "tiny"), folder / "out", report=False)
        yield folder / "out"


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exits, "tune_process", lambda: None)
        with pytest.raises(SystemExit) as ended:
            guarded(lambda _: exits.main([str(argument) for argument in arguments]))
    return ended.value.code


def test_lower_thresholds_run_fewer_blocks(trained, tmp_path):
    out = tmp_path / "exits.json"
    assert call(trained / "adaptive" / "seed-42", "--quick", "--out", out) == 0
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert row["gate"]["passed"]
    assert row["table"]["columns"][:2] == ["threshold", "blocks a token, of 2"]
    lines = row["table"]["rows"]
    assert [line[0] for line in lines] == [0.99, *exits.THRESHOLDS]
    # At the start a token halts with 12% after the first block, and at the last block it must.
    assert [round(line[1]) for line in lines] == [2, 2, 2, 2, 2, 1]
    assert lines[0][2] != lines[-1][2]
    assert all(seconds > 0 and faster > 0 for *_, seconds, faster in lines)
    page = "<!-- begin exits:early exit -->\n<!-- end -->\n"
    assert "| 0.990 | 2.00 |" in fill(page, [found | {"quick": False, "whole": True}])


def test_the_time_of_a_short_text_is_that_of_its_batches(trained, tmp_path, monkeypatch):
    out = tmp_path / "exits.json"

    def seconds(batches):
        """Of a batch, where all of those that there are take one second."""
        monkeypatch.setattr(exits, "TIMED_BATCHES", batches)
        monkeypatch.setattr(timing, "interleaved", one_second)
        assert call(trained / "adaptive" / "seed-42", "--quick", "--out", out) == 0
        return {line[3] for line in json.loads(out.read_text())["rows"][0]["table"]["rows"]}

    def one_second(contenders, *_, **__):
        return {name: timing.Timing((1.0,), 1) for name in contenders}

    few, more = seconds(1), seconds(1_000_000)
    assert few == {1.0}
    assert more < {1.0 / n for n in range(2, 1_000)}


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (1e-9, "RED: threshold of the training: loss "),
        (None, "RED: threshold 0.1: share of the blocks at 0.99 1.0e+00"),
    ],
)
def test_a_threshold_that_is_not_read_is_red(trained, tmp_path, monkeypatch, read, verdict):
    right = exits.evaluated
    monkeypatch.setattr(exits, "evaluated", lambda run, threshold, *rest: right(run, threshold and read, *rest))
    out = tmp_path / "exits.json"
    assert call(trained / "adaptive" / "seed-42", "--quick", "--out", out) == 1
    (row,) = json.loads(out.read_text())["rows"]
    assert row["gate"]["verdict"].startswith(verdict)
    assert {line[-1] for line in row["table"]["rows"]} == {None}


def test_where_the_figures_go(trained, monkeypatch):
    """results/ is for one run alone."""
    whole = []
    monkeypatch.setattr(exits, "out_file", lambda *_, **named: whole.append(named["whole"]))
    monkeypatch.setattr(exits, "run", lambda *_, **__: 0)
    assert call(trained / "adaptive" / "seed-42") == 0
    monkeypatch.setattr(exits, "is_published", lambda run, *named: named == exits.PUBLISHED)
    assert call(trained / "adaptive" / "seed-42") == 0
    assert call(trained / "adaptive" / "seed-42", "--quick") == 0
    assert whole == [False, True, False]


def test_bad_calls(trained, tmp_path, capsys, monkeypatch):
    assert call(trained / "plain" / "seed-42", "--quick") == 2
    assert "seed-42: no token of this resnet_bk halts; name a run" in capsys.readouterr().err
    monkeypatch.setattr(exits, "THRESHOLDS", (1.0, 0.99))
    assert call(trained / "adaptive" / "seed-42", "--quick") == 2
    assert "its halting_threshold=0.99 must be above 0.99, the lowest threshold measured" in capsys.readouterr().err
    assert call(tmp_path) == 2
    assert "is no run folder" in capsys.readouterr().err
