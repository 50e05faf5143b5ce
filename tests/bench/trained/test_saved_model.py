"""Weights that a run has left, read again."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.trained.positions import longest_text
from resnet_bk.bench.trained.saved_model import load_model
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM


@pytest.fixture
def saved(tmp_path):
    config = ResNetBKConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_heads=2, pointer_heads=1)
    model = ResNetBKForCausalLM(config)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def test_weights_come_back(saved):
    model, folder = saved
    assert_close(load_model(folder).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_of_other_code_are_refused(saved, capfd):
    """Transformers would draw anew what it does not find, and evaluate that."""
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    weights["pointer.gate_proj.weight"] = weights.pop("pointer.gates.weight")  # its name until commit ab4bc21
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    says = "with this code (pointer.gate_proj.weight, pointer.gates.weight); save model and configuration there"
    with pytest.raises(ValueError, match=re.escape(says)):
        load_model(folder)
    assert capfd.readouterr().err == ""  # what is wrong is said once


def test_weights_of_other_shapes_are_refused(saved, capfd):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 30}))
    with pytest.raises(ValueError, match=re.escape("with this code (lm_head.weight, model.embed_tokens.weight")):
        load_model(folder)
    assert capfd.readouterr().err == ""


def test_positions_of_a_buffer_are_counted():
    """GPT-J keeps the sines and cosines of so many places."""
    gptj = AutoConfig.for_model("gptj", vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=24, rotary_dim=4)
    assert longest_text(AutoModelForCausalLM.from_config(gptj)) == 24
    llama = AutoConfig.for_model("llama", vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    assert longest_text(AutoModelForCausalLM.from_config(llama)) is None
