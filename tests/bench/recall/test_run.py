"""The recall benchmark as a command."""

import json

import pytest
import torch
import yaml
from transformers import AutoConfig
from typer.testing import CliRunner

from resnet_bk.bench import run_folder, slow_precision
from resnet_bk.bench.peers import resolve_configs
from resnet_bk.bench.recall import load_recall, run
from resnet_bk.bench.recall.measure import accuracy, state_numbers
from resnet_bk.bench.recall.mixers import without_feed_forward
from resnet_bk.bench.recall.stream import RecallStream
from resnet_bk.bench.recall.task import Recall, draw
from resnet_bk.cli import app
from resnet_bk.models import ResNetBKConfig
from resnet_bk.training import NonFiniteLossError
from tests.bench import tiny_bench

TINY = [
    "vocab_size=16",
    "train=[{length: 16, pairs: 2, examples: 64}]",
    "test=[{length: 16, pairs: 2, examples: 8}, {length: 32, pairs: 3, examples: 4}]",
    "batch_tokens=256",
    "hidden_size=16",
    "num_heads=2",
    "learning_rates=[1e-2]",
    "epochs=2",
]


def call(out, *settings, models="llama,modulus", extra=()):
    arguments = ["bench", "mqar", "--out", str(out), "--models", models, *extra]
    given = {setting.partition("=")[0] for setting in settings}
    for setting in (*(usual for usual in TINY if usual.partition("=")[0] not in given), *settings):
        arguments += ["--set", setting]
    return CliRunner().invoke(app, arguments)


def test_a_precision_that_is_slow_here_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(slow_precision, "cpu_multiplies", lambda dtype: False)
    result = call(tmp_path / "out", "dtype=bfloat16", "epochs=1", models="llama")
    assert "dtype: PyTorch has no fast matmuls of bfloat16" in " ".join(result.output.split())


def test_the_rate_that_recalls_most_on_fresh_examples():
    rates = ((0.1, 0.2), (0.2, 0.9), (0.3, 0.9))
    tried = [{"learning_rate": rate, "validation_accuracy": [found], "accuracy": [1 - found]} for rate, found in rates]
    assert min(tried, key=run._score)["learning_rate"] == 0.2


def test_every_setting_reaches_the_training(tmp_path, monkeypatch):
    seeds, measure = [], run.accuracies

    def noted(model, kinds, vocabulary, seed, **options):
        seeds.append(seed)
        return measure(model, kinds, vocabulary, seed, **options)

    monkeypatch.setattr(run, "accuracies", noted)
    done = call(tmp_path, "weight_decay=0.3", "clip=0.7", "warmup_share=0.5", "seeds=[1,2]", models="modulus")
    assert done.exit_code == 0, done.output
    one, two = json.loads((tmp_path / "results.json").read_text())["runs"]
    found = [one["training"][key] for key in ("weight_decay", "clip", "warmup_steps", "seed")]
    assert found == [0.3, 0.7, one["steps"] // 2, 1]
    assert one["epoch_losses"] != two["epoch_losses"]
    assert seeds == [run.VALIDATION_SEED, run.TEST_SEED] * 2


def test_trains_reports_and_skips_what_is_finished(tmp_path):
    result = call(tmp_path / "out", "seeds=[1,2]")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(run["model_name"], run["seed"]) for run in results["runs"]] == [
        ("llama", 1),
        ("llama", 2),
        ("modulus", 1),
        ("modulus", 2),
    ]
    for found in results["runs"]:
        assert found["audit"] == "causal"
        assert len(found["accuracy"]) == 2
        assert all(0 <= value <= 1 for value in found["accuracy"])
        assert (found["steps"], found["tokens"]) == (8, 2 * 64 * 16)
        assert found["environment"]["threads"] == torch.get_num_threads()
        assert found["training"]["learning_rate"] == 1e-2
        assert [tried["learning_rate"] for tried in found["learning_rates_tried"]] == [1e-2]
    assert results["runs"][0]["state_numbers"] is None
    assert results["runs"][2]["state_numbers"] == 32_632
    assert (results["runs"][0]["attention"], results["runs"][2]["attention"]) == (True, False)
    text = " ".join(result.output.split())
    assert "32,632" in text
    assert "Seeds: llama 2, modulus 2." in text
    assert "Beyond 16 tokens a test is of the length too" in text
    assert "One seed" not in text
    again = call(tmp_path / "out", "seeds=[1,2]")
    assert again.exit_code == 0
    assert again.output.count("finished:") == 4
    first = results["runs"][0]
    assert first["tokens"] == first["epochs"] * sum(
        kind["length"] * kind["examples"] for kind in results["protocol"]["train"]
    )
    # It keeps no model, and says so.
    folder = tmp_path / "out" / "llama" / f"lr-{first['learning_rate']}" / "seed-1"
    for arguments in (["eval"], ["inspect"], ["flops"], ["generate", "--prompt", "x"], ["lengths"], ["audit"]):
        done = CliRunner().invoke(app, [arguments[0], str(folder), *arguments[1:]])
        assert done.exit_code == 2, (arguments, done.output)
        assert "is a run of another task (recall), which keeps no model" in " ".join(done.output.split()), arguments
    done = CliRunner().invoke(app, ["audit", str(folder), "--leak-cost"])
    assert (done.exit_code, "another task" in done.output) == (2, True)


def test_rates_that_diverge_are_out_of_the_grid(tmp_path, monkeypatch):
    def train(model, stream, spec, folder, **options):
        if spec.learning_rate > 1e-2:
            raise NonFiniteLossError(f"{spec.name}: the training loss is nan")
        return real(model, stream, spec, folder, **options)

    real = run.train
    monkeypatch.setattr(run, "train", train)
    result = call(tmp_path / "out", "learning_rates=[1e-2,1e9]", "epochs=1", models="modulus")
    assert result.exit_code == 0, result.output
    lost = "modulus  lr 1e+09  seed 42: the training loss is nan"
    assert f"out of the grid: {lost}" in result.output
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert found["learning_rate"] == 1e-2
    assert [tried["diverged"] for tried in found["learning_rates_tried"]] == [None, lost]
    assert "its rate is at the end of the grid" in " ".join(result.output.split())
    # A model that cannot be trained does not keep the others from their runs.
    result = call(tmp_path / "other", "learning_rates=[1e9]", "models.llama.config={}", models="modulus,llama")
    assert result.exit_code == 2
    assert result.output.count("no rate of the grid [1000000000.0] could be trained. ") == 2
    results = json.loads((tmp_path / "other" / "results.json").read_text())
    assert results["runs"] == []
    assert {found["title"] for found in results["diverged"]} == {"llama at every rate", "modulus at every rate"}


def test_a_seed_that_diverges_costs_no_other(tmp_path, monkeypatch):
    def train(model, stream, spec, folder, **options):
        if spec.seed == 2:
            raise NonFiniteLossError(f"{spec.name}: the training loss is nan")
        return real(model, stream, spec, folder, **options)

    real = run.train
    monkeypatch.setattr(run, "train", train)
    result = call(tmp_path / "out", "seeds=[1,2,3]", "epochs=1", models="modulus")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "modulus lr 0.01 seed 2: the training loss is nan All else is done and saved." in text
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [found["seed"] for found in results["runs"]] == [1, 3]
    title = "modulus  lr 0.01  seed 2"
    assert results["diverged"] == [{"title": title, "diverged": f"{title}: the training loss is nan"}]


def test_a_model_is_shown_when_its_whole_grid_is_done(tmp_path):
    assert call(tmp_path / "out", "learning_rates=[1e-2]", "epochs=1", models="modulus").exit_code == 0
    result = call(tmp_path / "out", "learning_rates=[1e-2,2e-2]", "epochs=1", models="llama")
    assert result.exit_code == 0
    runs = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [found["model_name"] for found in runs] == ["llama"]
    told = "modulus/lr-0.01/seed-42 (not of this protocol, or not tried at all rates)"
    assert f"not in the table and results.json: {told}" in " ".join(result.output.split())


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "llama").touch()
    result = call(tmp_path, models="llama")
    assert result.exit_code == 2
    assert "llama is no folder, and one is to be written there" in " ".join(result.output.split())


def test_two_in_one_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with run_folder.locked(tmp_path / "out"):
        result = call(tmp_path / "out")
    assert result.exit_code == 2
    assert "another resnet-bk is running there" in result.output


def test_streams_of_training_validation_and_test_differ():
    """A generator reads the low 32 bits of its seed."""
    protocol = load_recall("mqar", [])
    held_out = {first + place for first in (run.TEST_SEED, run.VALIDATION_SEED) for place in range(len(protocol.test))}
    assert len(held_out) == 2 * len(protocol.test)
    assert max(held_out) < 2**32
    for seed in protocol.seeds:
        stream = RecallStream(protocol.train, protocol.batch_tokens, protocol.vocab_size, seed)
        places = range(stream.steps_per_epoch + 1)
        seeds = {stream._generator(epoch, place).initial_seed() for epoch in range(protocol.epochs) for place in places}
        assert len(seeds) == protocol.epochs * len(places)
        assert not seeds & held_out


def test_runs_from_before_a_key_that_recall_does_not_read(tmp_path):
    assert call(tmp_path / "out", models="modulus").exit_code == 0
    (file,) = tmp_path.glob("out/modulus/*/seed-*/run.json")
    record = json.loads(file.read_text())
    assert set(record["settings"]["models.modulus"]) == {"config", "transformers"}
    record["settings"]["models.modulus"] |= {"carry_state": False}
    file.write_text(json.dumps(record))
    assert call(tmp_path / "out", models="modulus").exit_code == 0


def test_the_device_may_be_called_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call(tmp_path / "out", "device=auto", models="modulus").exit_code == 0
    result = call(tmp_path / "out", "device=cpu", models="modulus")
    assert result.exit_code == 0
    assert result.output.count("finished:") == 1


def test_another_setting_in_the_same_folder_is_refused(tmp_path):
    assert call(tmp_path / "out", models="modulus").exit_code == 0
    result = call(tmp_path / "out", "epochs=3", models="modulus")
    assert result.exit_code == 2
    message = "holds modulus/lr-0.01/seed-42, run with other settings: epochs (2 there, 3 now); give another folder"
    assert message in " ".join(result.output.split())


def test_a_checkpoint_of_a_model_with_other_defaults_is_refused(tmp_path):
    assert call(tmp_path / "out", models="llama").exit_code == 0
    (file,) = tmp_path.glob("out/llama/*/seed-*/run.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"config": record["config"] | {"initializer_range": 0.1}}))
    assert call(tmp_path / "out", models="llama").exit_code == 0  # it is finished
    (file.parent / "result.json").unlink()
    (tmp_path / "out" / "results.json").unlink()
    result = call(tmp_path / "out", models="llama")
    assert result.exit_code == 2
    assert "of another model: initializer_range (0.1 there, 0.02 now)" in " ".join(result.output.split())


@pytest.mark.parametrize("text", ['{"mine": 1}', "no JSON"])
def test_a_protocol_json_of_somebody_else_is_not_overwritten(tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "protocol.json").write_text(text)
    result = call(tmp_path / "out", models="modulus")
    assert result.exit_code == 2
    assert "holds a protocol.json that no benchmark of recall wrote, which would be lost" in " ".join(
        result.output.split()
    )
    assert (tmp_path / "out" / "protocol.json").read_text() == text


def test_results_whose_folders_are_missing_are_not_overwritten(tmp_path):
    assert call(tmp_path / "out", models="llama").exit_code == 0
    for file in tmp_path.glob("out/llama/*/seed-*/result.json"):
        file.unlink()
    result = call(tmp_path / "out", models="modulus")
    assert result.exit_code == 2
    assert "has runs whose result.json is missing (1; the first is llama" in " ".join(result.output.split())


def test_runs_of_models_that_are_not_run_again_are_held_to_the_protocol_too(tmp_path):
    assert call(tmp_path / "out").exit_code == 0
    assert call(tmp_path / "out", models="modulus").exit_code == 0
    result = call(tmp_path / "out", "models.llama.config={initializer_range: 0.1}")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "holds llama/lr-0.01/seed-42, run with other settings: models.llama (" in text
    assert "; give another folder with --out" in text


def test_a_folder_of_a_text_is_refused_and_the_other_way_round(tmp_path):
    text = tiny_bench.write_text(tmp_path / "text.txt")
    protocol = tiny_bench.settings(text, steps=2)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    invoke = CliRunner().invoke
    arguments = ["train", str(tmp_path / "tiny.yaml"), "--out"]
    environment = {"RESNET_BK_CACHE": str(tmp_path / "cache")}
    assert invoke(app, [*arguments, str(tmp_path / "text")], env=environment).exit_code == 0
    result = call(tmp_path / "text", models="modulus")
    assert result.exit_code == 2
    assert "holds resnet-bk/seed-42, a run on a text; give another" in " ".join(result.output.split())
    assert call(tmp_path / "recall", models="modulus").exit_code == 0
    result = invoke(app, [*arguments, str(tmp_path / "recall")], env=environment)
    assert result.exit_code == 2
    assert "a run of another task (recall)" in result.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["test=[{length: 16, pairs: 8, examples: 1}]"], "length=16 must be even and hold 8 pairs"),
        (["vocab_size=4"], "pairs=2 need 2 keys, vocab_size=4 has 1"),
        (["batch_tokens=8"], "batch_tokens=8: an example of length 16 does not fit"),
        (["hidden_size=15"], "hidden_size=15: must be divisible by num_heads=2"),
        (["epoch=3"], "epoch: unknown key (did you mean epochs?)"),
        (["test=[{length: 16, pairs: 2, example: 1}]"], "test.0.example: unknown key (did you mean examples?)"),
        (["seeds=[1,1]"], "seeds=[1, 1]: holds a value twice"),
        (["models.llama.carry_state=true"], "models.llama.carry_state: has no meaning for recall; leave it out"),
        (["models.llama.learning_rate=1e-3"], "models.llama.learning_rate: has no meaning for recall"),
        (["models.modulus.config.pointer_heads=2"], "models.modulus: cannot read 32 tokens (pointer_heads=2: recall"),
        (["models.llama.transformers=opt"], "models.llama: cannot read 32 tokens (opt: none of its layers has"),
        (["epochs=0"], "epochs=0: input should be greater than or equal to 1"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    result = call(tmp_path / "out", *settings)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_options_that_have_no_meaning_here(tmp_path):
    result = call(tmp_path / "out", extra=["--test"])
    assert result.exit_code == 2
    assert "leave out --data and --test" in result.output
    result = call(tmp_path / "out", models="gpt3")
    assert result.exit_code == 2
    assert "model 'gpt3' is not in protocol mqar" in result.output
    result = call(tmp_path / "out", models=",")
    assert result.exit_code == 2
    assert "no model is named; protocol mqar has" in " ".join(result.output.split())
    result = CliRunner().invoke(app, ["train", "mqar"])
    assert result.exit_code == 2
    assert "run it with `resnet-bk bench mqar`" in result.output


def test_the_shipped_protocol():
    protocol = load_recall("mqar")
    assert {kind.length for kind in protocol.train} == {64, 128, 256}
    assert max(kind.length for kind in protocol.test) == 1024


class Oracle(torch.nn.Module):
    """Answers by looking the key up; wrong where `blind`."""

    def __init__(self, vocabulary, blind):
        super().__init__()
        self.blind = blind
        self.head = torch.nn.Linear(vocabulary, vocabulary, bias=False)
        torch.nn.init.eye_(self.head.weight)

    def get_output_embeddings(self):
        return self.head

    @property
    def base_model(self):
        return self._hidden

    def _hidden(self, input_ids, use_cache):
        hidden = torch.zeros(*input_ids.shape, self.head.weight.shape[0])
        for row, words in enumerate(input_ids.tolist()):
            known = {}
            for place, word in enumerate(words):
                if word in known and not self.blind:
                    hidden[row, place, known[word]] = 1.0
                if place + 1 < len(words):
                    known.setdefault(word, words[place + 1])
        return type("Output", (), {"last_hidden_state": hidden})


@pytest.mark.parametrize(("blind", "expected"), [(False, 1.0), (True, 0.0)])
def test_accuracy(blind, expected):
    kind = Recall(32, 4, 7)
    assert accuracy(Oracle(50, blind), kind, 50, 3, batch_tokens=64) == expected


def test_feed_forward_networks_are_out():
    kind = "[{length: 16, pairs: 2, examples: 1}]"
    protocol = load_recall("mqar", ["vocab_size=20", f"train={kind}", f"test={kind}"])
    shipped = resolve_configs(protocol.shapes(), 20, {})
    for config in (
        *shipped.values(),
        AutoConfig.for_model("gpt2", vocab_size=20, n_embd=16, n_head=2, n_layer=2),
    ):
        model = without_feed_forward(config, 0)
        assert not any("mlp" in name or "feed_forward." in name for name, _ in model.named_parameters())
        inputs, _ = draw(Recall(16, 2, 1), 1, 20, torch.Generator())
        assert model(inputs, use_cache=False).logits.shape == (1, 16, 20)


def test_a_model_whose_feed_forward_networks_are_not_found():
    config = AutoConfig.for_model(
        "opt", vocab_size=20, hidden_size=16, ffn_dim=8, num_attention_heads=2, num_hidden_layers=1
    )
    with pytest.raises(ValueError, match="opt: none of its layers has mlp or feed_forward"):
        without_feed_forward(config, 0)


def test_a_pointer_is_no_mixer():
    with pytest.raises(ValueError, match="pointer_heads=2: recall asks what the sequence mixers can do"):
        without_feed_forward(ResNetBKConfig(vocab_size=20, hidden_size=16, num_heads=2, pointer_heads=2), 0)


def test_what_a_model_carries_is_measured():
    ours = {"vocab_size": 20, "hidden_size": 16, "num_heads": 2, "num_hidden_layers": 2, "pointer_heads": 0}
    # Two layers: L and psi, both complex, and three inputs of a convolution over the channels.
    vector = ResNetBKConfig(**ours, state="vector", state_channels=24)
    assert state_numbers(without_feed_forward(vector, 0)) == 2 * (4 * 24 + 3 * 24)
    # Complex L and real S, and three inputs of queries, keys and values.
    modulus = ResNetBKConfig(**ours, state="modulus", key_dim=4, value_dim=8)
    assert state_numbers(without_feed_forward(modulus, 0)) == 2 * (2 * (2 + 4 * 8) + 3 * 2 * (4 + 4 + 8))
    assert state_numbers(without_feed_forward(modulus, 0).double()) == 2 * (2 * (2 + 4 * 8) + 3 * 2 * (4 + 4 + 8))
    unfiltered = ResNetBKConfig(**ours, state="matrix", key_dim=4, value_dim=8, conv_size=0)
    assert state_numbers(without_feed_forward(unfiltered, 0)) == 2 * 2 * (2 + 2 * 4 * 8)
    llama = AutoConfig.for_model(
        "llama", vocab_size=20, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    assert state_numbers(without_feed_forward(llama, 0)) is None


def test_the_shipped_models_carry_at_most_33_000_numbers():
    protocol = load_recall("mqar")
    configs = resolve_configs(protocol.shapes(), protocol.vocab_size, {})
    assert {config.num_hidden_layers for config in configs.values()} == {2}
    sizes = {name: state_numbers(without_feed_forward(config, 0)) for name, config in configs.items()}
    assert sizes.pop("attention") is sizes.pop("llama") is None
    assert (sizes.pop("modulus-10k"), sizes.pop("modulus-3k")) == (9_736, 2_824)
    assert all(32_500 <= size <= 33_000 for size in sizes.values()), sizes


@pytest.mark.parametrize("tied", [True, False])
def test_head_and_embedding_are_shared_by_all_or_by_none(tied):
    protocol = load_recall("mqar", [f"tie_word_embeddings={str(tied).lower()}"])
    configs = resolve_configs(protocol.shapes(), protocol.vocab_size, {})
    for name in ("llama", "modulus", "mamba2"):
        model = without_feed_forward(configs[name], 0)
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
