"""Norms behind the parts of a block, and the size of the embeddings that go with them."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import MIXERS, ResNetBKBlock
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM

D = 16
SHAPE = {"vocab_size": 23, "hidden_size": D, "num_hidden_layers": 2, "num_heads": 2, "sandwich_norm": True}


def drawn(block):
    """The block in float64, its norms with other weights than 1."""
    block.double()
    for norm in (block.mixer_output_norm, block.feed_forward_output_norm):
        torch.nn.init.normal_(norm.weight)
    return block


def rms_norm(x, norm):
    return x * (x.pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight


@pytest.mark.parametrize("state", sorted(MIXERS))
@pytest.mark.parametrize("experts", [0, 2])
def test_what_parts_add_goes_through_their_norms(state, experts):
    torch.manual_seed(0)
    block = drawn(ResNetBKBlock(ResNetBKConfig(**SHAPE, state=state, num_experts=experts, rms_norm_eps=0.1)))
    hidden = torch.randn(2, 7, D, dtype=torch.float64)
    after = hidden + rms_norm(block.mixer(block.mixer_norm(hidden)).tokens, block.mixer_output_norm)
    given = block.feed_forward(block.feed_forward_norm(after))
    after = after + rms_norm(given[0] if experts else given, block.feed_forward_output_norm)
    assert_close(block(hidden).hidden, after)


def test_a_gate_weighs_what_the_norm_gives():
    """Before the norm its weight would be lost."""
    torch.manual_seed(0)
    block = drawn(ResNetBKBlock(ResNetBKConfig(**SHAPE, sparse_bk=0.5), gated=True))
    with torch.no_grad():
        block.site_gate.weight.normal_()
        block.feed_forward.down_proj.weight.zero_()
    hidden = torch.randn(1, 9, D, dtype=torch.float64)
    normed = block.mixer_norm(hidden)
    choice = block.site_gate(normed, None)
    kept = choice.keep[0]
    assert 0 < int(kept.sum()) < 9
    mixed = rms_norm(block.mixer(normed[:, kept]).tokens, block.mixer_output_norm)
    expected = hidden.clone()
    expected[:, kept] += mixed * choice.weight[:, kept].unsqueeze(-1)
    assert_close(block(hidden).hidden, expected)


def test_norms_are_taken_in_the_precision_of_the_residual_stream():
    torch.manual_seed(0)
    block = ResNetBKBlock(ResNetBKConfig(**SHAPE))
    seen = []
    for norm in (block.mixer_output_norm, block.feed_forward_output_norm):
        norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        assert block(torch.randn(1, 5, D)).hidden.dtype == torch.float32
    assert seen == [(torch.float32, torch.float32)] * 2
    seen.clear()
    block.bfloat16()(torch.randn(1, 5, D, dtype=torch.bfloat16))
    assert seen == [(torch.bfloat16, torch.bfloat16)] * 2


def test_the_multiplier_is_of_the_embeddings_alone():
    """Of those that come as such too, and not of the head that shares their matrix."""
    torch.manual_seed(0)
    fields = {**SHAPE, "tie_word_embeddings": True}
    model = ResNetBKForCausalLM(ResNetBKConfig(**fields, embedding_multiplier=4.0)).eval()
    plain = ResNetBKForCausalLM(ResNetBKConfig(**fields)).eval()
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(23, (2, 6))
    embeddings = model.get_input_embeddings()(ids)
    expected = plain(inputs_embeds=4 * embeddings, output_hidden_states=True)
    for given in ({"input_ids": ids}, {"inputs_embeds": embeddings}):
        found = model(**given, output_hidden_states=True)
        assert torch.equal(found.hidden_states[0], 4 * embeddings)
        assert torch.equal(found.logits, expected.logits)
