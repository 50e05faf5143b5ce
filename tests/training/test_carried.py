"""Carried states of models of transformers: the loss of one long segment, gradients that stop at segments, resuming."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    Mamba2Config,
    Mamba2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from resnet_bk.models import ResNetBKConfig
from resnet_bk.training import train
from resnet_bk.training.carried import CarriedStates, ConstantStates, cache_problem, constant_state
from resnet_bk.training.loss import causal_lm_loss
from tests.bench.own_model import RecurrentConfig, RecurrentForCausalLM, RecurrentState
from tests.training.cases import SPEC
from tests.training.tiny import VOCABULARY, Tokens, equal_weights


def mamba2():
    torch.manual_seed(0)
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_heads=4, head_dim=8, state_size=8,
            n_groups=1, chunk_size=16,
        )
    )  # fmt: skip


def deltanet():
    torch.manual_seed(0)
    return Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, head_dim=8, layer_types=["linear_attention"] * 2, linear_num_key_heads=2,
            linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        )
    )  # fmt: skip


def tensors_of(state):
    """All that a `CarriedStates` holds."""
    return [
        tensor
        for layer in state.layers
        for states in (layer.conv_states, layer.recurrent_states)
        for tensor in states.values()
    ]


every_model = pytest.mark.parametrize("build", [mamba2, deltanet])


@every_model
def test_segments_with_their_state_are_one_text(build):
    model = build().train()
    words = torch.randint(VOCABULARY, (2, 25), generator=torch.Generator().manual_seed(1))
    ids, targets = words[:, :-1], words[:, 1:]
    whole = causal_lm_loss(model, ids, targets, "fused", reduction="none").value
    state, parts = None, []
    for piece, target in zip(ids.split(8, dim=1), targets.split(8, dim=1), strict=True):
        found = causal_lm_loss(model, piece, target, "fused", carry_state=True, state=state, reduction="none")
        found.value.sum().backward()
        state = found.state.detach()
        parts.append(found.value)
    assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is not None for parameter in model.parameters())
    alone = causal_lm_loss(model, ids[:, 8:16], targets[:, 8:16], "fused", reduction="none").value
    assert not torch.allclose(alone, whole[:, 8:16], atol=1e-4)


@every_model
def test_no_gradient_reaches_into_an_earlier_segment(build):
    model = build().train()
    words = torch.randint(VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(1))
    first = causal_lm_loss(model, words[:, :8], words[:, 1:9], "fused", carry_state=True)
    held = tensors_of(first.state)
    assert any(tensor.requires_grad for tensor in held)  # there is something to cut
    state = first.state.detach()
    assert not any(tensor.requires_grad for tensor in tensors_of(state))
    # Backward passes through the second segment need nothing of the first one, whose graph is gone.
    first.value.backward()
    causal_lm_loss(model, words[:, 8:16], words[:, 9:17], "fused", carry_state=True, state=state).value.backward()


@every_model
def test_a_stopped_run_goes_on_bitwise(build, tmp_path):
    spec = SPEC({"carry_state": True, "carry_reset": 0.5})
    whole, stopped = build(), build()
    train(whole, Tokens(), spec, tmp_path / "whole")

    def stop(model, head):
        raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError, match="stopped here"):
        train(stopped, Tokens(), spec, tmp_path / "stopped", validate=stop, validation_steps=[7])
    resumed = build()
    result = train(resumed, Tokens(), spec, tmp_path / "stopped")
    assert result.resumed_from is not None
    assert equal_weights(whole, resumed)


def test_which_models_have_a_state_of_constant_size():
    assert constant_state(mamba2().config)
    assert constant_state(deltanet().config)
    mixed = Qwen3_5TextConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    for config in (mixed, LlamaConfig(), ResNetBKConfig()):
        assert not constant_state(config)
        with pytest.raises(ValueError, match=f"{config.model_type}: its cache grows with the text"):
            CarriedStates(config)


def of_type(model_type, **fields):
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(shape | fields)))


WORDS = torch.arange(16).remainder(VOCABULARY).unsqueeze(0)


def test_a_cache_that_continues_a_text():
    for model in (mamba2(), deltanet(), of_type("llama", intermediate_size=16), mamba2().bfloat16()):
        assert cache_problem(model.train(), WORDS) is None
        assert model.training


def test_a_cache_that_does_not():
    """Mamba hands on the inputs of its convolution and starts the state anew; RecurrentGemma returns nothing."""
    for model_type in ("mamba", "falcon_mamba"):
        assert "several tokens at once" in cache_problem(of_type(model_type), WORDS)
    gemma = of_type("recurrent_gemma", intermediate_size=16, num_key_value_heads=2, head_dim=8)
    assert constant_state(gemma.config)
    assert cache_problem(gemma, WORDS) == "it returns no cache"
    llama = of_type("llama", intermediate_size=16)
    assert cache_problem(llama, WORDS, in_training=True) == "its cache lacks detach, to, start_anew"


@pytest.mark.parametrize(
    ("name", "method", "problem"),
    [
        ("detach", lambda _: None, "its cache.detach() returns None, and not the cache"),
        ("start_anew", lambda *_: None, "its cache.start_anew(rows) does not forget the rows of a bool mask in place"),
        (
            "start_anew",
            lambda cache, _: type(cache)(torch.zeros_like(cache.state)),
            "its cache.start_anew(rows) does not forget the rows of a bool mask in place",
        ),
    ],
    ids=["detach", "nothing", "another"],
)
def test_a_cache_that_a_training_cannot_use(monkeypatch, name, method, problem):
    torch.manual_seed(0)
    model = RecurrentForCausalLM(RecurrentConfig(vocab_size=VOCABULARY))
    assert cache_problem(model, WORDS, in_training=True) is None
    monkeypatch.setattr(RecurrentState, name, method)
    assert cache_problem(model, WORDS, in_training=True) == problem
    assert cache_problem(model, WORDS) is None  # it generates all the same


def test_a_cache_that_fails(monkeypatch):
    llama = of_type("llama", intermediate_size=16)
    forward = llama.base_model.forward

    def takes_no_cache(input_ids, use_cache, **options):
        if options:
            raise TypeError(f"unexpected {', '.join(options)}")
        return SimpleNamespace(last_hidden_state=forward(input_ids=input_ids, use_cache=False)[0], cache=object())

    monkeypatch.setattr(llama.base_model, "forward", takes_no_cache)
    assert cache_problem(llama, WORDS) == "handing on a cache fails (TypeError: unexpected cache)"


@pytest.mark.parametrize("build", [mamba2, deltanet, lambda: of_type("mamba")], ids=["mamba2", "deltanet", "mamba"])
def test_text_from_a_constant_state_is_that_of_reading_anew(build):
    model = build().eval()
    for parameter in model.parameters():  # so that what is read says what comes next
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    how = {"attention_mask": torch.ones_like(WORDS), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    anew = model.generate(WORDS, use_cache=False, **how)
    assert torch.equal(model.generate(WORDS, cache=ConstantStates(model.config), **how), anew)
    assert len(anew[0, 16:].unique()) > 2


@every_model
def test_rows_that_start_anew_forget_everything(build):
    model = build()
    words = torch.randint(VOCABULARY, (3, 25), generator=torch.Generator().manual_seed(1))
    ids, targets = words[:, :-1], words[:, 1:]
    state = causal_lm_loss(model, ids[:, :16], targets[:, :16], "fused", carry_state=True).state.detach()
    state.start_anew(torch.tensor([True, False, True]))
    rest = (ids[:, 16:], targets[:, 16:], "fused")
    found = causal_lm_loss(model, *rest, carry_state=True, state=state, reduction="none").value
    alone = causal_lm_loss(model, *rest, reduction="none").value
    whole = causal_lm_loss(model, ids, targets, "fused", reduction="none").value[:, 16:]
    assert_close(found[[0, 2]], alone[[0, 2]], rtol=1e-4, atol=1e-4)
    assert_close(found[1], whole[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[1], alone[1], atol=1e-4)


def test_a_state_is_moved():
    state = causal_lm_loss(mamba2(), WORDS, WORDS, "fused", carry_state=True).state
    assert tensors_of(state)
    assert {tensor.device.type for tensor in tensors_of(state.to("meta"))} == {"meta"}
