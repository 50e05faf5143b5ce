"""What a name means, and which of several things goes first."""

import json
import re
from pathlib import Path

import pytest

from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.resolve import model_folder, protocol_config, protocol_with, resolve, run_folder
from tests.bench.tiny_bench import settings


@pytest.fixture
def protocol(tmp_path):
    mine = {"mine": {"transformers": "mistral", "learning_rate": 1e-3, "match_parameters": False}}
    return check_protocol(settings(tmp_path / "text.txt", models=mine), "tiny")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes a folder of a name, with these files in it, in the current one."""
    monkeypatch.chdir(tmp_path)

    def make(name, *files):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (tmp_path / name / file).write_text("{}")

    return make


def test_every_kind_of_name(protocol, folder):
    folder("out/mine/seed-1", "run.json")
    folder("configuration", "config.json")
    folder("saved", "config.json", "model.safetensors")
    kinds = {
        "out/mine/seed-1": "run",
        "configuration": "config",
        "saved/config.json": "config",
        "owner/name": "hub",
        "mine": "name",
        "gated-deltanet": "name",  # known, and not of the protocol
        "saved": "saved",
        "opt": "type",
    }
    assert {name: resolve(name, protocol).kind for name in kinds} == kinds
    assert str(resolve("saved", protocol).path) == "saved"


@pytest.mark.parametrize(
    ("name", "files", "kind"),
    [
        ("mine", ["run.json", "config.json", "model.bin"], "run"),  # it brings the protocol
        ("mine", ["config.json"], "config"),
        ("mine", ["config.json", "model.safetensors.index.json"], "name"),
        ("opt", ["config.json", "model.bin"], "saved"),
        ("opt", ["notes.txt"], "type"),
        ("owner/name", ["config.json", "model.bin"], "saved"),
    ],
)
def test_of_several_things_one_goes_first(protocol, folder, name, files, kind):
    folder(name, *files)
    assert resolve(name, protocol).kind == kind


def test_what_means_nothing(protocol, folder):
    with pytest.raises(
        ValueError, match=r"model 'nobody' is no run folder, no model of protocol tiny \(mine\), no known one"
    ):
        resolve("nobody", protocol)
    folder("runs/mine/seed-1", "run.json")
    with pytest.raises(ValueError, match=r"runs is no run folder .*; it holds the runs runs/mine/seed-1"):
        resolve("runs", protocol)


def test_runs_are_looked_for_as_deep_as_they_lie(folder):
    folder("home/runs/grid/llama/lr-0.01/seed-1", "run.json")
    with pytest.raises(ValueError, match=r"^home is no run folder \(no run.json in it\); a run folder is OUT"):
        run_folder(Path("home"))
    with pytest.raises(ValueError, match=r"; it holds the runs home/runs/grid/llama/lr-0.01/seed-1$"):
        run_folder(Path("home/runs"))


def test_a_run_that_is_not_there_is_answered_with_those_near_it(folder):
    seeds = [f"out/llama/lr-0.01/seed-{seed}" for seed in range(8)]
    for run in ("out/gpt2/seed-0", "other/llama/seed-0", *seeds):
        folder(run, "run.json")
    start = "out/llama/seed-42 is no run folder (there is no such folder); out/llama holds the runs "
    with pytest.raises(ValueError, match=rf"^{re.escape(start + ', '.join(seeds[:6]))} and 2 more$"):
        run_folder(Path("out/llama/seed-42"))
    with pytest.raises(ValueError, match=rf"; out holds the runs out/gpt2/seed-0, {seeds[0]}, "):
        run_folder(Path("out/lama/seed-0"))
    # What holds no run, and the current folder, which is not searched.
    folder("empty")
    for path in ("seed-0", "nothing/llama/seed-0", "empty", "empty/llama/seed-0", "/no/such/run"):
        with pytest.raises(ValueError, match=r"; a run folder is OUT/<model>/seed-<s>, of a grid OUT/<model>/lr-<r>"):
            run_folder(Path(path))
    with pytest.raises(ValueError, match=r"run.json is no run folder \(it is a file\); a run folder is"):
        run_folder(Path("out/gpt2/seed-0/run.json"))


def test_names_that_no_file_can_have(protocol):
    name = "a" * 300
    for find in (run_folder, model_folder):
        with pytest.raises(ValueError, match=r"is no run folder|no folder"):
            find(Path(name))
    with pytest.raises(ValueError, match=rf"model '{name}' is no run folder, no model of protocol tiny"):
        resolve(name, protocol)


def test_folders_of_models(folder, tmp_path):
    folder("run", "run.json")
    folder("saved", "config.json", "tokenizer.json")
    assert (run_folder(tmp_path / "run"), model_folder(tmp_path / "run")) == (tmp_path / "run", tmp_path / "run/model")
    assert model_folder(tmp_path / "saved") == tmp_path / "saved"
    (tmp_path / "run" / "run.json").write_text(json.dumps({"task": "recall"}))
    for find in (run_folder, model_folder):
        with pytest.raises(ValueError, match=r"is a run of another task \(recall\), which keeps no model"):
            find(tmp_path / "run")


def test_a_protocol_with_a_name_has_that_model_too(protocol):
    assert protocol_with(protocol, "mine").models == protocol.models
    for name, transformers, matched in (("llama", None, True), ("opt", "opt", False)):
        models = protocol_with(protocol, name).models
        entry = models.pop(name)
        assert models == protocol.models
        assert (entry.transformers, entry.match_parameters) == (transformers, matched)
    assert protocol_config(protocol, "opt").hidden_size == protocol.hidden_size


@pytest.mark.parametrize("name", ["gpt2", "resnet-bk-seed", "opt"])
def test_a_model_is_told_of_where_the_first_does_not_fit_and_does_not_give_the_size(name):
    models = {"resnet-bk": {"config": {"intermediate_size": 10}}, "resnet-bk-seed": {}, "gpt2": {}}
    whole = {"name": "p", "dataset": "x", "learning_rates": [1e-3], "vocab_size": 500, "sequence_length": 32}
    protocol = check_protocol(whole | {"models": models, "parameters_without_embeddings": 200_000}, "p")
    assert protocol_config(protocol, name).vocab_size == 500
    with pytest.raises(ValueError, match=r"models.resnet-bk: .* do not match"):
        protocol_config(protocol, "resnet-bk")
