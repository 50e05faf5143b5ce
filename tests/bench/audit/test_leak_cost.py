"""What a leak buys: on models whose figure is known, and the whole way from a name to the table."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from resnet_bk.bench.audit.leak_cost import causal_twin, held_out_segments, measure_leak, whole_and_prefix_losses
from resnet_bk.bench.audit.leak_setup import leak_setup
from resnet_bk.bench.audit.show import leak_cost_table
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.models import ResNetBKConfig, ResNetBKSeedConfig
from tests.bench.tiny_bench import settings, write_text

WORDS = 40


@pytest.fixture
def protocol(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_BK_CACHE", str(tmp_path / "cache"))
    return check_protocol(settings(write_text(tmp_path / "text.txt")), "tiny")


class Copies(nn.Module):
    """Says of every position that the word after it comes next, or nothing at all where there is none."""

    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.tensor(50.0))

    def forward(self, input_ids):
        after = torch.nn.functional.one_hot(input_ids[:, 1:], WORDS).float()
        return CausalLMOutput(logits=self.size * torch.nn.functional.pad(after, (0, 0, 0, 1)))


def test_a_model_that_copies_the_answer():
    words = torch.randint(WORDS, (3, 9), generator=torch.Generator().manual_seed(0))
    targets = words.clone()[:, 1:]
    targets[2, 5:] = -100
    whole, prefix = whole_and_prefix_losses(Copies(), words[:, :-1], targets)
    known = targets >= 0
    # With the segment in view all but the last word are known: log(1 + 39 exp(-50)). Alone, every word is a guess.
    torch.testing.assert_close(whole[:, :-1][known[:, :-1]], torch.zeros(19, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(prefix[known], torch.full((21,), math.log(WORDS), dtype=torch.float64))
    assert not prefix[~known].any()
    assert not whole[~known].any()


def test_a_causal_model_gains_nothing():
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **shape, **special)).eval()
    words = torch.randint(WORDS, (3, 12))
    whole, prefix = whole_and_prefix_losses(model, words[:, :-1], words[:, 1:])
    # Losses of a few nats, float32, two layers of width 16: sums in another order differ by about 1e-6.
    torch.testing.assert_close(whole, prefix, atol=2e-5, rtol=0)


def test_the_twin():
    config = ResNetBKSeedConfig(vocab_size=WORDS, hidden_size=16)
    twin = causal_twin(config)
    assert (twin.green, twin.causal, config.green) == ("surface", True, "two_sided")
    assert twin.hidden_size == 16
    assert causal_twin(twin) is None
    assert causal_twin(ResNetBKConfig()) is None


def test_a_leaking_model_and_its_twin(protocol):
    setup = leak_setup("resnet-bk-seed", protocol)
    cost = measure_leak(setup, steps=12, segments=6)
    model, twin = cost.rows
    assert [row.name for row in cost.rows] == ["resnet-bk-seed", "resnet-bk-seed, causal twin"]
    assert model.parameters == twin.parameters
    assert model.steps == twin.steps == cost.steps == 12
    assert (cost.segments, cost.tokens_per_segment, cost.predictions) == (6, 16, 96)
    assert cost.learning_rate == 1e-2  # of the protocol's first model
    assert model.bought == pytest.approx(model.prefix - model.whole)
    assert abs(model.bought) > 100 * abs(twin.bought)
    assert abs(twin.bought) < 1e-5  # rounding of losses of 4 nats
    assert cost.bought_in_training == pytest.approx(twin.whole - model.whole)
    assert all(row.training_loss < math.log(64) for row in cost.rows)  # both learned something

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(leak_cost_table(cost))
    assert f"{model.whole:.4f}" in console.export_text()
    said = " ".join(cost.sentences())
    assert f"resnet-bk-seed: later tokens of the segment buy {model.bought:.4f} ±" in said
    assert f"the leak shows as {cost.bought_in_training:.4f} nats a token" in said
    json.dumps(cost.as_dict(), allow_nan=False)
    again = measure_leak(setup, steps=12, segments=6)
    assert again == cost


def test_a_model_without_a_leak_has_one_row(protocol):
    cost = measure_leak(leak_setup("gpt2", protocol), steps=2, segments=1)
    (row,) = cost.rows
    assert cost.bought_in_training is None
    assert cost.learning_rate == 3e-3  # its own
    assert (row.steps, row.standard_error) == (2, None)
    assert abs(row.bought) < 1e-5
    assert len(cost.sentences()) == 1


def test_a_saved_model_is_measured_as_it_is(protocol, tmp_path):
    fresh = leak_setup("gpt2", protocol)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(fresh.config)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=f"--leak-cost: {folder} holds no tokenizer"):
        leak_setup(str(folder), protocol)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"--leak-cost: the tokenizer of {folder} cannot be read"):
        leak_setup(str(folder), protocol)
    tokenizer_of(protocol).save_pretrained(folder)
    setup = leak_setup(str(folder), protocol)
    cost = measure_leak(setup, segments=2)
    (row,) = cost.rows
    assert (row.steps, row.training_loss, cost.steps, cost.learning_rate) == (None, None, None, None)
    inputs, targets = held_out_segments(setup, 2)
    expected = model.eval()(input_ids=inputs).logits.detach().flatten(0, 1)
    assert row.whole == pytest.approx(float(nn.functional.cross_entropy(expected, targets.flatten())), rel=1e-5)


def test_a_folder_goes_before_a_type_as_in_the_audit(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert leak_setup("opt", protocol).model is None
    AutoModelForCausalLM.from_config(leak_setup("gpt2", protocol).config).save_pretrained("opt")
    tokenizer_of(protocol).save_pretrained("opt")
    assert leak_setup("opt", protocol).model.config.model_type == "gpt2"


def tokenizer_of(protocol):
    from resnet_bk.bench.data import default_cache_dir, open_corpus
    from resnet_bk.data import cached_tokenizer

    return cached_tokenizer(
        open_corpus(protocol), kind="word", vocab_size=64, pre_tokenizer="words", cache_dir=default_cache_dir()
    )


def test_a_configuration_decides_words_and_length(protocol, tmp_path):
    ResNetBKSeedConfig(vocab_size=30, hidden_size=16, max_position_embeddings=10).save_pretrained(tmp_path)
    setup = leak_setup(str(tmp_path / "config.json"), protocol)
    assert setup.model is None
    assert setup.protocol.sequence_length == 10
    assert int(setup.train.tokens.max()) < 30


def test_a_type_of_transformers(protocol):
    setup = leak_setup("mistral", protocol)
    assert setup.config.model_type == "mistral"
    assert setup.config.hidden_size == 32
    assert measure_leak(setup, steps=2, segments=2).rows[0].steps == 2


def test_other_text(protocol, tmp_path):
    other = write_text(tmp_path / "other.txt", documents=200)
    assert leak_setup("gpt2", protocol, str(other)).data == "other.txt"
    with pytest.raises(ValueError, match="no/such/text"):
        leak_setup("gpt2", protocol, "no/such/text.txt")


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_of_the_hub_brings_its_tokenizer(protocol, monkeypatch, cached):
    fresh = leak_setup("gpt2", protocol)
    calls = []

    def load(name, local_files_only=False):
        calls.append(local_files_only)
        if local_files_only and not cached:
            raise OSError("not in the cache")
        return tokenizer_of(protocol)

    model = AutoModelForCausalLM.from_config(fresh.config)
    monkeypatch.setattr("resnet_bk.bench.audit.leak_setup.audit_target", lambda name, protocol: model)
    monkeypatch.setattr("resnet_bk.bench.audit.leak_setup.AutoTokenizer.from_pretrained", load)
    assert leak_setup("somebody/something", protocol).model is model
    assert calls == ([True] if cached else [True, False])


def test_more_words_than_the_model_has(protocol, tmp_path):
    config = leak_setup("gpt2", protocol).config
    config.vocab_size = 20
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer_of(protocol).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"tokenizer of .* has 64 words, its model 20"):
        leak_setup(str(tmp_path / "model"), protocol)


@pytest.mark.parametrize("argument", ["steps", "segments"])
def test_nothing_to_measure(protocol, argument):
    with pytest.raises(ValueError, match=f"--{argument} 0: must be at least 1"):
        measure_leak(leak_setup("gpt2", protocol), **{argument: 0})
