"""What other tools ask of a model: `generate` with a tokenizer, adapters around its parts, traced graphs, trainers that
take the body alone, models by `torch.compile` of any length."""

import shutil
import warnings

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM, ResNetBKSeedConfig, ResNetBKSeedForCausalLM
from tests.models.configs import build, tokens


@pytest.mark.parametrize("name", ["matrix-conv-gate-dense-untied", "pointer-modulus", "seed"])
def test_a_text_that_stops_at_a_string(name):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces)
    ids = tokenizer("what", return_tensors="pt").input_ids
    if name == "seed":
        torch.manual_seed(0)
        model = ResNetBKSeedForCausalLM(ResNetBKSeedConfig(vocab_size=256, hidden_size=16, green="surface")).eval()
    else:
        model = build(name, dtype=torch.float64, vocab_size=256)
    options = {"max_new_tokens": 8, "do_sample": False}
    whole = model.generate(ids, **options)[0, 4:].tolist()
    stop = next(word for word in whole[2:] if tokenizer.decode(word).isascii())
    found = model.generate(ids, stop_strings=[tokenizer.decode(stop)], tokenizer=tokenizer, **options)[0, 4:].tolist()
    assert found == whole[: whole.index(stop) + 1]


class Adapter(nn.Module):
    """Stands in the place of a module and has nothing of it but the call."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments):
        return self.inner(*arguments)


@pytest.mark.parametrize("name", ["matrix-conv-gate-dense-untied", "modulus-as-it-is", "vector-conv-gate-moe-untied"])
def test_a_convolution_behind_an_adapter(name):
    model, ids = build(name, dtype=torch.float64), tokens(2, 5)
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(ids, **options)
    for layer in model.model.layers:
        layer.mixer.conv = Adapter(layer.mixer.conv)
    assert torch.equal(model.generate(ids, **options), expected)


@pytest.mark.parametrize("name", ["modulus-as-it-is", "pointer-modulus"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_graph_that_was_traced_with_a_full_mask_honours_padding(name):
    model, ids = build(name, dtype=torch.float64), tokens(2, 9)
    mask = torch.ones_like(ids)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    call = Logits()
    with torch.no_grad():
        traced = torch.jit.trace(call, (ids, mask), check_trace=False)
        mask[0, :4] = 0
        assert_close(traced(ids, mask)[0, 4:], call(ids, mask)[0, 4:])
        assert (traced(ids, torch.ones_like(mask)) - call(ids, mask))[0, 4:].abs().max() > 1e-3


LACKING = {
    "pointer-modulus": "lacks the pointer;",
    "adaptive-matrix": "lacks aux_loss;",
    "sparse-matrix": "lacks aux_loss;",
}


@pytest.mark.parametrize("name", LACKING)
def test_a_loss_that_is_made_past_the_head_is_told_what_it_lacks(name):
    model, ids = build(name).train(), tokens(2, 6)
    with pytest.warns(UserWarning, match=f"called in training past its head: .* {LACKING[name]} take the loss that"):
        model.base_model(input_ids=ids)


def test_no_warning_where_nothing_is_lacking():
    model, ids = build("pointer-modulus"), tokens(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()(ids, labels=ids).loss.backward()
        build("modulus-as-it-is").train().base_model(ids)
        with torch.no_grad():
            model.base_model(ids)
        model.eval().base_model(ids)


def test_there_are_no_attention_maps():
    model, ids = build("modulus-as-it-is"), tokens(1, 3)
    assert model(ids).attentions is None
    assert model.base_model(ids).attentions is None
    assert "attentions" not in model(ids)


def test_a_copy_of_the_configuration_is_told_from_it():
    copied = type("ResNetBKConfig", (PreTrainedConfig,), {"__module__": "transformers_modules.copied"})
    message = "config must be a ResNetBKConfig, but got ResNetBKConfig of transformers_modules.copied in the place of"
    with pytest.raises(ValueError, match=message):
        ResNetBKForCausalLM(copied())


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ on a CPU, and there is no g++")
def test_a_mixer_of_any_length_is_compiled_by_inductor(monkeypatch, tmp_path):
    """Views of a symbolic length that are kept for the backward pass have strides that it could not compare."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    config = ResNetBKConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_heads=2)
    mixer = ResNetBKForCausalLM(config).train().model.layers[0].mixer
    compiled = torch.compile(lambda hidden: mixer(hidden).tokens, dynamic=True)
    hidden, gradients = torch.randn(2, 9, 8), []
    for call in (lambda hidden: mixer(hidden).tokens, compiled):
        mixer.zero_grad()
        output = call(hidden)
        output.square().sum().backward()
        gradients.append([output.detach(), *(parameter.grad for parameter in mixer.parameters())])
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
