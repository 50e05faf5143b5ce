"""Files of a benchmark."""

import json
import os
from pathlib import Path

import pytest
from filelock import Timeout

from resnet_bk.bench.json_files import read_json, write_json
from resnet_bk.bench.run_folder import (
    Run,
    check_places,
    check_same_settings,
    check_writable,
    locked,
    read_results,
    write_found,
)


def test_folders_that_can_be_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    for out in (file, file / "below" / "deep"):
        with pytest.raises(ValueError, match=rf"--out .*{file} is not a folder"):
            check_writable(out)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="link is not a folder"):
        check_writable(tmp_path / "link" / "out")
    assert file.read_text() == "text"


def test_folders_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write everywhere
    with pytest.raises(ValueError, match="no permission to write"):
        check_writable(tmp_path / "out")


def test_folders_that_cannot_be_looked_at(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--out .*a: cannot be looked at \(File name too long\); name another folder"):
        check_writable(tmp_path / ("a" * 300))
    closed = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "stat", lambda path: (_ for _ in ()).throw(closed))  # the superuser may look everywhere
    with pytest.raises(ValueError, match=r"cannot be looked at \(Permission denied\)"):
        check_writable(tmp_path / "out")


def test_results_under_a_name_that_is_too_long(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read .*File name too long"):
        read_results(tmp_path / ("a" * 300) / "results.json")


def test_one_benchmark_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another resnet-bk is running there"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("error", [PermissionError(13, "denied", "elsewhere"), Timeout("elsewhere")])
def test_what_goes_wrong_inside_is_not_about_the_folder(tmp_path, error):
    with pytest.raises(type(error)), locked(tmp_path):
        raise error


def test_json_is_written_whole_and_finite(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": float("nan"), "b": [1.5, float("inf")], 3: (1, {"c": "é"})})
    assert read_json(path) == {"a": None, "b": [1.5, None], "3": [1, {"c": "é"}]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path)["a"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ("{", "cannot be read"), ("[1]", "no JSON object")]
)
def test_json_that_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "x.json")


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    """As under /proc, which lets root write and makes no folders."""

    def refuse(self, **options):
        raise FileNotFoundError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = r"--out .*out: cannot be made \(No such file or directory\); name another folder"
    with pytest.raises(ValueError, match=message), locked(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match=message):
        write_found({}, tmp_path / "out", "found.json")


def test_places_that_something_else_has(tmp_path):
    out = tmp_path / "out"
    looked_at = [Run("model", 0.1, 1, out / "model" / "seed-1")], ("plots",), ("results.json",)
    check_places(out, *looked_at)
    for folder in (out / "model" / "seed-1", out / "plots"):
        folder.mkdir(parents=True)
    (out / "results.json").write_text("{}")
    check_places(out, *looked_at)
    (out / "results.json").unlink()
    (out / "results.json").mkdir()
    with pytest.raises(ValueError, match=r"--out .*results.json is a folder, and a file is to be written there;"):
        check_places(out, *looked_at)
    (out / "model" / "seed-1").rmdir()
    (out / "model").rmdir()
    (out / "model").write_text("text")
    with pytest.raises(ValueError, match=r"--out .*model is no folder, and one is to be written there; remove it, or"):
        check_places(out, *looked_at)


def test_a_result_that_is_none(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"result.json has no model_name, learning_rate, seed, audit; restore it, or remove"
    ):
        Run("model", 0.1, 1, tmp_path).result()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model_name", None, "model_name is null, and not a string"),
        ("seed", "first", 'seed is "first", and not a whole number'),
        ("learning_rate", [0.1], r"learning_rate is \[0.1\], and not a number"),
    ],
)
def test_a_result_with_a_value_of_another_kind(tmp_path, key, value, told):
    content = {"model_name": "model", "seed": 1, "learning_rate": 1, "audit": "causal"} | {key: value}
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"result.json: {told}; restore it, or remove it and run again"):
        Run("model", 0.1, 1, tmp_path).result()


def test_a_run_whose_settings_are_no_object(tmp_path):
    folder = tmp_path / "model" / "seed-1"
    folder.mkdir(parents=True)
    content = {"settings": None, "model": "model", "seed": 1, "learning_rate": 0.1, "grid": False, "data": {}}
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"run.json: settings is null, and not an object; restore it, or remove"):
        check_same_settings(tmp_path, None, lambda record: (record["settings"], record["settings"]))
