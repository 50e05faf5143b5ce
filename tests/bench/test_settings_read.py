"""Settings that a command does not read: an error on its command line."""

import pytest
import yaml

from tests.bench.tiny_bench import settings, write_text
from tests.command_line import assert_bad_call, call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    text = write_text(folder / "text.txt")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings(text), sort_keys=False))
    return folder / "tiny.yaml"


@pytest.mark.parametrize(
    ("arguments", "setting", "what"),
    [
        (["inspect", "gpt2"], "batch_size=2", "inspect gpt2 reads hidden_size"),
        (["inspect", "gpt2"], "steps=4", "inspect gpt2 reads hidden_size"),
        (["flops", "gpt2"], "seeds=[1]", "flops gpt2 reads hidden_size"),
        (["flops", "PROTOCOL"], "weight_decay=0.5", "flops reads name, hidden_size"),
        (["audit", "gpt2", "--quick"], "batch_size=2", "audit gpt2 reads hidden_size"),
        (["audit", "mistral", "--quick"], "sequence_length=32", "audit mistral reads device of a protocol"),
        (["ngrams"], "steps=4", "ngrams reads name, dataset"),
        (["ngrams"], "models.gpt2.learning_rate=1e-3", "ngrams reads name, dataset"),
    ],
)
def test_a_setting_that_is_not_read(tiny, arguments, setting, what):
    command, *rest = [tiny if argument == "PROTOCOL" else argument for argument in arguments]
    place = [] if tiny in rest else [tiny] if command == "ngrams" else ["--protocol", tiny]
    done = call(command, *rest, *place, "--set", setting)
    assert_bad_call(done, f"--set {setting}: is not read here, {what}", "leave it out")


def test_a_setting_that_no_leak_is_measured_with(tiny):
    """Text and model are read first, for what counts depends on whether the model has words and weights of its own."""
    arguments = ("audit", "gpt2", "--protocol", tiny, "--quick", "--leak-cost", "--set", "warmup_steps=4")
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert "error: --set warmup_steps=4: is not read here, audit gpt2 --leak-cost reads " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "inspect",
            "gpt2",
            "--set",
            "hidden_size=48",
            "--set",
            "parameter_tolerance=0.5",
            "--set",
            "sequence_length=32",
        ],
        ["flops", "gpt2", "--set", "steps=4", "--set", "batch_size=2", "--set", "optimizer=muon"],
        [
            "audit",
            "gpt2",
            "--quick",
            "--set",
            "hidden_size=48",
            "--set",
            "parameter_tolerance=0.5",
            "--set",
            "device=cpu",
        ],
        ["audit", "gpt2", "--quick", "--leak-cost", "--steps", 1, "--segments", 1, "--set", "weight_decay=0.5"],
    ],
)
def test_settings_that_are_read(tiny, arguments):
    done = call(*arguments, "--protocol", tiny)
    assert done.exit_code == 0, done.output


def test_steps_are_counted(tiny):
    """The operations of a whole training are those of as many steps as a setting says."""
    done = call("flops", "gpt2", "--protocol", tiny, "--set", "steps=4", "--json")
    assert '"steps": 4,' in done.stdout, done.output
