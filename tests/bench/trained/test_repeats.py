"""Losses by whether a word, or a pair of words, has been seen before."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resnet_bk.bench.trained.repeats import NEW, REPEATED, SEEN, kind_names, kinds_of, windows
from resnet_bk.bench.trained.saved_model import load_model
from tests.bench.tiny_bench import write_text
from tests.command_line import call, trained_home


def test_windows_follow_one_another():
    assert windows(np.arange(10, dtype=np.uint16), 4).tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_the_kind_of_a_token():
    a, b, c, d = range(4)
    #        b    c    a     b         b     a     b         d
    words = [a, b, c, a, b, b, a, b, d]
    kinds = [NEW, NEW, SEEN, REPEATED, SEEN, SEEN, REPEATED, NEW]
    assert kinds_of(np.array([words])).tolist() == [kinds]


def test_distances_are_those_of_the_last_time():
    other = iter(range(2, 1000))
    words = [
        0,
        1,
        *(next(other) for _ in range(14)),
        0,
        1,
        *(next(other) for _ in range(13)),
        0,
        1,
        *range(300, 600),
        0,
        1,
    ]
    (kinds,) = kinds_of(np.array([words]))
    found = [kinds[place - 1] for place, word in enumerate(words) if word == 1 and place > 1]
    # 16, 15 and 302 tokens ago.
    assert found == [REPEATED + 1, REPEATED, REPEATED + 3]


@pytest.mark.parametrize(("width", "far"), [(8, ["1 to 7"]), (64, ["1 to 15", "16 to 63"]), (66, ["64 to 65"])])
def test_kinds_end_with_the_window(width, far):
    names = kind_names(width)
    assert names[:2] == ["new word", "seen word, new pair"]
    assert names[-len(far) :] == [f"repeated, {stretch} tokens ago" for stretch in far]
    kinds = kinds_of(np.array([[*range(width - 1), 0, 1]]))
    assert kinds.max() < len(names)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """With a model of less text in `less`."""
    for folder in trained_home(tmp_path_factory.mktemp("repeats")):
        less = write_text(folder / "less.txt", documents=60)
        assert call("train", folder / "tiny.yaml", "--data", less, "--out", folder / "less").exit_code == 0
        yield folder


@torch.no_grad()
def test_the_command_writes_what_it_prints(home):
    runs = [home / "out" / name / "seed-42" for name in ("resnet-bk", "gpt2")]
    done = call("repeats", *runs, "--window", 8, "--out", home / "found")
    assert done.exit_code == 0, done.output
    found = json.loads((home / "found" / "repeats.json").read_text())
    assert [model["model_name"] for model in found["models"]] == ["resnet-bk", "gpt2"]
    assert sum(kind["share"] for kind in found["kinds"]) == pytest.approx(1)
    assert found["window"] == 8
    assert "repeated, 1 to 7 tokens ago" in done.stdout
    again = json.loads(call("repeats", *runs, "--window", 8, "--json").stdout)
    assert again["models"][0]["losses"] == found["models"][0]["losses"]

    from resnet_bk.bench.trained.opened_run import open_run

    opened = open_run(runs[0], "validation", None)
    rows = windows(opened.tokens.tokens, 8)
    logits = load_model(runs[0] / "model")(torch.from_numpy(rows[:, :-1]), use_cache=False).logits
    losses = F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(rows[:, 1:]), reduction="none")[:, 4:].double()
    kinds = torch.from_numpy(kinds_of(rows)[:, 4:])
    assert found["tokens"] == losses.numel()
    assert found["models"][0]["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    for kind, loss in enumerate(found["models"][0]["losses"]):
        chosen = losses[kinds == kind]
        assert found["kinds"][kind]["share"] == pytest.approx(len(chosen) / losses.numel())
        assert (loss is None) == (len(chosen) == 0)
        if loss is not None:
            assert loss == pytest.approx(chosen.mean().item(), rel=1e-4)


@pytest.mark.parametrize("command", ["eval", "repeats", "lengths"])
def test_reading_that_takes_long_is_shown(home, command, monkeypatch):
    """On standard error, so that what is printed stays what it was."""
    run = home / "out" / "resnet-bk" / "seed-42"
    options = {"eval": [], "repeats": [], "lengths": ["--tokens", 20, "--documents", 2]}[command]
    quick = call(command, run, *options, "--json")
    assert "tokens read" not in quick.stderr
    for module in ("resnet_bk.bench.held_out", "resnet_bk.training.progress"):
        monkeypatch.setattr(f"{module}.LINE_SECONDS", 0.0)
    shown = call(command, run, *options, "--json")
    assert shown.exit_code == 0, shown.output
    expected = {"eval": "resnet-bk on text.txt, validation", "repeats": str(run), "lengths": f"{run}, carried"}[command]
    assert f"{expected}: tokens read: " in shown.stderr
    # Every reading ends with the count that it said from the first.
    ends = re.findall(r"tokens read: (\S+) of (\S+)\n[^\n]*tokens read: \1 in ", shown.stderr)
    assert len(ends) == shown.stderr.count(" in 0:")
    assert all(count == end for count, end in ends)
    assert json.loads(shown.stdout).keys() == json.loads(quick.stdout).keys()


@pytest.mark.parametrize("command", ["repeats", "lengths"])
def test_an_answer_is_not_overwritten(home, tmp_path, command, monkeypatch):
    (tmp_path / f"{command}.json").write_text("{}")
    monkeypatch.setattr(f"resnet_bk.bench.trained.{command}.open_runs", lambda *_: pytest.fail("after the work"))
    done = call(command, home / "out" / "gpt2" / "seed-42", "--out", tmp_path)
    assert done.exit_code == 2
    expected = f"holds {command}.json already, which would be lost; name another folder, or remove that file"
    assert expected in " ".join(done.stderr.split())
    assert (tmp_path / f"{command}.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("run.json", "model, seed, learning_rate, data, protocol, training, environment"),
        ("result.json", "audit, head"),
    ],
)
def test_a_file_without_its_keys_is_named(home, tmp_path, name, missing):
    run = tmp_path / "seed-42"
    shutil.copytree(home / "out" / "gpt2" / "seed-42", run)
    (run / name).write_text("{}")
    done = call("repeats", run)
    assert done.exit_code == 2
    assert f"{name} has no {missing}; restore it, or remove" in " ".join(done.stderr.split())


def test_a_run_that_was_stopped_before_its_figures(home, tmp_path):
    run = tmp_path / "seed-42"
    shutil.copytree(home / "out" / "gpt2" / "seed-42", run)
    (run / "result.json").unlink()
    done = call("repeats", run)
    assert done.exit_code == 2
    assert "has no result.json: it was stopped before its figures were measured" in " ".join(done.stderr.split())


def test_the_window_is_a_segment_by_default(home):
    done = call("repeats", home / "out" / "gpt2" / "seed-42", "--json")
    assert json.loads(done.stdout)["window"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out/gpt2/seed-42", "--window", "7"], "--window 7: must be an even number below the"),
        (["out/gpt2/seed-42", "--window", "32"], "--window 32: .*positions for 16 tokens; give --window 16"),
        (["out/gpt2/seed-42", "--window", "0"], "--window 0: must be an even number below the"),
        (["out/gpt2/seed-42", "--window", "1000000"], "--window 1000000: must be an even number below the"),
        (["out/resnet-bk/seed-42", "other/resnet-bk/seed-42"], "reads other tokens than"),
        (["out/resnet-bk/seed-42", "less/resnet-bk/seed-42"], "was trained on other text than"),
        (["out/resnet-bk/seed-42", "--split", "train"], "was trained on it; take another split"),
        (["out/resnet-bk"], "no run folder"),
    ],
)
def test_bad_calls(home, arguments, message):
    done = call("repeats", *(home / part if "/" in part else part for part in arguments))
    assert done.exit_code == 2
    assert re.search(rf"^error: .*{message}", done.stderr.splitlines()[-1])
