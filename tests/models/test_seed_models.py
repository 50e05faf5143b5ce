"""The earlier system and its causal form: size, causality, padding, packing, saving, generation, refusals."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments

from resnet_bk import ops
from resnet_bk.models import ResNetBKSeedConfig, ResNetBKSeedForCausalLM, ResNetBKSeedModel
from tests.models.configs import VOCAB_SIZE, tokens
from tests.models.test_mixed_precision import off

# Equal in real arithmetic, evaluated in another order: float64, two layers, values of order 1 (see test_invariants).
ROUNDING_64 = {"rtol": 1e-9, "atol": 1e-9}
TABLE = {
    "two-sided": {"green": "two_sided"},
    "two-sided-diagonal": {"green": "two_sided", "gradient": "diagonal"},
    "surface": {"green": "surface"},
    "surface-tied": {"green": "surface", "tie_word_embeddings": True, "num_experts": 3},
}
every_config = pytest.mark.parametrize("name", TABLE)


def build(name, *, dtype=torch.float32, **overrides):
    """In eval mode, with weights large enough for every part to matter."""
    torch.manual_seed(0)
    fields = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "max_position_embeddings": 24,
        "initializer_range": 0.3,
        **TABLE[name],
        **overrides,
    }
    return ResNetBKSeedForCausalLM(ResNetBKSeedConfig(**fields)).to(dtype).eval()


@pytest.mark.parametrize("green", ["two_sided", "surface"])
def test_published_size(green):
    model = ResNetBKSeedForCausalLM(ResNetBKSeedConfig(green=green))
    assert model.num_parameters() == 4_146_120
    block = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert block == 128 + 4 * 65 + 4 * (2 * 64 * 128 + 128 + 64) + 65 + 3 * 64 + 1 == 66_950
    assert model.model.embed_positions.weight.shape == (128, 64)


def test_flagged_as_what_it_is(tmp_path):
    for name, causal in (("two-sided", False), ("surface", True)):
        model = build(name)
        assert model.config.causal is causal
        model.save_pretrained(tmp_path / name)
        assert f'"causal": {"true" if causal else "false"}' in (tmp_path / name / "config.json").read_text()
        assert AutoConfig.from_pretrained(tmp_path / name).causal is causal


def test_a_leaking_model_read_as_a_causal_one(tmp_path):
    build("two-sided").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, green="surface")
    assert model.config.causal is True
    with pytest.raises(ValueError, match="causal=True must be what green='two_sided' is"):
        AutoModelForCausalLM.from_pretrained(tmp_path, causal=True)
    config = ResNetBKSeedConfig(hidden_size=16)
    config.intermediate_size = None
    config.check()
    assert (config.intermediate_size, config.causal) == (32, False)


def moved(model, position):
    """Positions of the logits that change with the token at `position`, of 20."""
    ids = tokens(1, 20)
    changed = ids.clone()
    changed[:, position] = (changed[:, position] + 1) % VOCAB_SIZE
    difference = (model(changed).logits - model(ids).logits).abs().amax(-1)[0]
    return difference.nonzero().flatten().tolist()


@pytest.mark.parametrize("name", ["surface", "surface-tied"])
def test_causal_form_is_causal(name):
    # Float64, where experts take tokens one by one, so that regrouping them rounds nothing.
    model = build(name, dtype=torch.float64)
    for position in (0, 7, 19):
        assert moved(model, position)[0] == position
    embeddings = model.get_input_embeddings()(tokens(2, 20)).detach().requires_grad_()
    weight = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((model(inputs_embeds=embeddings).logits[:, 9] @ weight).sum(), embeddings)
    assert torch.count_nonzero(gradient[:, 10:]) == 0
    assert torch.count_nonzero(gradient[:, :10].abs().sum(-1)) == 20


@pytest.mark.parametrize("name", ["two-sided", "two-sided-diagonal"])
def test_earlier_system_sees_the_answer(name):
    model = build(name, dtype=torch.float64)
    assert moved(model, 10)[0] < 10
    assert moved(model, 19)[-2:] == [18, 19]


def test_gradient_modes_train_the_same_forward_pass_differently():
    ids = tokens(2, 20)
    found = {}
    for gradient in ("exact", "diagonal"):
        model = build("two-sided", gradient=gradient).train()
        output = model(ids, labels=ids, return_logits=True)
        output.loss.backward()
        found[gradient] = (output.logits, model.model.layers[0].chain.proj.weight.grad)
    assert torch.equal(found["exact"][0], found["diagonal"][0])
    difference = (found["exact"][1] - found["diagonal"][1]).norm() / found["exact"][1].norm()
    assert difference > 0.05


@every_config
@pytest.mark.parametrize(
    "fields",
    [
        {"potential_clamp": 3.0, "green_clamp": 10.0, "layer_norm_eps": 1e-5},  # the defaults
        {"potential_clamp": 0.1, "green_clamp": 0.3, "layer_norm_eps": 0.1},
    ],
    ids=["as-published", "clamped"],
)
def test_whole_model_against_its_definition(name, fields):
    """A dense inverse in every block, float64."""
    model = build(name, dtype=torch.float64, **({} if fields["green_clamp"] == 10 else fields))
    within, largest, eps = fields["potential_clamp"], fields["green_clamp"], fields["layer_norm_eps"]
    ids, clamped = tokens(1, 11), []
    hidden = model.model.embed_tokens(ids) + model.model.embed_positions(torch.arange(11))
    for block in model.model.layers:
        features = block.experts(F.layer_norm(hidden, (16,), block.norm.weight, block.norm.bias, eps))
        v = block.chain.proj(features)[0, :, 0]
        clamped.append(bool((v.abs() > within).any()))
        v = v.clamp(-within, within)
        h = torch.diag(v - 2) + torch.diag(torch.ones(10), 1) + torch.diag(torch.ones(10), -1)
        shifted = h.to(torch.complex128) - 1j * torch.eye(11)
        if model.config.causal:
            green = torch.stack([torch.linalg.inv(shifted[: t + 1, : t + 1])[t, t] for t in range(11)])
        else:
            green = torch.linalg.inv(shifted).diagonal()
        parts = torch.view_as_real(green)
        clamped.append(bool((parts.abs() > largest).any()))
        hidden = hidden + features + block.scale * block.out_proj(parts.clamp(-largest, largest))
    expected = model.lm_head(F.layer_norm(hidden, (16,), model.model.norm.weight, model.model.norm.bias, eps))
    assert_close(model(ids).logits, expected, **ROUNDING_64)
    assert all(clamped) or largest == 10


@every_config
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    model = build(name, dtype=torch.float64)
    ids, mask = tokens(4, 20), torch.zeros(4, 20, dtype=torch.int64)
    places = []
    for row, length in enumerate((3, 20, 11, 1)):
        places.append(slice(20 - length, 20) if side == "left" else slice(0, length))
        mask[row, places[row]] = 1
    padded = model(ids, attention_mask=mask, labels=ids)
    for row, place in enumerate(places):
        alone = model(ids[row : row + 1, place]).logits
        assert_close(padded.logits[row : row + 1, place], alone, **ROUNDING_64)
    other = torch.where(mask == 1, ids, (ids + 7) % VOCAB_SIZE)
    assert_close(model(other, attention_mask=mask, labels=other).loss, padded.loss, **ROUNDING_64)


@every_config
def test_packed_documents_are_separate_documents(name):
    model = build(name, dtype=torch.float64)
    lengths = [9, 1, 2, 8]
    ids = tokens(2, 20)
    document_ids = torch.repeat_interleave(torch.tensor([7, 3, 7, 0]), torch.tensor(lengths)).expand(2, -1)
    separate = torch.cat([model(piece).logits for piece in ids.split(lengths, dim=1)], dim=1)
    assert_close(model(ids, document_ids=document_ids).logits, separate, **ROUNDING_64)


@every_config
def test_trains_like_any_other(name):
    model = build(name).train()
    ids = tokens(4, 24)
    assert model(ids, labels=ids).logits is None  # nothing reads them
    output = model(ids, labels=ids, return_logits=True)
    assert_close(output.loss, F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    output.loss.backward()
    for key, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert torch.count_nonzero(parameter.grad) > 0, key
    assert torch.equal(model.eval()(ids).logits, output.logits)
    halves = [model(part, labels=part, num_items_in_batch=4 * 23).loss for part in ids.split(2)]
    assert_close(sum(halves), output.loss)
    checkpointed = build(name).train()
    checkpointed.activation_checkpointing_enable()
    passes = []
    checkpointed.model.layers[0].experts.register_forward_hook(lambda *_: passes.append(1))
    checkpointed(ids, labels=ids).loss.backward()
    assert len(passes) == 2  # once more for the backward pass
    for (key, first), (_, second) in zip(model.named_parameters(), checkpointed.named_parameters(), strict=True):
        assert torch.equal(first.grad, second.grad), key


@every_config
def test_float32_and_bfloat16_agree_with_float64(name):
    ids = tokens(2, 20)
    expected = build(name, dtype=torch.float64)(ids).logits
    # float32 rounds by 6e-8, over two layers of sums of 16 to 32 products.
    assert_close(build(name)(ids).logits.double(), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = build(name)(ids).logits
        loss = build(name).train()(ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    # Rounding by 4e-3 a matmul, three in each of two blocks and the head. A model that has its weights and the sum over
    # blocks in bfloat16 as well rounds these once more each.
    assert off(found, expected) < 0.03
    assert off(build(name).to(torch.bfloat16)(ids).logits, expected) < 0.15


@every_config
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_inputs_of_any_size_give_finite_results(name, scale):
    model, ids = build(name).train(), tokens(2, 20)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(scale)
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@every_config
def test_two_runs_are_bitwise_the_same(name):
    ids, found = tokens(2, 24), []
    for _ in range(2):
        model = build(name).train()
        loss = model(ids, labels=ids).loss
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


@every_config
def test_saved_and_loaded_is_the_same(name, tmp_path):
    model = build(name, pad_token_id=0, eos_token_id=2)
    torch.nn.init.constant_(model.model.layers[0].scale, 0.7)
    ids = tokens(2, 15)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is ResNetBKSeedForCausalLM
    assert loaded.config.to_dict() | {"_name_or_path": None} == model.config.to_dict() | {"_name_or_path": None}
    for (key, expected), (_, parameter) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(parameter, expected), key
    # Tensors mapped from a file lie at other addresses, for which a matmul may sum in another order.
    assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == model.config.tie_word_embeddings
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is ResNetBKSeedModel
    output = base(ids, output_hidden_states=True)
    assert_close(output.last_hidden_state, model.base_model(ids, return_dict=False)[0], rtol=1e-5, atol=1e-5)
    assert len(output.hidden_states) == 3


@every_config
def test_generates_by_reading_everything_again(name):
    model = build(name, dtype=torch.float64, pad_token_id=0)
    ids, mask = tokens(2, 9).clamp(min=1), torch.ones(2, 9, dtype=torch.int64)
    mask[1, :4] = 0
    text = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for row, start in ((0, 0), (1, 4)):
        alone = ids[row : row + 1, start:]
        for _ in range(6):
            alone = torch.cat([alone, model(alone).logits[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(text[row : row + 1, start:], alone)
    assert model.generate(ids[:1], num_beams=2, max_new_tokens=16, do_sample=False).shape == (1, 25)
    documents = torch.tensor([[0] * 5 + [1] * 4])
    packed = model.generate(ids[:1], document_ids=documents, max_new_tokens=4, do_sample=False)
    assert torch.equal(packed[:, 5:], model.generate(ids[:1, 5:], max_new_tokens=4, do_sample=False))
    with pytest.raises(ValueError, match=r"document_ids must be integers of shape \(1, 9\), one a token"):
        model.generate(ids[:1], document_ids=documents[:, :7], max_new_tokens=4)


def test_what_generation_refuses():
    model = build("surface", pad_token_id=0)
    ids = tokens(1, 20)
    with pytest.raises(ValueError, match=r"read 25 tokens.*max_position_embeddings=24; lower max_new_tokens"):
        model.generate(ids, max_new_tokens=6)
    with pytest.raises(ValueError, match="cache_implementation='static': this model has no cache"):
        model.generate(ids, cache_implementation="static", max_new_tokens=2)
    with pytest.raises(ValueError, match=r"not used by the model: \['cache'\]"):
        model.generate(ids, cache={}, max_new_tokens=2)
    with pytest.raises(ValueError, match="passed `inputs_embeds`"):
        model.generate(inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=2)
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    with pytest.raises(ValueError, match=r"padding after tokens.*pad on the left"):
        model.generate(ids, attention_mask=mask, max_new_tokens=1)


def test_refused_arguments():
    model, ids = build("two-sided"), tokens(2, 24)
    with pytest.raises(ValueError, match=r"at most max_position_embeddings=24 tokens a row, but got 25; cut the text"):
        model(tokens(1, 25))
    with pytest.raises(ValueError, match=r"use_cache must not be true.*leave it out"):
        model(ids, use_cache=True)
    with pytest.raises(ValueError, match="output_attentions must not be true"):
        model(ids, output_attentions=True)
    with pytest.raises(ValueError, match=rf"input_ids must lie in \[0, {VOCAB_SIZE}\), but got 99"):
        model(torch.full_like(ids, 99))
    with pytest.raises(ValueError, match="attention_mask must be a tensor, but got list"):
        model(ids, attention_mask=[[1] * 24] * 2)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(2, 24\)"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(ValueError, match="backend must be"):
        build("two-sided", backend="abacus")(ids)
    model.config.green = "both"
    with pytest.raises(ValueError, match="green='both' must be one of two_sided, surface"):
        ResNetBKSeedModel(model.config)


def test_compiled_is_the_same():
    model = build("two-sided").train()
    ids = tokens(2, 9)
    # Without a code generator, which would take a minute: what is tested is that the graph can be captured.
    compiled = torch.compile(model.model, backend="eager")
    assert_close(compiled(input_ids=ids).last_hidden_state, model.model(ids).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_what_ran_is_recorded():
    for name, operator in (("two-sided", "resolvent_diagonal"), ("surface", "surface_green")):
        with ops.record_backends() as seen:
            build(name)(tokens(1, 4))
        assert seen == {operator: {"numba"}}
        with ops.record_backends() as seen:
            build(name, backend="reference")(tokens(1, 4))
        assert seen == {operator: {"reference"}}


WRONG = {
    "vocab_size": [0, 2.5, True],
    "hidden_size": [0, 60, "64"],
    "num_hidden_layers": [0, None],
    "max_position_embeddings": [0, -1],
    "num_experts": [0, 1],
    "intermediate_size": [0, 100],
    "green": ["both", None],
    "gradient": ["none", None],
    "potential_clamp": [0, -3.0, float("inf")],
    "green_clamp": [0, "10"],
    "causal": [True],
    "layer_norm_eps": [0.0],
    "initializer_range": [-0.02],
    "tie_word_embeddings": ["true"],
    "backend": ["", 3],
    "pad_token_id": [-1],
    "bos_token_id": [1.5],
    "eos_token_id": [[0, 99999]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_value_is_named_with_its_rule_and_a_way_out(name, value):
    with pytest.raises(ValueError, match=r"must .*\(.+\)") as error:
        ResNetBKSeedConfig(**{name: value})
    assert str(error.value).startswith("ResNetBKSeedConfig: ")
    assert re.search(rf"{name}={re.escape(repr(value))}", str(error.value))


def test_every_field_has_a_rule_and_unknown_ones_are_errors():
    assert set(ResNetBKSeedConfig.__annotations__) - {"model_type"} == set(WRONG)
    with pytest.raises(ValueError, match=r"gren is not a field \(did you mean green\?\); num_experts=1 must"):
        ResNetBKSeedConfig(gren="surface", num_experts=1)
    with pytest.raises(ValueError, match="causal=False must be what green='surface' is"):
        ResNetBKSeedConfig(green="surface", causal=False)


def test_what_the_trainer_saves_is_loaded(tmp_path):
    """It writes `use_cache` into every configuration."""
    model = build("surface")
    Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)).save_model()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    # Not bit for bit: weights read from a file may lie at any address, by which some matmuls order their sums.
    torch.testing.assert_close(loaded(tokens(2, 9)).logits, model(tokens(2, 9)).logits, rtol=1e-5, atol=1e-5)
