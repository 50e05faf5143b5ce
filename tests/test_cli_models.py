"""`flops` and `inspect` on the command line: models by every kind of name, JSON, and bad calls."""

import json
import os

import pytest
import yaml

from resnet_bk.models import ResNetBKSeedConfig, ResNetBKSeedForCausalLM
from tests.bench.tiny_bench import settings, write_text
from tests.command_line import assert_bad_call, call


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A protocol, finished runs of the seed and of its causal form, and a saved model."""
    folder = tmp_path_factory.mktemp("home")
    models = {name: {"learning_rate": 1e-2} for name in ("resnet-bk-seed-causal", "resnet-bk-seed")}
    text = write_text(folder / "text.txt")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings(text, models=models, steps=6), sort_keys=False))
    before = os.environ.get("RESNET_BK_CACHE")
    os.environ["RESNET_BK_CACHE"] = str(folder / "cache")
    for name in models:
        done = call("train", folder / "tiny.yaml", "--model", name, "--out", folder / "out")
        assert done.exit_code == 0, done.output
    ResNetBKSeedForCausalLM(ResNetBKSeedConfig(vocab_size=40, hidden_size=8)).save_pretrained(folder / "saved")
    yield folder
    os.environ.pop("RESNET_BK_CACHE")
    if before is not None:
        os.environ["RESNET_BK_CACHE"] = before


def test_a_name_goes_before_a_folder_that_is_called_the_same(home, tmp_path, monkeypatch):
    ResNetBKSeedForCausalLM(ResNetBKSeedConfig(vocab_size=40, hidden_size=8)).save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    found = json.loads(call("inspect", "gpt2", "--protocol", home / "tiny.yaml", "--json").stdout)
    assert (found["model_type"], found["weights"]) == ("gpt2", "fresh")


def test_flops_prints_the_report(home):
    done = call("flops", "resnet-bk-seed")
    assert done.exit_code == 0, done.output
    for number in (
        "69,693,440",
        "8,143,880,192",
        "16,284,008,448",
        "62,191,800",
        "24,490,080,440",
        "239,121,145,416,160",
    ):
        assert number in done.stdout


def test_flops_by_every_kind_of_name(home):
    run = home / "out" / "resnet-bk-seed-causal" / "seed-42"
    of_run = json.loads(call("flops", run, "--json").stdout)
    result = json.loads((run / "result.json").read_text())
    assert of_run["model"] == str(run)
    assert (of_run["batch_size"], of_run["sequence_length"], of_run["steps"]) == (4, 16, 6)
    for key in ("parameters", "forward_flops", "backward_flops", "total_training_flops"):
        assert of_run[key] == result[key]
    assert of_run["flops_convention"]["forward_flops"] == result["flops_convention"]["forward_flops"]
    shape = ("--protocol", home / "tiny.yaml", "--set", "batch_size=1", "--json")
    saved = json.loads(call("flops", home / "saved", *shape).stdout)
    assert saved["model_type"] == "resnet_bk_seed"
    assert json.loads(call("flops", home / "saved" / "config.json", *shape).stdout) | {"model": ""} == saved | {
        "model": ""
    }
    # Another protocol gives a run other batches.
    assert json.loads(call("flops", run, *shape).stdout)["forward_flops"] * 4 == of_run["forward_flops"]
    gpt2 = json.loads(call("flops", "gpt2", *shape).stdout)
    assert gpt2["flops_convention"] is None
    # A type of transformers has the protocol's shape.
    config = json.loads(call("inspect", "mistral", "--protocol", home / "tiny.yaml", "--json").stdout)["config"]
    assert (config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]) == (64, 32, 1)
    # A protocol: all its models.
    assert set(json.loads(call("flops", home / "tiny.yaml", "--json").stdout)) == {
        "resnet-bk-seed-causal",
        "resnet-bk-seed",
    }
    one = call("flops", home / "tiny.yaml", "--models", "resnet-bk-seed").stdout
    assert "as the report counts" in one
    assert "resnet-bk-seed-causal" not in one


def test_a_shape_is_not_set_for_what_has_its_own(home):
    run, saved = home / "out" / "resnet-bk-seed" / "seed-42", home / "saved"
    for setting in ("hidden_size=16", "tie_word_embeddings=true"):
        says = (f"--set {setting}: ", "has a shape of its own, which no setting changes; leave it out")
        for name in (run, saved, saved / "config.json"):
            for command in ("flops", "inspect"):
                assert_bad_call(call(command, name, "--protocol", home / "tiny.yaml", "--set", setting), *says)
        assert_bad_call(call("inspect", run, "--set", setting), *says)
        for name in (saved, saved / "config.json", "mistral"):
            assert_bad_call(call("audit", name, "--quick", "--set", setting), *says)


def test_a_type_that_does_not_take_the_shape(monkeypatch):
    def refuse(config, seed):
        raise RuntimeError("wants more")

    monkeypatch.setattr("resnet_bk.bench.model_target.build_model", refuse)
    done = call("flops", "mistral")
    assert done.exit_code == 2
    assert "transformers cannot build it in the shape of protocol seed (RuntimeError: wants more)" in done.stderr


def test_inspect_a_run(home):
    run = home / "out" / "resnet-bk-seed-causal" / "seed-42"
    done = call("inspect", run, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["weights"], found["causal"]) == (str(run), True)
    assert found["measured_on"].startswith("text.txt, validation, ")
    assert len(found["time_scales"]) == 1
    shown = call("inspect", run).stdout
    assert "causal by declaration" in shown
    assert "model.layers.*.experts" in shown
    assert "time scales on text.txt" in shown
    assert json.loads(call("inspect", home / "saved" / "config.json", "--json").stdout)["weights"] == "fresh"
    saved = json.loads(call("inspect", home / "saved", "--json").stdout)
    assert (saved["weights"], saved["measured_on"]) == (str(home / "saved"), "random words")


def test_eval_of_a_model_that_leaks_gives_no_perplexity(home):
    run = home / "out" / "resnet-bk-seed" / "seed-42"
    result = json.loads((run / "result.json").read_text())
    found = json.loads(call("eval", run, "--json").stdout)
    assert found["audit"] == "leaks"
    assert found["perplexity"] is found["loss"] is found["bits_per_character"] is None
    assert found["leaking_perplexity"] == pytest.approx(result["leaking_perplexity"], rel=1e-6)
    shown = f"no perplexity, for it leaks ({result['leaking_perplexity']:.2f} with the answer in sight)"
    assert shown in call("eval", run).stdout
    causal = json.loads(call("eval", home / "out" / "resnet-bk-seed-causal" / "seed-42", "--json").stdout)
    assert (causal["audit"], causal["leaking_perplexity"]) == ("causal", None)
    assert causal["perplexity"] > 1


def test_generate_reads_everything_again(home):
    run = home / "out" / "resnet-bk-seed-causal" / "seed-42"
    done = call("generate", run, "--prompt", "w2 w3", "--max-new-tokens", 8)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("w2 w3 ")
    done = call("generate", run, "--prompt", "w2", "--max-new-tokens", 16)
    assert done.exit_code == 2
    assert "has 16 positions; ask for at most 15" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["flops", "no-such"], ["'no-such'", "resnet-bk-seed", "protocols: ", "quick"]),
        (["flops", "gpt2", "--models", "llama"], ["--models llama", "gpt2 is one model"]),
        (["flops", "quick", "--protocol", "seed"], ["--protocol seed", "quick is a protocol already"]),
        (["flops", "no/such.yaml"], ["no/such.yaml does not exist"]),
        (["flops", "gpt2", "--protocol", "quik"], ["unknown protocol 'quik'", "did you mean quick"]),
        (["flops", "gpt2", "--set", "batch_size=0"], ["batch_size=0"]),
        (["inspect", "quick"], ["'quick' is a protocol", "for example resnet-bk"]),
        (["inspect", "lama"], ["model 'lama' (did you mean llama?) is no run folder"]),
        (["inspect", "no-such"], ["'no-such'"]),
        (["flops", "RUN", "--set", "batch_size=2"], ["--set batch_size=2", "with --protocol"]),
        (["inspect", "RUN", "--set", "batch_size=2"], ["--set batch_size=2", "reads nothing of a protocol"]),
        (["inspect", "RUN", "--protocol", "seed"], ["--protocol seed", "reads nothing else", "leave it out"]),
    ],
)
def test_bad_calls(home, arguments, parts):
    run = home / "out" / "resnet-bk-seed-causal" / "seed-42"
    done = call(*(run if argument == "RUN" else argument for argument in arguments))
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
