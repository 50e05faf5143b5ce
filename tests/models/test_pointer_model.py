"""A Transformer with a pointer: the pointer's own tests are in tests/layers/test_pointer.py."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from resnet_bk.bench.audit import audit_causality
from resnet_bk.models import PointerCache, PointerConfig, PointerForCausalLM, ResNetBKCache, ResNetBKConfig
from resnet_bk.models.plain_head import check_plain_head
from resnet_bk.training.loss import causal_lm_loss, choose_head

V = 23
LLAMA = {
    "model_type": "llama", "vocab_size": V, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": V, "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
# What its head reads is half as wide as its hidden states.
OPT = {"model_type": "opt", "vocab_size": V, "hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 20,
       "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0, "max_position_embeddings": 64}  # fmt: skip


def build(inner=LLAMA, **further):
    torch.manual_seed(0)
    fields = {"pointer_heads": 2, "pointer_key_dim": 3, **further}
    model = PointerForCausalLM(PointerConfig(language_model=inner, **fields)).double().eval()
    with torch.no_grad():  # heads that matter
        model.pointer.gates.bias.zero_()
    return model


def ids(batch, length, seed=1):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inner", [LLAMA, GPT2, OPT], ids=["llama", "gpt2", "opt"])
def test_it_is_causal_and_its_loss_is_that_of_its_logits(inner):
    model = build(inner)
    assert audit_causality(model, V, lengths=(2, 33)).verdict == "causal"
    words, targets = ids(2, 19), ids(2, 19, seed=2)
    targets[0, :4] = -100
    logits = model(words).logits
    assert_close(logits.exp().sum(-1), torch.ones(2, 19, dtype=torch.float64))
    assert choose_head(model, words) == "fused"
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        found = causal_lm_loss(model, words, targets, "fused", reduction=reduction)
        assert_close(found.value, expected.view(found.value.shape), rtol=1e-10, atol=1e-12)
        assert found.state is None
        assert 0 < found.measures["pointed"] < 1


@pytest.mark.parametrize("inner", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_weights_of_any_size_give_finite_results(inner, scale):
    model = build(inner).float().train()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(scale)
    words = ids(2, 19)
    loss = causal_lm_loss(model, words, words.roll(-1, 1), "fused").value
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("inner", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_no_gradient_from_later_tokens(inner):
    model, seen = build(inner), []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(ids(2, 19)).logits
    for position in (0, 9, 17):
        weight = torch.randn(V, dtype=torch.float64, generator=torch.Generator().manual_seed(position))
        (gradient,) = torch.autograd.grad((logits[:, position] @ weight).sum(), seen[0], retain_graph=True)
        assert not gradient[:, position + 1 :].any()
        assert gradient[:, position].any()


@pytest.mark.parametrize("inner", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_two_runs_are_bitwise_the_same(inner):
    words, found = ids(2, 40), []
    for _ in range(2):
        model = build(inner).float().train()
        loss = causal_lm_loss(model, words, words.roll(-1, 1), "fused").value
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


@pytest.mark.parametrize("inner", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_float32_agrees_with_float64_and_training_with_evaluation(inner):
    # Two layers and a chain that remembers tens of tokens: float32 keeps 5 digits of the largest logarithm.
    model, words = build(inner), ids(2, 40)
    expected = model(words).logits
    assert torch.equal(model.train()(words).logits, expected)
    found = model.float()(words).logits
    assert_close(found.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("inner", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_gradient_checkpointing_changes_nothing(inner, monkeypatch):
    words, losses, gradients = ids(2, 21), [], []
    for checkpointed in (False, True):
        model = build(inner).train()
        if checkpointed:
            model.activation_checkpointing_enable()
            assert any(getattr(part, "gradient_checkpointing", False) for part in model.language_model.modules())
        loss = model(words, labels=words).loss
        loss.backward()
        losses.append(loss)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert torch.equal(*losses)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    monkeypatch.setattr(type(model.language_model), "supports_gradient_checkpointing", False)
    with pytest.raises(ValueError, match="does not support activation checkpointing"):
        build(inner).activation_checkpointing_enable()


def test_its_state_is_moved():
    state = causal_lm_loss(build(), ids(1, 5), ids(1, 5), "fused", carry_state=True).state.to("meta").state
    assert {part.device.type for part in state} == {"meta"}


def test_the_pointer_remembers_what_the_transformer_forgets():
    model = build()
    words, targets = ids(2, 24), ids(2, 24, seed=2)
    with torch.no_grad():
        first = causal_lm_loss(model, words[:, :11], targets[:, :11], "fused", carry_state=True)
        second = causal_lm_loss(
            model, words[:, 11:], targets[:, 11:], "fused", carry_state=True, state=first.state, reduction="none"
        )
        hidden = [model.language_model.base_model(part).last_hidden_state for part in words.split([11, 13], dim=1)]
        pointed = model.pointer(torch.cat(hidden, 1), words, targets=targets)
        vocabulary = model.get_output_embeddings()(hidden[1]).softmax(-1)
        vocabulary = vocabulary.gather(2, targets[:, 11:, None]).squeeze(2)
    expected = -(pointed.rest[:, 11:] * vocabulary + pointed.copied[:, 11:]).log()
    assert_close(second.value, expected, rtol=1e-9, atol=1e-12)


def test_rows_that_start_anew_forget_everything():
    model = build()
    words, targets = ids(3, 24), ids(3, 24, seed=2)
    first = causal_lm_loss(model, words[:, :11], targets[:, :11], "fused", carry_state=True)
    state = first.state.detach().start_anew(torch.tensor([True, False, True]))
    rest = (words[:, 11:], targets[:, 11:], "fused")
    found = causal_lm_loss(model, *rest, carry_state=True, state=state, reduction="none").value
    alone = causal_lm_loss(model, *rest, reduction="none").value
    assert_close(found[[0, 2]], alone[[0, 2]], rtol=1e-9, atol=1e-12)
    assert (found[1] - alone[1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_cache_is_brought_up_to_date():
    """Its words are written over, so that one that stayed behind would belong to no text."""
    model, words, targets = build(), ids(2, 24), ids(2, 24, seed=2)
    cache = model(words[:, :8], targets=targets[:, :8], use_cache=True).cache
    read = {"targets": targets[:, 8:16], "reduction": "none", "cache": cache}
    looked = model(words[:, 8:16], **read).loss
    assert_close(model(words[:, 8:16], **read).loss, looked)  # without `use_cache` it stays as it is
    again = model(words[:, 8:16], **read, use_cache=True)
    assert_close(again.loss, looked)
    assert again.cache is cache
    kept = model(words[:, 16:], targets=targets[:, 16:], reduction="none", cache=cache).loss
    first = model(words[:, :8], targets=targets[:, :8], use_cache=True).cache
    second = model(words[:, 8:16], targets=targets[:, 8:16], cache=first, use_cache=True).cache
    assert_close(kept, model(words[:, 16:], targets=targets[:, 16:], reduction="none", cache=second).loss)


def test_a_cache_leaves_inference_mode():
    model, words = build(), ids(3, 9)
    with torch.inference_mode():
        cache = model(words, targets=words, use_cache=True).cache
        again = model(words, targets=words, use_cache=True).cache
    cache.start_anew(torch.tensor([True, False, True]))
    model(words, targets=words, cache=again).loss.backward()


def test_save_and_load(tmp_path):
    model = build().float()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, PointerForCausalLM)
    assert isinstance(again.config.inner, LlamaConfig)
    assert torch.equal(again(ids(2, 9)).logits, model(ids(2, 9)).logits)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert (again.config.vocab_size, again.config.hidden_size, again.config.num_hidden_layers) == (V, 16, 2)


def test_new_words():
    model = build().float()
    model.resize_token_embeddings(V + 3)
    words = torch.tensor([[V + 2, 1, V + 2]])
    assert_close(model(words).logits.exp().sum(-1), torch.ones(1, 3))
    assert model(words).logits.shape[-1] == V + 3


def test_a_language_model_that_does_more_than_its_head_is_refused():
    model = build({**LLAMA, "model_type": "granite", "logits_scaling": 1.0}).float()
    model.language_model.config.logits_scaling = 8.0
    with pytest.raises(ValueError, match="language_model: the logits of granite are more than its head"):
        choose_head(model, ids(2, 9))


@pytest.mark.parametrize(
    "inner",
    [
        {"model_type": "granite", "logits_scaling": 8.0},
        {"model_type": "gemma2", "final_logit_softcapping": 30.0, "head_dim": 8},
        {"model_type": "bert", "is_decoder": True},  # its head is more than one layer
        {"model_type": "mixtral", "output_router_logits": True, "num_local_experts": 2},
    ],
    ids=lambda inner: inner["model_type"],
)
def test_a_language_model_whose_head_does_more_is_refused_where_it_is_made(inner):
    fields = {**LLAMA, "num_hidden_layers": 1, "num_key_value_heads": 2, **inner}
    config = PointerConfig(language_model=fields, pointer_heads=2)
    with pytest.raises(ValueError, match=f"the logits of {inner['model_type']} are more than its head"):
        PointerForCausalLM(config)
    with torch.device("meta"):  # without values nothing can be looked at
        assert PointerForCausalLM(config).device.type == "meta"


def test_a_language_model_whose_head_does_more_is_refused_where_it_is_loaded(tmp_path):
    model = build({**LLAMA, "model_type": "granite", "logits_scaling": 1.0})
    model.config.inner.logits_scaling = 8.0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the logits of granite are more than its head"):
        PointerForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_that_are_rounded_for_the_head(tmp_path, dtype):
    """As Mamba does, which keeps them in float32."""
    inner = {"model_type": "mamba2", "vocab_size": 40, "hidden_size": 16, "num_heads": 4, "head_dim": 8, "expand": 2}
    inner |= {"num_hidden_layers": 1, "state_size": 8, "n_groups": 1, "chunk_size": 8}
    PointerForCausalLM(PointerConfig(language_model=inner)).save_pretrained(tmp_path)
    loaded = PointerForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert loaded(torch.arange(5)[None]).logits.dtype == dtype


def test_the_check_of_the_head_leaves_random_numbers_and_modes_alone():
    model = build(GPT2).train()
    model.language_model.transformer.h[0].eval()  # as for a part that is not trained
    modes, generator = [module.training for module in model.modules()], torch.get_rng_state()
    check_plain_head(model.language_model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(generator, torch.get_rng_state())
    assert not model.get_output_embeddings()._forward_hooks


def test_tokens_and_states_that_do_not_fit_are_refused():
    model, words = build(), ids(2, 5)
    with pytest.raises(ValueError, match=r"input_ids must be int64 \[batch, tokens\]"):
        model(words[0])
    with pytest.raises(ValueError, match="input_ids must lie in"):
        model(words + V)
    with pytest.raises(ValueError, match="input_ids must be given"):
        model(None)
    cache = model(words, targets=words, use_cache=True).cache
    with pytest.raises(ValueError, match="cache holds 2 rows, but this batch has 1; pass what"):
        model(words[:1], targets=words[:1], cache=cache)
    for other in (5, ResNetBKCache(ResNetBKConfig(vocab_size=V))):
        with pytest.raises(ValueError, match=f"cache must be a PointerCache, but got {type(other).__name__}; pass"):
            model(words, targets=words, cache=other)
    state, length = cache.state, len(words[0])
    for changed, expected in (
        ({"total": state.total.view(2, 1, -1)}, "1 heads, 6 numbers a head"),
        ({"hidden": state.hidden[:, :8]}, "hidden states of 8, but the model's has .* hidden states of 16; start"),
    ):
        with pytest.raises(ValueError, match=f"the state is of a pointer of .*{expected}"):
            model(words, targets=words, cache=PointerCache(state._replace(**changed)))
    with pytest.raises(ValueError, match=rf"attention_mask must have shape \(2, {length}\), but got \(7, 3\); pass"):
        model(words, attention_mask=torch.ones(7, 3))


def test_packed_documents_are_refused():
    model, words = build(), ids(2, 5)
    numbers = torch.tensor([[0, 0, 1, 1, 1], [3] * 5])
    says = (
        "packs several documents into a row, but resnet_bk_pointer reads a row as one text; give every document a row"
    )
    for given in (
        {"document_ids": numbers},
        {"seq_idx": numbers},
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1]])},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(given))} {says}"):
            model(words, **given)
    flattened = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_position_ids=False)
    with pytest.raises(ValueError, match=f"cu_seq_lens_q {says}"):
        model(**flattened([{"input_ids": row.tolist()} for row in words]))
    with pytest.raises(ValueError, match=r"document_ids must be integers of shape \(2, 5\)"):
        model(words, document_ids=numbers[:1])
    for name in ("document_ids", "seq_idx", "position_ids", "cu_seq_lens_q"):
        with pytest.raises(ValueError, match=f"{name} must be a tensor, but got list"):
            model(words, **{name: [[0, 0, 1, 1, 1]]})
    # Numbers that say nothing.
    expected = model(words).logits
    for given in ({"document_ids": numbers[1:].expand(2, 5)}, {"position_ids": torch.arange(3, 8)[None]}):
        assert torch.equal(model(words, **given).logits, expected)


def test_rows_beyond_a_table_of_positions_are_refused():
    table = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "n_positions": 8}
    model = PointerForCausalLM(PointerConfig(language_model=GPT2Config(**table)))
    with pytest.raises(ValueError, match=r"at most max_position_embeddings=8 tokens a row for gpt2, but got 9; cut"):
        model(ids(1, 9))
    assert model(ids(1, 8)).logits.shape == (1, 8, 30)


def test_what_is_refused():
    with pytest.raises(ValueError, match="language_model=None must be the configuration of a causal LM"):
        PointerConfig()
    with pytest.raises(ValueError, match="language_model='LlamaForCausalLM' must be the configuration of a causal LM"):
        PointerConfig(language_model=LlamaForCausalLM(LlamaConfig(**LLAMA)))
    with pytest.raises(ValueError, match=r"language_model='resnet_bk_pointer' must be .* causal LM without a pointer"):
        PointerConfig(language_model=PointerConfig(language_model=GPT2Config()))
    with pytest.raises(ValueError, match=r"pointer_heads=0 must be .*; pointer_key_dim=1 must be"):
        PointerConfig(language_model=GPT2Config(), pointer_heads=0, pointer_key_dim=1)
    for wrong, rule in ((0, "above 0"), (float("inf"), "a finite number, above 0")):
        with pytest.raises(ValueError, match=f"absorption_min={wrong} must be {rule}"):
            PointerConfig(language_model=GPT2Config(), absorption_min=wrong)
    with pytest.raises(ValueError, match="pointer_head is not a field"):
        PointerConfig(language_model=GPT2Config(), pointer_head=8)
    with pytest.raises(ValueError, match=r"language_model=\{'model_type': 'llamma'\} must be the configuration"):
        PointerConfig(language_model={"model_type": "llamma"})
    with pytest.raises(ValueError, match="language_model='vit' must be the configuration of a causal LM"):
        PointerConfig(language_model={"model_type": "vit"})
    for unread in ({"return_dict": False}, {"output_hidden_states": True}, {"output_attentions": True}):
        with pytest.raises(ValueError, match=r"is read by nothing: a call returns a PointerOutput .*\(leave it out"):
            PointerConfig(language_model=GPT2Config(), **unread)
    with pytest.raises(ValueError, match="use_cache=True: this model keeps no cache"):
        build()(ids(1, 3), use_cache=True)
    state = build()(ids(1, 3), targets=ids(1, 3), use_cache=True).cache
    with pytest.raises(ValueError, match="cache was given: this model keeps no cache for generation"):
        build()(ids(1, 3), cache=state)
    with pytest.raises(ValueError, match="attention_mask masks 1 tokens, but resnet_bk_pointer reads no padding; give"):
        build()(ids(1, 3), attention_mask=torch.tensor([[0, 1, 1]]))
    with pytest.raises(ValueError, match=r"targets must be int64 of shape \(1, 3\)"):
        build()(ids(1, 3), targets=ids(1, 4))


def test_labels_are_shifted():
    """What a data collator of `transformers` hands over."""
    model, words = build(), ids(2, 9)
    output = model(input_ids=words, attention_mask=torch.ones_like(words), labels=words)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())
    assert_close(output.loss, expected, rtol=1e-10, atol=0)
    assert_close(output.logits, model(words).logits)
    assert model.train()(words, labels=words).logits is None


def test_batches_weigh_by_their_labels():
    """As `Trainer` hands over the number of labels of all the batches whose gradients are accumulated."""
    model, words = build(), ids(4, 9)
    labels = words.clone()
    labels[0, 2:] = -100
    count = (labels[:, 1:] != -100).sum()
    parts = [model(words[rows], labels=labels[rows], num_items_in_batch=count).loss for rows in (slice(2), slice(2, 4))]
    assert_close(sum(parts), model(words, labels=labels).loss, rtol=1e-10, atol=0)
    assert model.accepts_loss_kwargs
    with pytest.raises(ValueError, match="num_items_in_batch=3 is of labels, but targets were given"):
        model(words, targets=words, num_items_in_batch=3)


class Adapted(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, hidden):
        return self.base(hidden)


def test_another_head_in_the_place_of_the_language_models():
    """An adapter, which has no weight of its own."""
    model, words = build(), ids(2, 9)
    expected = model(words).logits
    model.language_model.lm_head = Adapted(model.language_model.lm_head)
    assert_close(model(words).logits, expected)


def test_a_head_of_another_precision():
    """As preparation for training in few bits leaves it."""
    model, words = build(LLAMA | {"tie_word_embeddings": False}).bfloat16(), ids(2, 9)
    model.language_model.lm_head.float()
    assert model(words, labels=words).logits.isfinite().all()


def test_a_language_model_without_a_linear_head():
    class Headless(LlamaForCausalLM):
        def get_output_embeddings(self):
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_config", lambda config: Headless(config))
        with pytest.raises(ValueError, match=r"language_model: llama has no linear head .*; take another model"):
            build(LLAMA)


def test_a_language_model_whose_head_has_other_words():
    class Wider(LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.lm_head = torch.nn.Linear(config.hidden_size, 2 * config.vocab_size, bias=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_config", lambda config: Wider(config))
        with pytest.raises(ValueError, match=r"llama has a head over 46 words for a vocabulary of 23; take another"):
            build(LLAMA)


def test_it_generates_nothing():
    with pytest.raises(ValueError, match=r"resnet_bk_pointer with llama: generates no text.*take a model of type"):
        build(LLAMA).generate(ids(1, 3))


def test_a_state_of_another_vocabulary_is_refused():
    model = build()
    words = ids(2, 9)
    state = causal_lm_loss(model, words, words, "fused", carry_state=True).state
    model.resize_token_embeddings(V + 5)
    with pytest.raises(ValueError, match=f"a pointer of {V} words, 2 heads, 3 numbers.*has {V + 5} words, 2 h"):
        causal_lm_loss(model, words, words, "fused", carry_state=True, state=state)
    with pytest.raises(ValueError, match=r"rows must be bool \[2\], true for a row"):
        state.start_anew(torch.tensor([0]))


def test_the_trainer_smooths_the_labels_that_come_next(tmp_path):
    """As of ResNet-BK: it shifts labels for the models that it knows as causal ones."""
    model, words = build().float(), ids(4, 12)
    arguments = TrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    found = Trainer(model=model, args=arguments).compute_loss(model, {"input_ids": words, "labels": words})
    logits = model(words).logits[:, :-1].flatten(0, 1)
    assert_close(found, F.cross_entropy(logits, words[:, 1:].flatten(), label_smoothing=0.1), rtol=1e-5, atol=0)


def test_what_the_trainer_saves_is_loaded(tmp_path):
    """It writes `use_cache` into every configuration, and the special tokens of a tokenizer."""
    model, words = build().float(), ids(4, 12)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    for name, token in (("pad_token_id", 0), ("bos_token_id", 1), ("eos_token_id", [1, 2])):
        setattr(model.config, name, token)
    trainer.save_model()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.config.pad_token_id, loaded.config.eos_token_id) == (0, [1, 2])
    assert torch.equal(loaded(words).logits, model(words).logits)
    with pytest.raises(ValueError, match=f"bos_token_id={V} must lie in the vocabulary"):
        PointerConfig(**model.config.to_dict() | {"bos_token_id": V})


def test_logits_of_a_model_in_half_precision_that_leaves_its_hidden_states_in_float32():
    inner = {"model_type": "mamba2", "vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 4,
             "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8}  # fmt: skip
    model, tokens = build(inner), ids(1, 9)
    with torch.no_grad():
        expected = model(tokens).logits
        logits = model.bfloat16()(tokens).logits
    assert_close(logits.double(), expected, rtol=0.05, atol=0.05)  # bfloat16 has 8 bits


def test_what_peft_and_trl_look_for():
    model, words = build(), ids(2, 7)
    assert model.generation_config is not None
    assert callable(model.prepare_inputs_for_generation)
    output = model(words, labels=words)
    assert torch.equal(model(words, labels=words, return_dict=False)[0], output.loss)
    assert torch.equal(model(words, return_dict=False)[0], model(words).logits)
    head = torch.nn.Linear(16, V, bias=False).double()
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is head
