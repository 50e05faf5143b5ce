"""Values of the first block in those of the others."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import MIXERS, ResNetBKBlock, ValueResidual
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM

SHAPE = {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 3, "num_heads": 2, "value_dim": 5}
STATES = sorted(name for name, mixer in MIXERS.items() if mixer.has_values)
each_state = pytest.mark.parametrize("state", STATES)


def build(state, **further):
    torch.manual_seed(0)
    return ResNetBKForCausalLM(ResNetBKConfig(state=state, **SHAPE, **further)).double().eval()


@each_state
def test_further_values_are_added_to_the_tokens_own(state):
    mixer, hidden = build(state).model.layers[0].mixer, torch.randn(2, 7, 16, dtype=torch.float64)
    alone = mixer(hidden, keep_values=True)
    assert alone.values.shape == (2, 7, 2, 5)
    assert mixer(hidden).values is None
    nothing = mixer(hidden, further_values=-alone.values)
    assert not nothing.tokens.any()
    assert not nothing.state.chain[1].any()
    twice = mixer(hidden, further_values=alone.values, keep_values=True)
    assert_close(twice.values, 2 * alone.values)
    assert_close(twice.state.chain[1], 2 * alone.state.chain[1])


@each_state
def test_blocks_add_those_of_the_first(state):
    model = build(state, value_residual=True)
    blocks, hidden = model.model.layers, torch.randn(2, 7, 16, dtype=torch.float64)
    assert [block.value_residual is not None for block in blocks] == [False, True, True]
    with torch.no_grad():
        for block in blocks[1:]:
            block.value_residual.weight.copy_(torch.tensor([0.3, -2.0]))
    x, first = hidden, None
    for block in blocks:
        further = None if first is None else first * torch.tensor([0.3, -2.0], dtype=torch.float64)[:, None]
        mixed = block.mixer(block.mixer_norm(x), further_values=further, keep_values=True)
        first = mixed.values if first is None else first
        x = x + mixed.tokens
        x = x + block.feed_forward(block.feed_forward_norm(x))
    expected, found = model.model.norm(x), model.model(inputs_embeds=hidden).last_hidden_state
    assert_close(found, expected)
    # What later blocks do with them reaches the first one's values.
    pairs = [torch.autograd.grad(x[..., 0].sum(), blocks[0].mixer.in_proj.weight)[0] for x in (found, expected)]
    assert_close(*pairs)


@each_state
def test_with_weights_of_zero_it_is_the_model_without(state):
    model, without = build(state, value_residual=True), build(state)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "value_residual" in name:
                weight.zero_()
    kept = {name: weight for name, weight in model.state_dict().items() if "value_residual" not in name}
    without.load_state_dict(kept)
    ids = torch.randint(23, (2, 9))
    assert torch.equal(model(ids).logits, without(ids).logits)


def test_it_starts_at_one_half_and_is_loaded(tmp_path):
    model = build("modulus", value_residual=True)
    weights = [block.value_residual.weight for block in model.model.layers[1:]]
    assert all(torch.equal(weight, torch.full_like(weight, 0.5)) for weight in weights)
    with torch.no_grad():
        weights[1].add_(1)
    model.save_pretrained(tmp_path)
    loaded = ResNetBKForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.layers[2].value_residual.weight, weights[1])
    build("modulus").save_pretrained(tmp_path / "without")
    begun = ResNetBKForCausalLM.from_pretrained(tmp_path / "without", value_residual=True)
    assert all((block.value_residual.weight == 0.5).all() for block in begun.model.layers[1:])


def test_half_precision_stays():
    found = ValueResidual(2)(torch.ones(1, 3, 2, 5, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert (found == 0.5).all()


def test_a_first_block_has_no_weight():
    config = ResNetBKConfig(**SHAPE, value_residual=True)
    block = ResNetBKBlock(config)
    assert block.value_residual is None
    assert block(torch.randn(1, 3, 16)).values.shape == (1, 3, 2, 5)


def test_a_block_with_a_gate_has_none():
    for first in (True, False):
        with pytest.raises(
            ValueError, match=r"^gated=True with value_residual=True: a block with a gate neither gives"
        ):
            ResNetBKBlock(ResNetBKConfig(**SHAPE, value_residual=True), gated=True, first=first)


def test_values_go_to_the_blocks_that_add_them():
    config, hidden = ResNetBKConfig(**SHAPE, value_residual=True), torch.randn(1, 3, 16)
    first, later = ResNetBKBlock(config), ResNetBKBlock(config, first=False)
    output = first(hidden)
    with pytest.raises(ValueError, match=r"first_values must be given to this block; pass BlockOutput\.values of the"):
        later(hidden)
    with pytest.raises(ValueError, match="first_values must not be given to this block"):
        first(hidden, first_values=output.values)
    with torch.no_grad(), pytest.raises(ValueError, match="first_values must be given"):
        later(hidden[:, :1], None, output.state)
