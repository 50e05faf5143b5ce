"""Weights that a run has left, read again."""

import re

import pytest
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

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
    says = "holds other weights than this code has (pointer.gate_proj.weight, pointer.gates.weight); read it with the"
    with pytest.raises(ValueError, match=re.escape(says)):
        load_model(folder)
    assert capfd.readouterr().err == ""  # what is wrong is said once
