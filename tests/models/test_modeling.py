"""The Hugging Face surface: losses, saving, registration, and every refused argument."""

import copy
import logging

import accelerate
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

from resnet_bk import ops
from resnet_bk.models import (
    PointerConfig,
    PointerForCausalLM,
    ResNetBKCache,
    ResNetBKConfig,
    ResNetBKForCausalLM,
    ResNetBKModel,
    ResNetBKSeedForCausalLM,
)
from tests.models.configs import GRID, POINTING, VOCAB_SIZE, build, tokens

every_config = pytest.mark.parametrize("name", GRID)
PLAIN, EXPERTS = "matrix-conv-gate-dense-untied", "vector-conv-gate-moe-untied"


@every_config
def test_loss_is_the_shifted_cross_entropy(name):
    model = build(name, dtype=torch.float64)
    ids = tokens(3, 14)
    labels = ids.clone()
    labels[0, :5] = -100
    output = model(ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    weights = {
        "load_balancing": model.config.router_aux_loss_coef if model.config.num_experts else None,
        "ponder": model.config.ponder_cost if model.config.adaptive_computation else None,
        "sparsity": None if model.config.sparse_bk is None else model.config.sparsity_loss_coef,
    }
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    if weights:
        assert set(weights) <= set(output.measures)
        assert_close(output.aux_loss, sum(weight * output.measures[name] for name, weight in weights.items()))
        expected = expected + output.aux_loss
    else:
        assert output.aux_loss is None
        assert set(output.measures or ()) == ({"pointed"} if name in POINTING else set())
    assert_close(output.loss, expected, rtol=1e-10, atol=0)
    if name in POINTING:
        return
    # What a training loop may compute by itself.
    base = model.base_model(input_ids=ids)
    head = model.get_output_embeddings()
    targets = F.pad(labels[:, 1:], (0, 1), value=-100)
    loss = ops.linear_cross_entropy(base.last_hidden_state, head.weight, targets, head.bias)
    if base.aux_loss is not None:
        loss = loss + base.aux_loss
    assert_close(output.loss, loss, rtol=1e-10, atol=0)


def test_loss_over_several_batches():
    model = build(PLAIN, dtype=torch.float64)
    ids = tokens(4, 9)
    whole = model(ids, labels=ids).loss
    parts = [model(part, labels=part, num_items_in_batch=32).loss for part in ids.split(2)]
    assert_close(sum(parts), whole, rtol=1e-10, atol=0)


@pytest.mark.parametrize("side", ["left", "right", "packed"])
def test_loss_over_several_batches_of_which_padding_and_documents_take_labels_away(side):
    """The divisor counts labels as `Trainer` does, which knows neither: a batch still counts by its mean loss."""
    model = build(PLAIN, dtype=torch.float64)
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.int64)
    mask[0, : 4 if side == "left" else None] = 0 if side == "left" else 1
    if side == "right":
        mask[1, 5:] = 0
    how = {"document_ids": (torch.arange(9) > 4).long().expand(2, 9)} if side == "packed" else {"attention_mask": mask}
    mean = model(ids, labels=ids, use_cache=False, **how).loss
    assert_close(model(ids, labels=ids, num_items_in_batch=2 * 8, use_cache=False, **how).loss, mean)
    assert_close(model(ids, labels=ids, num_items_in_batch=4 * 8, use_cache=False, **how).loss, mean / 2)


@pytest.mark.parametrize("name", ["sparse-matrix", "adaptive-vector-moe"])
def test_what_a_switch_adds_has_the_weight_of_the_tokens_in_a_loss_over_several_batches(name):
    model = build(name, dtype=torch.float64)
    parts = [tokens(3, 9), tokens(1, 9, seed=2)]
    losses = [model(part, labels=part, num_items_in_batch=32) for part in parts]
    alone = [model(part, labels=part) for part in parts]
    assert all(output.aux_loss.detach() != 0 for output in alone)
    for found, output, share in zip(losses, alone, (24 / 32, 8 / 32), strict=True):
        assert_close(found.loss, output.loss * share, rtol=1e-10, atol=0)


def test_logits_are_computed_where_something_reads_them():
    model = build(PLAIN)
    ids = tokens(2, 7)
    assert model(ids).logits.shape == (2, 7, VOCAB_SIZE)
    assert model(ids, labels=ids).logits is not None
    assert model(ids, return_logits=False).logits is None
    model.train()
    assert model(ids).logits is not None
    assert model(ids, labels=ids).logits is None
    assert model(ids, labels=ids, return_logits=True).logits is not None


def test_cache_is_returned_where_it_is_asked_for():
    model = build(PLAIN)
    ids = tokens(2, 7)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    assert isinstance(model(ids).past_key_values, ResNetBKCache)
    assert model(ids, use_cache=False).past_key_values is None
    assert model(ids, attention_mask=mask).past_key_values is None
    assert model.train()(ids).past_key_values is None
    assert isinstance(model(ids, use_cache=True).past_key_values, ResNetBKCache)
    # The cache that is passed in is brought up to date, under both of its names.
    for name in ("past_key_values", "cache"):
        cache = ResNetBKCache(model.config)
        output = model.base_model(ids, **{name: cache})
        assert output.past_key_values is output.cache is cache
        assert cache.get_seq_length() == 7
    assert "tokens=7" in repr(cache)
    assert cache.get_max_length() == -1
    assert not cache.is_compileable
    assert not cache.is_croppable


def test_hidden_states_and_tuples():
    model = build(PLAIN)
    ids = tokens(2, 7)
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[0], model.get_input_embeddings()(ids))
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    logits, cache = model(ids, return_dict=False)
    assert torch.equal(logits, output.logits)
    assert isinstance(cache, ResNetBKCache)
    (hidden,) = model.base_model(ids, use_cache=False, return_dict=False)
    assert torch.equal(hidden, output.hidden_states[-1])


@every_config
def test_saved_and_loaded_is_the_same(name, tmp_path):
    model = build(name, pad_token_id=0, eos_token_id=2)
    ids = tokens(2, 15)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is ResNetBKForCausalLM
    for field in ResNetBKConfig.__annotations__:
        assert getattr(loaded.config, field) == getattr(model.config, field), field
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    tied = model.config.tie_word_embeddings
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is ResNetBKModel
    assert torch.equal(base(ids).last_hidden_state, model.base_model(ids).last_hidden_state)


def test_a_part_that_is_missing_in_a_file_starts_as_in_a_new_model(tmp_path, caplog):
    model = build(PLAIN)
    state = {key: value for key, value in model.state_dict().items() if "layers.1.mixer.chain" not in key}
    with torch.no_grad():
        model.model.layers[1].mixer.chain.bias.zero_()
    model.save_pretrained(tmp_path, state_dict=state)
    with caplog.at_level(logging.WARNING):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    chain = loaded.model.layers[1].mixer.chain
    assert_close(chain.bias, chain.initial_bias())


def test_convolutions_start_as_their_mixer_says():
    def taps(state, **fields):
        model = ResNetBKForCausalLM(ResNetBKConfig(vocab_size=VOCAB_SIZE, state=state, **fields))
        return torch.cat([layer.mixer.conv.weight.flatten() for layer in model.model.layers])

    torch.manual_seed(0)
    # 3,072 draws: a standard deviation is known to 1.3%.
    assert taps("modulus", induction_heads=0).std().item() == pytest.approx(0.02, rel=0.1)
    assert taps("matrix").abs().max().item() == pytest.approx(0.5, rel=0.01)


def test_registered_with_the_auto_classes():
    config = AutoConfig.for_model("resnet_bk", vocab_size=11)
    assert type(config) is ResNetBKConfig
    assert type(AutoModel.from_config(config)) is ResNetBKModel
    assert type(AutoModelForCausalLM.from_config(config)) is ResNetBKForCausalLM


@pytest.mark.parametrize("name", [PLAIN, "vector-conv-nogate-dense-tied"])
def test_vocabulary_can_grow(name):
    assert name in GRID
    model = build(name)
    ids = tokens(2, 7)
    logits = model(ids).logits
    model.resize_token_embeddings(VOCAB_SIZE + 8)
    assert model.config.vocab_size == VOCAB_SIZE + 8
    grown = model(ids)
    assert_close(grown.logits[..., :VOCAB_SIZE], logits, rtol=1e-6, atol=1e-6)
    assert model(torch.full_like(ids, VOCAB_SIZE + 7)).logits.shape[-1] == VOCAB_SIZE + 8
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == model.config.tie_word_embeddings


def test_chunked_and_reference_backend_agree_and_are_recorded():
    ids = tokens(2, 21)
    results = {}
    for backend in ops.available_backends("propagate", "cpu"):
        model = build(PLAIN, dtype=torch.float64, backend=backend)
        with ops.record_backends() as seen:
            results[backend] = model(ids).logits
        assert seen == {"propagate": {backend}}
    for logits in results.values():
        assert_close(logits, results["reference"], rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="backend must be"):
        build(PLAIN, backend="abacus")(ids)


@pytest.mark.parametrize("name", [PLAIN, "pointer-modulus"])
def test_trains_with_the_trainer_of_transformers(tmp_path, name):
    torch.manual_seed(0)
    model = build(name, initializer_range=0.02)
    rows = [{"input_ids": row, "labels": row} for row in tokens(16, 12) % 5]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.6 * before


def test_the_trainer_smooths_the_labels_that_come_next(tmp_path):
    """It shifts labels for models that it knows as causal ones; without, a model would learn to repeat its input."""
    model = build(PLAIN)
    ids = tokens(4, 12)
    arguments = TrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    found = Trainer(model=model, args=arguments).compute_loss(model, {"input_ids": ids, "labels": ids})
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    assert_close(found, F.cross_entropy(logits, ids[:, 1:].flatten(), label_smoothing=0.1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", [PLAIN, "modulus-as-it-is", "vector-many-channels"])
def test_linear_maps_that_something_else_stands_in_for(name):
    """Adapters and quantisation replace them by modules whose weight says no precision, if they have one."""
    model = build(name)
    ids = tokens(2, 20)
    expected = model(ids).logits
    holders = [part for part in model.modules() if isinstance(getattr(part, "out_proj", None), torch.nn.Linear)]
    assert holders
    for holder in holders:
        holder.out_proj = torch.nn.Sequential(holder.out_proj)
    assert torch.equal(model(ids).logits, expected)


BODY_ON_DISK = {"model": "disk", "pointer": "disk", "lm_head": "cpu"}
OFFLOADED = [PLAIN, EXPERTS, "modulus-as-it-is", "modulus-moe-wide-keys", "delta-silu", "vector-many-channels"]
OFFLOADED += ["sparse-matrix", "all-modulus", *POINTING]


@pytest.mark.parametrize("name", OFFLOADED)
@pytest.mark.parametrize("places", [BODY_ON_DISK, "hooks"], ids=["disk", "hooks"])
def test_weights_that_are_fetched_when_they_are_needed(name, places, tmp_path):
    """A `device_map` leaves them on the meta device; reading one without calling its module computes with nothing."""
    model, ids = build(name, tie_word_embeddings=False), tokens(2, 20)
    expected, loss = model(ids).logits, model(ids, labels=ids).loss
    if places == "hooks":
        offloaded = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        places = {key: place for key, place in places.items() if key != "pointer" or model.pointer is not None}
        model.save_pretrained(tmp_path)
        offloaded = AutoModelForCausalLM.from_pretrained(
            tmp_path, device_map=places, offload_folder=tmp_path / "offloaded"
        )
    assert any(parameter.is_meta for parameter in offloaded.parameters())
    assert torch.equal(offloaded(ids).logits, expected)
    assert_close(offloaded(ids, labels=ids).loss, loss, rtol=1e-5, atol=0)
    with torch.no_grad():  # a token of generation, which a mixer may compute in one kernel
        tail = offloaded(ids[:, -1:], past_key_values=offloaded(ids[:, :-1], use_cache=True).past_key_values).logits
    assert_close(tail, expected[:, -1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [PLAIN, "pointer-modulus"])
def test_the_loss_is_that_of_the_head_that_is_there(name):
    """Also where another head has been put in its place: with a bias, or an adapter on it."""
    ids = tokens(2, 20)
    model = build(name, tie_word_embeddings=False, dtype=torch.float64)
    biased = torch.nn.Linear(16, VOCAB_SIZE, dtype=torch.float64)
    torch.nn.init.normal_(biased.bias)
    adapted = Adapted(biased)
    for head in (biased, adapted):
        model.lm_head = head
        output = model(ids, labels=ids)
        expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        assert_close(output.loss, expected, rtol=1e-10, atol=0)
        model.zero_grad()
        output.loss.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


class Adapted(torch.nn.Linear):
    """A head with more parameters than its weight, as an adapter adds them."""

    def __init__(self, head):
        super().__init__(*head.weight.shape[::-1], dtype=torch.float64)
        self.scale = torch.nn.Parameter(torch.full((), 1.5, dtype=torch.float64))

    def forward(self, hidden):
        return self.scale * super().forward(hidden)


@pytest.mark.parametrize("name", [PLAIN, "modulus-as-it-is", "pointer-modulus"])
def test_shapes_on_the_meta_device(name):
    for precision in ("none", "bf16"):
        model = build(name, mixed_precision=precision).to("meta")
        assert model(tokens(2, 20).to("meta")).logits.shape == (2, 20, VOCAB_SIZE)


@pytest.mark.parametrize("name", [PLAIN, "pointer-modulus"])
def test_tokens_and_labels_may_be_int32(name):
    model, ids = build(name), tokens(2, 6)
    assert torch.equal(model(ids.int(), labels=ids.int()).loss, model(ids, labels=ids).loss)


@pytest.mark.parametrize("name", [PLAIN, "pointer-modulus"])
def test_refused_arguments(name):
    model = build(name)
    config, ids = model.config, tokens(2, 6)
    cache = model(ids, use_cache=True).past_key_values

    def refused(match, **arguments):
        with pytest.raises(ValueError, match=match):
            model(**arguments)

    refused("input_ids or inputs_embeds must be given, but got neither")
    refused("but got both", input_ids=ids, inputs_embeds=torch.zeros(2, 6, 16))
    refused(r"inputs_embeds must be \[batch, tokens, 16\].*got \(2, 6, 15\)", inputs_embeds=torch.zeros(2, 6, 15))
    refused(r"input_ids must be int64.*got torch.int64 \(6,\)", input_ids=ids[0])
    refused("input_ids must be int64.*got torch.float32", input_ids=ids.float())
    refused("input_ids must be a tensor, but got list; torch.as_tensor makes one", input_ids=ids.tolist())
    for other in ("attention_mask", "document_ids", "position_ids", "seq_idx", "labels", "targets"):
        refused(f"{other} must be a tensor, but got ndarray", input_ids=ids, cache=cache, **{other: ids.numpy()})
    refused(r"at least one token, but got torch.int64 \(2, 0\)", input_ids=ids[:, :0])
    refused(rf"input_ids must lie in \[0, {VOCAB_SIZE}\), but got 99", input_ids=torch.full_like(ids, 99))
    refused("but got -3", input_ids=torch.full_like(ids, -3))
    refused("two names of one argument", input_ids=ids, past_key_values=cache, cache=cache)
    refused("must be a ResNetBKCache, but got DynamicCache", input_ids=ids, past_key_values=DynamicCache())
    other = copy.copy(config)
    other.num_hidden_layers = 3
    refused("must hold 2 blocks, but holds 3", input_ids=ids, past_key_values=ResNetBKCache(other))
    other = build(name, hidden_size=24)(ids, use_cache=True).past_key_values
    refused(
        r"holds a \w+ state \(2, 12, 12\) .* but this model has a \w+ state \(2, 8, 8\)", input_ids=ids, cache=other
    )
    for conv_size, kept in ((0, "None"), (3, r"\(2, 48\)")):
        other = build(name, conv_size=conv_size)(ids, use_cache=True).past_key_values
        refused(rf"inputs of the convolution {kept}, but .* convolution \(3, 48\)", input_ids=ids, cache=other)
    other = build(name, state="delta" if config.state == "matrix" else "matrix")(ids, use_cache=True).past_key_values
    refused(r"holds a (complex|real) state .* but this model has a (real|complex) state", input_ids=ids, cache=other)
    coarse = build("scales-matrix", hidden_size=24, num_heads=2, key_dim=8, value_dim=8)(ids, use_cache=True)
    with pytest.raises(ValueError, match="at hidden_size=16; it belongs to another model"):
        build("scales-matrix")(ids, cache=coarse.past_key_values)
    for theirs, ours in ((None, [1, 2, 1]), ([1, 2, 1], None), ([1, 4, 1], [1, 2, 1]), ([1, 2, 1], [2, 4, 1])):
        other = build("scales-matrix", multi_scale=theirs)(ids, use_cache=True).past_key_values
        with pytest.raises(ValueError, match=r"was shortened by the factors \[.* it belongs to another model"):
            build("scales-matrix", multi_scale=ours)(ids, cache=other)
    refused("holds 2 rows, but this batch has 1", input_ids=ids[:1], past_key_values=cache)
    refused("output_attentions must not be true", input_ids=ids, output_attentions=True)
    refused(r"labels must be int64 of shape \(2, 6\).*got torch.int64 \(2, 5\)", input_ids=ids, labels=ids[:, :5])
    refused(r"labels must be int64 .*got torch.float32 \(2, 6\)", input_ids=ids, labels=ids.float())
    for wrong in (99, -3):
        labels = torch.full_like(ids, wrong)
        refused(
            rf"labels must be tokens in \[0, {VOCAB_SIZE}\) .* but got {wrong}",
            input_ids=ids,
            labels=labels,
            cache=cache,
        )
    targets = ids.roll(-1, dims=1)
    for change, found in (
        (lambda it: it[:, :5], r"int64 \(2, 5\)"),
        (lambda it: it.int(), r"int32 \(2, 6\)"),
    ):
        refused(rf"targets must be int64 .*got torch.{found}", input_ids=ids, targets=change(targets), cache=cache)
    refused(r"targets must be tokens in .* got 99", input_ids=ids, targets=torch.full_like(ids, 99), cache=cache)
    refused("labels and targets both say", input_ids=ids, labels=ids, targets=targets, cache=cache)
    refused("reduction must be one of .*got 'max'", input_ids=ids, targets=targets, reduction="max", cache=cache)
    refused("mean without targets, but got 'sum'", input_ids=ids, labels=ids, reduction="sum", cache=cache)
    refused("num_items_in_batch=5 is of labels", input_ids=ids, targets=targets, num_items_in_batch=5, cache=cache)
    assert cache.get_seq_length() == 6  # a call that is refused has read nothing
    assert cache.pointer_tokens in (0, 6)
    for mask in (torch.ones(2, 5), torch.ones(6)):
        refused(r"attention_mask must have shape \(2, 6\)", input_ids=ids, labels=ids, attention_mask=mask)
    refused(r"document_ids must be integers of shape \(2, 6\)", input_ids=ids, labels=ids, document_ids=ids[:, :5])

    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    refused("padding after tokens.*pass use_cache=False", input_ids=ids, attention_mask=mask, use_cache=True)
    longer = F.pad(mask, (6, 0), value=1)
    refused("padding after tokens", input_ids=ids, attention_mask=longer, past_key_values=cache)
    refused("must also cover the 6 tokens", input_ids=ids, attention_mask=mask, past_key_values=cache)
    refused("came without; pass document_ids", input_ids=ids, document_ids=ids, past_key_values=cache)
    with pytest.raises(ValueError, match=r"tokens_to_remove=-1.*cannot forget.*deepcopy\(cache.detach\(\)\)"):
        cache.crop(-1)
    positions = torch.arange(6).expand(2, -1)
    refused("position_ids and document_ids both say", input_ids=ids, document_ids=ids, position_ids=positions)
    refused("seq_idx and document_ids both say", input_ids=ids, document_ids=ids, seq_idx=ids)
    for name_of, wrong in (("position_ids", positions[:, 1:]), ("seq_idx", ids[:1]), ("seq_idx", ids.float())):
        refused(rf"{name_of} must be integers of shape \(2, 6\), .* but got torch", input_ids=ids, **{name_of: wrong})
    refused("position_ids start anew after the 6 tokens", input_ids=ids, position_ids=positions, cache=cache)


def test_nothing_but_tensors_beside_a_loss():
    # What `DataParallel` can gather, as it does in the evaluation of `Trainer` on several GPUs.
    ids = tokens(2, 6)
    for name in ("pointer-modulus", "all-matrix"):
        output = build(name)(ids, labels=ids)
        assert all(isinstance(value, torch.Tensor | dict) for value in output.values())
        assert output.loss is not None
        assert build(name)(ids, labels=ids, use_cache=True).cache is not None
        assert build(name)(ids).cache is not None


@every_config
def test_continuations_of_one_prefix_may_be_padded_where_no_state_is_kept(name):
    model, ids = build(name, dtype=torch.float64), tokens(2, 6)
    cache, more = model(ids, use_cache=True).cache, tokens(2, 5, seed=3)
    mask = torch.ones(2, 11)
    mask[0, -2:] = 0
    found = [model(more, attention_mask=mask, past_key_values=cache, use_cache=False) for _ in range(2)]
    assert torch.equal(found[0].logits, found[1].logits)  # the cache is as it was
    found = found[0]
    assert found.cache is None
    assert cache.get_seq_length() == 6
    whole = model(torch.cat([ids, more], 1)).logits[:, 6:]
    assert_close(found.logits[0, :3], whole[0, :3])
    assert_close(found.logits[1], whole[1])


@pytest.mark.parametrize(
    ("build_with", "kind"),
    [
        (ResNetBKForCausalLM, "ResNetBKConfig"),
        (ResNetBKModel, "ResNetBKConfig"),
        (ResNetBKSeedForCausalLM, "ResNetBKSeedConfig"),
        (PointerForCausalLM, "PointerConfig"),
    ],
)
def test_a_configuration_of_another_model(build_with, kind):
    with pytest.raises(ValueError, match=f"config must be a {kind}, but got LlamaConfig; AutoModelForCausalLM"):
        build_with(LlamaConfig())


def test_no_label_at_all():
    model, ids = build("pointer-modulus"), tokens(2, 6)
    output = model(ids, labels=torch.full_like(ids, -100))
    assert output.measures["pointed"] == 0
    assert output.loss.isnan()  # a mean over nothing, as in PyTorch


def test_a_changed_configuration_is_checked_again():
    config = ResNetBKConfig(vocab_size=11)
    config.conv_size = -2
    with pytest.raises(ValueError, match="conv_size=-2"):
        ResNetBKForCausalLM(config)
    pointer = PointerConfig(language_model={"model_type": "llama"})
    pointer.pointer_heads = 0
    with pytest.raises(ValueError, match="PointerConfig: pointer_heads=0"):
        PointerForCausalLM(pointer)
