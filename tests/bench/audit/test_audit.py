"""The causality audit: what it lets pass, and leaks of every kind that it must find."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from resnet_bk.bench.audit import audit_causality
from resnet_bk.layers import MIXERS
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM

WORDS = 40


class Toy(nn.Module):
    """Embedding and head; a token sees itself, and whatever `leak` adds. Shapes: hidden [B, T, D]."""

    def __init__(self, leak):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.scale = nn.Parameter(torch.zeros(8))
        self.leak = leak

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=None):
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return CausalLMOutput(logits=self.head(hidden + self.leak(self, hidden)))


def after(hidden, from_position=0):
    """The next token's hidden state."""
    moved = torch.cat([hidden[:, 1:], torch.zeros_like(hidden[:, :1])], 1)
    return moved * (torch.arange(hidden.shape[1]) >= from_position)[:, None]


def test_a_toy_without_leak_is_causal():
    result = audit_causality(Toy(lambda model, hidden: hidden.cumsum(1)), WORDS)
    assert (result.verdict, result.first_leak) == ("causal", None)
    assert "lengths 2, 17, 65, 128 in eval and train mode" in result.detail


@pytest.mark.parametrize(
    ("leak", "first"),
    [
        (lambda model, hidden: after(hidden), 0),
        # hidden by a projection that starts at zero
        (lambda model, hidden: model.scale * after(hidden), 0),
        # across the border of a chunk of 64 only
        (lambda model, hidden: after(hidden, 62) - after(hidden, 63), 62),
        # the sum over the whole text
        (lambda model, hidden: hidden.sum(1, keepdim=True), 0),
        # smaller than what rounding is allowed, but with a gradient
        (lambda model, hidden: 1e-6 * after(hidden), 0),
        # without a gradient, as in a router whose capacity later tokens take away
        (lambda model, hidden: (hidden.sum(1, keepdim=True) > 0).float() * torch.ones_like(hidden), 0),
        # in training mode only
        (lambda model, hidden: after(hidden) * model.training, 0),
        # some later tokens make it overflow
        (lambda model, hidden: torch.where(after(hidden) > 0.5, float("inf"), 0.0) * (hidden.shape[1] > 2), 0),
    ],
    ids=["next", "zero", "chunk", "sum", "tiny", "step", "train", "overflow"],
)
def test_leaks_are_found(leak, first):
    result = audit_causality(Toy(leak), WORDS)
    assert (result.verdict, result.first_leak) == ("leaks", first)
    assert f"moves the logits at {first}, before it" in result.detail


@pytest.mark.parametrize(
    ("leak", "problem"),
    [
        (lambda model, hidden: hidden * float("inf"), "the logits are not finite"),
        (lambda model, hidden: -hidden, "no logit moves, whatever the token"),
        (
            lambda model, hidden: 0.1 * hidden * torch.empty(()).uniform_(generator=model.draws),
            "the same tokens differ",
        ),
    ],
    ids=["infinite", "deaf", "other every time"],
)
def test_what_cannot_be_told_is_not_called_causal(leak, problem):
    model = Toy(leak)
    model.draws = torch.Generator().manual_seed(0)  # a generator of its own, which no seed sets back
    result = audit_causality(model, WORDS)
    assert result.verdict == "leaks"
    assert "not shown to be causal" in result.detail
    assert problem in result.detail


def test_rounding_without_gradient_is_no_leak():
    # As where experts regroup tokens: the last bit of a sum depends on which tokens stand beside it.
    result = audit_causality(Toy(lambda model, hidden: 1e-6 * hidden.detach().sum((0, 1), keepdim=True)), WORDS)
    assert result.verdict == "causal"


def test_the_model_and_the_random_numbers_are_left_alone():
    model = Toy(lambda model, hidden: hidden)
    before, generator = model.head.weight.clone(), torch.get_rng_state()
    audit_causality(model, WORDS)
    assert torch.equal(model.head.weight, before)
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)


def peer(model_type, **fields):
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(shape | special | fields)))


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("gpt2", {}),
        ("llama", {"intermediate_size": 32}),
        ("mamba2", {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16}),
    ],
)
def test_peers_are_causal(model_type, fields):
    assert audit_causality(peer(model_type, **fields), WORDS).verdict == "causal"


@pytest.mark.parametrize(
    "fields", [*({"state": state} for state in MIXERS), {"num_experts": 4, "num_experts_per_tok": 2}]
)
def test_resnet_bk_is_causal(fields):
    torch.manual_seed(0)
    config = ResNetBKConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_heads=2, **fields)
    assert audit_causality(ResNetBKForCausalLM(config), WORDS).verdict == "causal"


def test_dropout_does_not_confuse():
    model = peer("gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    assert audit_causality(model, WORDS, lengths=[17]).verdict == "causal"


def test_a_model_that_looks_both_ways():
    result = audit_causality(peer("bert", intermediate_size=32), WORDS, lengths=[5])
    assert result.verdict == "leaks"
    assert result.first_leak == 0
    assert "changing token 1 moves the logits at 0" in result.detail


@pytest.mark.parametrize(("words", "lengths"), [(1, [4]), (WORDS, [1, 4]), (WORDS, [])])
def test_nothing_to_audit(words, lengths):
    with pytest.raises(ValueError, match=f"vocab_size={words}, lengths="):
        audit_causality(peer("gpt2"), words, lengths=lengths)
