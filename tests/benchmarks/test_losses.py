"""Losses and weights of a few steps, held to those of an earlier call."""

import json

import pytest
import torch
import yaml

from benchmarks import losses
from benchmarks.command import guarded
from tests.bench.tiny_bench import settings, write_text

pytestmark = pytest.mark.sweep  # of benchmarks/, which is not measured


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A protocol, and what its models went through in 3 steps."""
    folder = tmp_path_factory.mktemp("losses")
    text = write_text(folder / "text.txt")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings(text), sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
        # A checkout has no such folder before the first call.
        assert call(folder / "tiny.yaml", "--steps", 3, "--out", folder / "runs" / "before.json") == 0
        yield folder


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "tune_process", lambda: None)
        with pytest.raises(SystemExit) as ended:
            guarded(lambda _: losses.main([str(argument) for argument in arguments]))
    return ended.value.code


def changed(folder, change):
    """A file like the earlier one, but for one change."""
    found = json.loads((folder / "runs" / "before.json").read_text())
    change(found)
    (folder / "changed.json").write_text(json.dumps(found))
    return folder / "changed.json"


def test_the_same_code_is_the_same(before, capsys):
    models = json.loads((before / "runs" / "before.json").read_text())["models"]
    assert set(models) == {"resnet-bk", "gpt2"}
    assert all(len(passed["losses"]) == 3 and len(passed["weights"]) == 64 for passed in models.values())
    assert models["gpt2"]["weights"] != models["resnet-bk"]["weights"]
    assert call(before / "tiny.yaml", "--steps", 3, "--against", before / "runs" / "before.json") == 0
    assert "2 of 2 models bit for bit as at commit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seeds=[7]", "seed (42 there, 7 now)"),
        ("models.gpt2.learning_rate=2e-3", "models.gpt2.learning_rate (0.003 there, 0.002 now)"),
        ("batch_size=8", "batch_size (4 there, 8 now)"),
        ("models.gpt2.config={n_inner: 8}", "models.gpt2.config ({} there, {'n_inner': 8} now)"),
        ("tokenizer=bpe", "tokenizer ('word' there, 'bpe' now)"),
    ],
)
def test_another_training_is_refused(before, monkeypatch, capsys, setting, says):
    """Before anything is trained: it would read as a change of the code."""
    monkeypatch.setattr(losses, "passes", lambda *_: pytest.fail("trained"))
    arguments = (before / "tiny.yaml", "--steps", 3, "--against", before / "runs" / "before.json", "--models", "gpt2")
    assert call(*arguments, "--set", setting) == 2
    error = capsys.readouterr().err
    assert f"gpt2 was trained there with other settings: {says}; give those of the file" in error


def test_settings_that_change_no_training_and_another_models_are_not_compared(before, capsys):
    settings = ("--set", "log_interval=7", "--set", "device=auto", "--set", "models.resnet-bk.learning_rate=1e-3")
    arguments = ("--steps", 3, "--models", "gpt2", "--against", before / "runs" / "before.json")
    given = settings if not torch.cuda.is_available() else settings[:2]
    assert call(before / "tiny.yaml", *arguments, *given) == 0
    assert "1 of 1 models bit for bit" in capsys.readouterr().out


def test_what_differs_is_named(before, capsys):
    def against(change):
        return call(before / "tiny.yaml", "--steps", 3, "--models", "gpt2", "--against", changed(before, change))

    assert against(lambda found: found["models"]["gpt2"].update(weights="0" * 64)) == 1
    assert "gpt2: its weights after the last step" in capsys.readouterr().out
    assert against(lambda found: found["models"]["gpt2"]["losses"].__setitem__(1, 1.0)) == 1
    assert "DIFFERS: gpt2: from step 2 on\n0 of 1 models" in capsys.readouterr().out
    assert against(lambda found: found["models"]["gpt2"].update(text="another")) == 1
    assert "gpt2: has read another text" in capsys.readouterr().out
    assert against(lambda found: found["models"].pop("gpt2")) == 1
    assert "gpt2: is not in the file" in capsys.readouterr().out
    assert against(lambda found: found["environment"].update(threads=99)) == 2
    assert "was written with threads 99, and this is" in capsys.readouterr().err
    assert against(lambda found: found.update(steps=4)) == 2
    assert "was written with --steps 4, and this is 3" in capsys.readouterr().err
    assert against(lambda found: found.pop("steps")) == 2
    assert "was not written by this command; name a file of --out" in capsys.readouterr().err
    assert against(lambda found: found["models"]["gpt2"].pop("settings")) == 2
    assert "holds no settings of gpt2, as an earlier version of this command wrote it" in capsys.readouterr().err
    assert against(lambda found: found.pop("models")) == 2
    assert "was not written by this command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quick",), "--out or --against FILE must be given"),
        (("quick", "--steps", 0, "--out", "x.json"), "--steps 0: must be at least 1"),
        (("quick", "--set", "steps=5", "--out", "x.json"), "--set steps=5: not read; --steps N says how many"),
        (("quick", "--set", "warmup_steps=5", "--out", "x.json"), "--set warmup_steps=5: not read"),
        (("quick", "--models", "gpt3", "--out", "x.json"), "--models gpt3: no such case (did you mean gpt2?)"),
        (
            ("quick", "--against", "nowhere.json"),
            "--against nowhere.json: there is no such file; name one that --out wrote\n",
        ),
        (("quik", "--out", "x.json"), "quik"),
    ],
)
def test_bad_calls(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
