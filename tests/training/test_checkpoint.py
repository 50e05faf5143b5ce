"""A run that was killed twice ends, resumed, with bitwise the weights and losses of one that was not."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from resnet_bk.training import train
from resnet_bk.training.checkpoint import _check_random_numbers
from tests.training.cases import CASES, SPEC
from tests.training.tiny import Tokens, equal_weights, tiny_resnet_bk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.training.killed_runs", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    environment.pop("COVERAGE_PROCESS_CONFIG", None)  # who is killed does not write down what it ran
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def losses(log):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in log]


def uninterrupted(name, folder):
    """The model and the result of a case that nothing stopped, and that saves its last step alone."""
    build, settings = CASES[name]
    whole = build()
    return whole, train(whole, Tokens(), dataclasses.replace(SPEC(settings), checkpoint_seconds=1e9), folder)


@pytest.mark.parametrize("name", CASES)
def test_resumed_equals_uninterrupted(killed, name, tmp_path):
    """Killed while it saved the fourth checkpoint, and once more in the middle of the eighth step."""
    build, settings = CASES[name]
    folder = killed / name
    left = json.loads((killed / "left.json").read_text())[name]
    assert left == [[".unfinished", "step-000000003"], ["step-000000007"]]

    resumed = build()
    result = train(resumed, Tokens(), SPEC(settings), folder)
    whole, expected = uninterrupted(name, tmp_path)

    assert result.resumed_from == 7
    assert [call["from_step"] for call in result.calls] == [0, 3, 7]
    assert equal_weights(resumed, whole)
    assert losses(result.log) == losses(expected.log)
    assert result.epoch_losses == expected.epoch_losses
    assert result.backend == expected.backend
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines == result.log
    assert [path.name for path in (folder / "checkpoint").glob("step-*")] == ["step-000000012"]


def test_calls_that_trained_are_told_apart(tmp_path):
    def stop(model, head):
        raise KeyboardInterrupt

    build, settings = CASES["gpt2"]
    saving = SPEC(settings)
    for name, steps in (("first", [7]), ("second", [7]), ("third", [9])):  # the second does the 7th step again
        with pytest.raises(KeyboardInterrupt):
            train(build(), Tokens(), saving, tmp_path, about={"name": name}, validate=stop, validation_steps=steps)
    result = train(build(), Tokens(), saving, tmp_path, about={"name": "last"})
    starts = [(0, "first"), (6, "third"), (8, "last")]
    assert result.calls == [{"from_step": step, "name": name} for step, name in starts]
    # One that finds nothing left to do trained nothing.
    assert train(build(), Tokens(), saving, tmp_path, about={"name": "late"}).calls == result.calls


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    build, settings = CASES["gpt2"]
    train(build(), Tokens(), SPEC(settings), folder)
    return folder


@pytest.fixture
def finished(trained, tmp_path):
    """The folder of a run of gpt2 that is done, of which this test may change what it likes."""
    return shutil.copytree(trained, tmp_path / "run")


def test_a_checkpoint_of_another_version(finished):
    build, settings = CASES["gpt2"]
    (file,) = (finished / "checkpoint" / "step-000000012").glob("custom_checkpoint_*.pkl")
    saved = torch.load(file, weights_only=False)
    del saved["tokens"]
    torch.save(saved, file)
    with pytest.raises(ValueError, match=r"cannot be read .*another version of resnet_bk and lacks tokens.*; remove"):
        train(build(), Tokens(), SPEC(settings), finished)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.5), ("steps", 6), ("betas", (0.5, 0.5)), ("dtype", "bfloat16"), ("optimizer", "muon")],
)
def test_a_checkpoint_of_other_settings(name, value, finished):
    build, settings = CASES["gpt2"]
    other = dataclasses.replace(SPEC(settings), **{name: value})
    was = re.escape(f"{name} was {getattr(SPEC(settings), name)!r} and is {value!r}")
    with pytest.raises(ValueError, match=rf"holds a checkpoint of a run with other settings: {was}; train in another"):
        train(build(), Tokens(), other, finished)
    free = dataclasses.replace(SPEC(settings), name="other", log_interval=5, checkpoint_seconds=1e9)
    assert train(build(), Tokens(), free, finished).resumed_from == 12


@pytest.mark.parametrize(("first", "second"), [(1.0, 8.0), (8.0, 1.0)])
def test_a_checkpoint_of_another_rate_of_embeddings(first, second, tmp_path):
    build, settings = CASES["gpt2"]
    begun, other = (dataclasses.replace(SPEC(settings), embedding_rate=rate) for rate in (first, second))
    assert ("embedding_rate" in begun.fixed()) is (first != 1)  # checkpoints of before there was one have none
    train(build(), Tokens(), begun, tmp_path)
    with pytest.raises(ValueError, match=r"of a run with other settings: embedding_rate was .* and is .*; train in"):
        train(build(), Tokens(), other, tmp_path)


def test_a_checkpoint_of_another_model(tmp_path):
    """Of the same shapes, which its weights would fit."""
    settings = {"carry_state": True}
    first = partial(tiny_resnet_bk, absorption_init=(0.6, 1.0))
    train(first(), Tokens(), SPEC(settings), tmp_path)
    told = "of a run with other fields of the model: absorption_min was 0.001 and is 0.5; train in another folder"
    with pytest.raises(ValueError, match=told):
        train(first(absorption_min=0.5), Tokens(), SPEC(settings), tmp_path)
    with pytest.raises(ValueError, match=r"of the model: dtype was 'torch.float32' and is 'torch.float64'; train in"):
        train(first().double(), Tokens(), SPEC(settings), tmp_path)


@pytest.mark.parametrize("lacks", ["settings", "model"])
def test_a_checkpoint_that_does_not_say_its_settings(lacks, finished):
    """Of an older version."""
    build, settings = CASES["gpt2"]
    (file,) = (finished / "checkpoint" / "step-000000012").glob("custom_checkpoint_*.pkl")
    saved = torch.load(file, weights_only=False)
    del saved[lacks]
    torch.save(saved, file)
    assert train(build(), Tokens(), SPEC(settings), finished).resumed_from == 12


def test_lines_after_the_checkpoint_are_dropped(finished):
    build, settings = CASES["gpt2"]
    log = finished / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 99}\n{"st')
    result = train(build(), Tokens(), SPEC(settings), finished)
    assert result.resumed_from == result.steps == 12
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [3, 6, 9, 12]


def test_a_finished_run_is_not_trained_again(tmp_path):
    build, settings = CASES["resnet-bk-modulus"]
    whole, again = build(), build()
    first = train(whole, Tokens(), SPEC(settings), tmp_path)
    second = train(again, Tokens(), SPEC(settings), tmp_path)
    assert equal_weights(whole, again)
    assert (second.seconds, second.log, second.backend) == (first.seconds, first.log, first.backend)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl"]
)
def test_a_checkpoint_that_cannot_be_read(finished, file):
    build, settings = CASES["gpt2"]
    damaged = finished / "checkpoint" / "step-000000012" / file
    assert damaged.exists()
    damaged.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"step-000000012 cannot be read .*; remove .*checkpoint to start"):
        train(build(), Tokens(), SPEC(settings), finished)


def test_tied_weights_are_saved_in_silence_and_tied_again(tmp_path, caplog):
    def build():
        return tiny_resnet_bk(tie_word_embeddings=True)

    whole, again = build(), build()
    train(whole, Tokens(), SPEC({}), tmp_path)
    assert train(again, Tokens(), SPEC({}), tmp_path).resumed_from == 12
    assert not [record for record in caplog.records if record.name.startswith("accelerate")]
    assert equal_weights(whole, again)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_random_numbers_of_a_machine_without_the_gpu_in_use(tmp_path, monkeypatch):
    cpu, gpu = torch.get_rng_state(), torch.arange(16, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda index: gpu)
    cuda = torch.device("cuda", 0)
    torch.save({"torch_manual_seed": cpu}, tmp_path / "random_states_0.pkl")
    with pytest.warns(UserWarning, match="from a machine without cuda:0: its random numbers start anew"):
        _check_random_numbers(tmp_path, cuda)
    _check_random_numbers(tmp_path, torch.device("cpu"))
    torch.save({"torch_manual_seed": cpu, "torch_cuda_manual_seed": [gpu, gpu + 1]}, tmp_path / "random_states_0.pkl")
    _check_random_numbers(tmp_path, cuda)
    torch.save({"torch_manual_seed": cpu, "torch_cuda_manual_seed": [gpu + 1]}, tmp_path / "random_states_0.pkl")
    with pytest.raises(ValueError, match="random numbers could not be put back"):
        _check_random_numbers(tmp_path, cuda)
