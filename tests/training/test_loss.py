"""One loss code for every model, and the choice of the head."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.training import causal_lm_loss, choose_head
from tests.bench.own_model import RecurrentConfig, RecurrentForCausalLM
from tests.training.tiny import VOCABULARY, tiny_gpt2, tiny_llama, tiny_resnet_bk

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def other_model(model_type: str, **fields):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(SHAPE | fields)))


@pytest.fixture
def batch():
    ids = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
    return ids[:, :-1], ids[:, 1:].clone()


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama, tiny_resnet_bk])
def test_a_plain_head_is_fused(build, batch):
    assert choose_head(build(), batch[0]) == "fused"


def test_a_tied_head_is_fused(batch):
    assert choose_head(tiny_resnet_bk(tie_word_embeddings=True), batch[0]) == "fused"


@pytest.mark.parametrize(
    "fields",
    [
        {"pointer_heads": 2},
        {"mixed_precision": "bf16"},
        {"mixed_precision": "bf16", "pointer_heads": 2},
        {"adaptive_computation": True, "num_hidden_layers": 2},
    ],
    ids=str,
)
def test_losses_of_its_own_are_those_of_its_logits(fields, batch):
    assert choose_head(tiny_resnet_bk(**fields), batch[0]) == "fused"


@pytest.mark.parametrize("fields", [{}, {"mixed_precision": "bf16"}], ids=str)
def test_losses_that_are_not_those_of_the_logits_are_refused(fields, batch):
    model = tiny_resnet_bk(**fields)

    class Flattered(type(model)):
        def target_losses(self, *args, **options):
            output = super().target_losses(*args, **options)
            output.loss = 0.9 * output.loss
            return output

    model.__class__ = Flattered
    with pytest.raises(
        ValueError, match=r"Flattered.target_losses: differs from .* logits by 0\.\d+ nats.*head: model"
    ):
        choose_head(model, batch[0])


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        # A cap of 30 moves the logits of a fresh model, which are below 0.3, by less than 1e-5.
        ("gemma2", {"final_logit_softcapping": 30.0}),
        ("cohere", {"logit_scale": 0.5}),
        ("mixtral", {"output_router_logits": True, "num_local_experts": 2}),
    ],
)
def test_a_head_that_does_more_is_the_models_own(model_type, fields, batch):
    assert choose_head(other_model(model_type, **fields), batch[0]) == "model"


def test_choosing_changes_neither_model_nor_random_numbers(batch):
    model = tiny_gpt2()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    choose_head(model, batch[0])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert model.training == tiny_gpt2().training


@pytest.mark.parametrize("head", ["fused", "model"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_is_the_cross_entropy_of_the_logits(head, reduction, batch):
    model = tiny_llama()
    ids, targets = batch
    targets[0, 3] = -100
    expected = F.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten(), reduction=reduction)
    found = causal_lm_loss(model, ids, targets, head, reduction=reduction)
    assert found.auxiliary is None
    assert found.state is None
    # Float32 sums over 16 terms in another order.
    torch.testing.assert_close(found.value, expected.view(found.value.shape), rtol=1e-5, atol=1e-6)
    assert found.value.shape == (targets.shape if reduction == "none" else ())


def test_both_heads_have_the_same_gradients(batch):
    gradients = []
    for head in ("fused", "model"):
        model = tiny_resnet_bk()
        causal_lm_loss(model, *batch, head).value.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for fused, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-6)


def test_carried_state_makes_two_segments_one(batch):
    model = tiny_resnet_bk(initializer_range=0.5).eval()  # large weights, so that the state shows in the loss
    ids, targets = batch
    whole = causal_lm_loss(model, ids, targets, "fused", reduction="none").value
    first = causal_lm_loss(model, ids[:, :3], targets[:, :3], "fused", carry_state=True, reduction="none")
    second = causal_lm_loss(
        model, ids[:, 3:], targets[:, 3:], "fused", carry_state=True, state=first.state, reduction="none"
    )
    torch.testing.assert_close(torch.cat([first.value, second.value], 1), whole, rtol=1e-5, atol=1e-5)
    fresh = causal_lm_loss(model, ids[:, 3:], targets[:, 3:], "fused", reduction="none").value
    assert not torch.allclose(fresh, whole[:, 3:], rtol=1e-4)


def test_arguments_of_no_meaning(batch):
    model = tiny_resnet_bk()
    with pytest.raises(ValueError, match=r"^head='lazy' must be one of fused, model; choose_head"):
        causal_lm_loss(model, *batch, "lazy")
    state = causal_lm_loss(model, *batch, "fused", carry_state=True).state
    with pytest.raises(ValueError, match=r"^state was given without carry_state, and would not be read"):
        causal_lm_loss(model, *batch, "fused", state=state)


def test_the_load_balancing_loss_stands_apart(batch):
    model = tiny_resnet_bk(num_experts=2, num_experts_per_tok=1, router_aux_loss_coef=0.5)
    found = causal_lm_loss(model, *batch, "fused")
    output = model.base_model(batch[0], use_cache=False)
    plain = F.cross_entropy(model.lm_head(output.last_hidden_state).flatten(0, 1), batch[1].flatten())
    torch.testing.assert_close(found.value, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.auxiliary, 0.5 * output.measures["load_balancing"])
    assert found.measures == output.measures


def test_a_class_that_names_no_base_model_is_refused(monkeypatch, batch):
    """transformers takes the model itself for it, whose output has no hidden state to put a head on."""
    model = RecurrentForCausalLM(RecurrentConfig(vocab_size=VOCABULARY))
    assert choose_head(model, batch[0]) == "fused"
    monkeypatch.setattr(RecurrentForCausalLM, "base_model_prefix", "")
    with pytest.raises(ValueError, match="has a head and names no base model before it; set base_model_prefix"):
        choose_head(model, batch[0])
