"""A mixer that is added to the registry is a `state` of models, with all that they do."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers.registry import MIXERS
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM
from tests.layers.fading_mean import FadingMean

WORDS = 31
CHOICES = {
    "alone": {},
    "no-convolution": {"conv_size": 0, "output_gate": "none"},
    "sparse": {"sparse_bk": 0.5},
    "scales": {"multi_scale": [1, 2, 1]},
    "adaptive-pointer": {"adaptive_computation": True, "halting_threshold": 0.6, "pointer_heads": 2},
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(MIXERS, FadingMean.name, FadingMean)


@pytest.fixture(params=CHOICES.values(), ids=CHOICES)
def model(request):
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 3, "num_heads": 2, "intermediate_size": 24}
    config = ResNetBKConfig(state="fading-mean", initializer_range=0.2, **shape, **request.param)
    return ResNetBKForCausalLM(config).double().eval()


def words(batch, length):
    return torch.randint(WORDS, (batch, length), generator=torch.Generator().manual_seed(1))


def test_whole_equals_token_by_token(model):
    ids = words(2, 13)
    whole, cache, parts = model(ids).logits, None, []
    for token in ids.split(1, dim=1):
        output = model(token, past_key_values=cache, use_cache=True)
        cache, _ = output.past_key_values, parts.append(output.logits)
    assert_close(torch.cat(parts, dim=1), whole)
    assert not torch.allclose(model(ids[:, 5:]).logits, whole[:, 5:])  # what came before counts


def test_padding_and_documents_change_nothing(model):
    ids = words(2, 13)
    alone = model(ids[1:, 4:]).logits
    mask = (torch.arange(13) >= torch.tensor([[0], [4]])).long()
    assert_close(model(ids, attention_mask=mask).logits[1:, 4:], alone)
    documents = (torch.arange(13) >= 4).long().expand(2, -1)
    assert_close(model(ids, document_ids=documents).logits[1:, 4:], alone)


def test_saved_and_loaded_is_the_same(model, tmp_path):
    """Where chains start, which it does not read, is no matter."""
    model.save_pretrained(tmp_path)
    assert_close(ResNetBKForCausalLM.from_pretrained(tmp_path)(words(2, 9)).logits, model(words(2, 9)).logits)


def test_a_word_that_it_does_not_read():
    """What it is to be set to stands as a word is written."""
    config = ResNetBKConfig(state="fading-mean")
    config.gradient = "autograd"
    with pytest.raises(ValueError, match=r"gradient='autograd' has no effect .* or set it to 'exact'\)"):
        config.check()


def test_a_floor_of_the_absorption_is_for_the_pointer():
    assert ResNetBKConfig(state="fading-mean", pointer_heads=2, absorption_min=0.01).absorption_min == 0.01
    with pytest.raises(ValueError, match=r"absorption_min=0\.01 has no effect with state='fading-mean'"):
        ResNetBKConfig(state="fading-mean", absorption_min=0.01)
