"""Arguments, printing, JSON and exit codes of the commands, on a case that costs nothing."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import command, exits, generation, losses, models, ops, scaling, trained
from benchmarks.gate import Check
from benchmarks.row import OURS, Row, Table, Target, comparison


def good(quick):
    """One row of everything."""
    contenders = {OURS: lambda: None, "theirs": lambda: None}
    yield comparison(
        "good", "a comparison", contenders, lambda: [Check("output", 1e-8, 1e-6)], seconds=0.001, most_rounds=1
    )
    table = Table(("sites", "share", "known", "name"), ((1024, 0.25, True, "x"), (2048, None, False, "y")))
    yield Row("good", "a table", targets=(Target("share", "at least", 0.5, 0.25),), table=table, notes=("a note",))


def wrong(quick):
    contenders = {OURS: lambda: None, "theirs": lambda: None}
    gate = lambda: [Check("output", 0.5, 1e-6)]  # noqa: E731
    yield comparison("wrong", "a wrong one", contenders, gate, seconds=0.001, most_rounds=1, targets={"theirs": 1.0})


def test_rows_are_printed_and_written(tmp_path, capsys):
    out = tmp_path / "new" / "ops.json"
    assert command.run("ops", {"good": good}, out, quick=False, whole=True) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["suite"], found["quick"], found["complete"]) == ("ops", False, True)
    assert {"cpu", "cores_allowed", "memory_gib", "threads", "git_commit", "git_dirty", "versions"} <= set(
        found["machine"]
    )
    compared, table = found["rows"]
    assert compared["gate"]["passed"]
    assert compared["gate"]["checks"][0] == {"name": "output", "error": 1e-8, "tolerance": 1e-6, "passed": True}
    assert compared["seconds"]["ours"]["median"] >= 0
    assert set(compared["times_faster_than"]["theirs"]) == {"median", "low", "high"}
    assert table["table"]["rows"] == [[1024, 0.25, True, "x"], [2048, None, False, "y"]]
    assert table["targets"][0]["met"] is False
    for text in ("gate ok: output 1.0e-08", "times as fast", "1,024", "a note", "MISSED", " thread", "torch"):
        assert text in printed
    assert "0 gates red, 0 of 1 targets met" in printed


def test_a_red_gate_exits_with_1_and_prints_no_speed(tmp_path, capsys):
    out = tmp_path / "ops.json"
    assert command.run("ops", {"wrong": wrong}, out, quick=False, whole=True) == 1
    printed = capsys.readouterr().out
    assert "gate RED: output 5.0e-01" in printed
    assert "times as fast" not in printed
    assert "RED: a wrong one" in printed
    (row,) = json.loads(out.read_text())["rows"]
    assert row["seconds"] == row["times_faster_than"] == {}
    assert row["targets"][0]["met"] is None


@pytest.mark.parametrize("module", [exits, losses, ops, trained], ids=lambda module: module.__name__)
def test_help_keeps_usage_and_prose_apart(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert module.__doc__.strip() in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_quick_results_have_no_targets(tmp_path, capsys):
    command.run("ops", {"good": good}, tmp_path / "ops.json", quick=True, whole=True)
    assert "MISSED" not in capsys.readouterr().out


def test_rows_that_were_done_are_kept(tmp_path):
    def stops(quick):
        yield from good(quick)
        raise KeyboardInterrupt

    out = tmp_path / "ops.json"
    out.write_text("of a run that was finished")
    with pytest.raises(SystemExit) as ended:
        command.guarded(lambda _: command.run("ops", {"stops": stops}, out, quick=False, whole=True))
    assert ended.value.code == 130
    found = json.loads((tmp_path / "ops.unfinished.json").read_text())
    assert len(found["rows"]) == 2
    assert not found["complete"]
    assert out.read_text() == "of a run that was finished"
    command.run("ops", {"good": good}, out, quick=False, whole=True)
    assert json.loads(out.read_text())["complete"]
    assert [path.name for path in tmp_path.iterdir()] == ["ops.json"]


def test_a_failure_is_no_red_gate(capsys):
    with pytest.raises(SystemExit) as ended:
        command.guarded(lambda _: {}["missing"])
    assert ended.value.code == 3
    assert "KeyError: 'missing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (ops.main, ["--only", "vectr"], "--only vectr: no such case (did you mean vector?)"),
        (ops.main, ["--only", " , "], "names nothing"),
        (ops.main, ["--nly", "vector"], "unrecognized arguments: --nly vector"),
        (ops.main, ["--only"], "expected one argument"),
        (ops.main, ["vector"], "unrecognized arguments: vector"),
        (ops.main, ["--quick", "--out", "{folder}"], "is a folder; name a file that can be written"),
        (ops.main, ["--quick", "--out", "{folder}/file/ops.json"], "is no folder"),
        (scaling.main, ["--only", "training"], "unrecognized arguments: --only training"),
        (generation.main, ["--models", "gpt2"], "unrecognized arguments: --models gpt2"),
        (models.main, ["--quick", "--models", "gpt3"], "--models gpt3: must be among"),
        (models.main, ["--quick", "--models", "resnet-bk"], "always runs"),
    ],
)
def test_bad_calls(main, arguments, says, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for module in (generation, ops, models, scaling):
        monkeypatch.setattr(module, "tune_process", lambda: None)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder.json" if arguments[-1] == "{folder}" else tmp_path
    with pytest.raises(SystemExit) as ended:
        command.guarded(lambda _: main([argument.format(folder=folder) for argument in arguments]))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(ValueError, match="no permission"):
        command.out_file(str(tmp_path / "ops"), "ops", whole=True)


def test_where_results_go(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(command.out_file(None, "ops", whole=True)) == "results/ops.json"
    # A part must not take the place of a whole run.
    assert str(command.out_file(None, "ops", whole=False)) == "runs/ops.json"
    assert str(command.out_file("here/x", "ops", whole=True)) == "here/x.json"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ops.json").touch()
    with pytest.raises(
        ValueError, match=r"--out results/ops.json: is of a whole run, and this is a part of one; leave"
    ):
        command.out_file("results/ops.json", "ops", whole=False)
    assert str(command.out_file("results/ops.json", "ops", whole=True)) == "results/ops.json"
    assert command.choose("--only", "head,vector", ["vector", "head", "threads"]) == ["vector", "head"]


def test_a_bad_call_loads_nothing_heavy():
    code = (
        "import sys\nfrom benchmarks import ops\n"
        "try:\n    ops.main(['--only', 'nothing'])\nexcept ValueError:\n    sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ops", "--only", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --only nothing: no such case")
    assert done.stderr.count("\n") == 1
