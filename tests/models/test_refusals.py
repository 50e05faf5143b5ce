"""Arguments that no model can make sense of: each is named, with what it should have been."""

import copy

import numpy as np
import pytest
import torch

from resnet_bk.models import ResNetBKCache, ResNetBKConfig
from tests.models.configs import VOCAB_SIZE, build, tokens
from tests.models.test_pointer_model import V
from tests.models.test_pointer_model import build as build_pointer
from tests.models.test_seed_models import build as build_seed

MODELS = {
    "resnet_bk": lambda: build("modulus-as-it-is"),
    "seed": lambda: build_seed("surface"),
    "pointer": lambda: build_pointer().float(),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "count",
    [
        *(-3, float("nan"), float("inf"), True, "4"),
        *(torch.tensor([3, 4]), torch.tensor(-1), torch.tensor(True), torch.tensor(3j)),
    ],
    ids=str,
)
def test_a_loss_is_divided_by_a_number_of_labels(name, count):
    model, ids = MODELS[name](), tokens(2, 5) % V
    for labels in (ids, None):
        with pytest.raises(ValueError, match=r"num_items_in_batch=.* must be a finite number of at least 0, of"):
            model(ids, labels=labels, num_items_in_batch=count)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [0, np.int64(0), torch.tensor(0)], ids=["int", "numpy", "tensor"])
def test_a_step_without_labels_has_a_loss_of_zero(name, count):
    """As `Trainer` makes them of rows whose ends were cut off: no gradient, and not one that is no number."""
    model, ids = MODELS[name]().train(), tokens(2, 5) % V
    loss = model(ids, labels=torch.full_like(ids, -100), num_items_in_batch=count).loss
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", MODELS)
def test_a_count_may_come_with_a_dimension(name):
    """As replicas of `DataParallel` get theirs."""
    model, ids = MODELS[name](), tokens(2, 5) % V
    expected = model(ids, labels=ids, num_items_in_batch=7).loss
    assert torch.equal(model(ids, labels=ids, num_items_in_batch=torch.tensor([[7]])).loss, expected)


@pytest.mark.parametrize("name", ["resnet_bk", "seed"])
def test_the_default_dtype_of_others_does_not_weigh_a_loss(name):
    model, ids = MODELS[name](), tokens(24, 24)
    mask = torch.ones_like(ids)
    mask[:7, :20] = 0
    expected = model(ids, labels=ids, attention_mask=mask, num_items_in_batch=701).loss
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float16):
            torch.set_default_dtype(dtype)
            assert torch.equal(model(ids, labels=ids, attention_mask=mask, num_items_in_batch=701).loss, expected)
    finally:
        torch.set_default_dtype(before)


def test_embeddings_are_as_precise_as_the_model():
    model, ids = build("modulus-as-it-is"), tokens(2, 9)
    for given, held in [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float32")]:
        narrow = copy.deepcopy(model).to(getattr(torch, held))
        embeddings = narrow.model.embed_tokens(ids).detach().to(getattr(torch, given))
        says = rf"inputs_embeds must be torch\.{held} as the model is, but got torch\.{given}; convert them with \.to"
        with pytest.raises(ValueError, match=says):
            narrow(inputs_embeds=embeddings)
        assert narrow(inputs_embeds=embeddings.to(narrow.dtype)).logits.isfinite().all()
    embeddings = model.model.embed_tokens(ids).detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(inputs_embeds=embeddings.bfloat16()).logits.isfinite().all()
        with pytest.raises(ValueError, match=r"inputs_embeds must be torch\.float32 .* got torch\.float64; convert"):
            model(inputs_embeds=embeddings.double())
    # The earlier system adds its positions first, which widens those that are narrower.
    seed = build_seed("surface")
    embeddings = seed.model.embed_tokens(ids).detach()
    assert seed(inputs_embeds=embeddings.bfloat16()).logits.isfinite().all()
    with pytest.raises(ValueError, match=r"inputs_embeds must be torch\.float32 .* got torch\.float64; convert"):
        seed(inputs_embeds=embeddings.double())
    with pytest.raises(ValueError, match=r"inputs_embeds must be torch\.bfloat16 .* got torch\.float32; convert"):
        seed.bfloat16()(inputs_embeds=embeddings)


def test_a_state_on_another_device_is_named():
    model, ids = build("modulus-as-it-is"), tokens(2, 9)
    cache = model(ids, use_cache=True).cache.to("meta")
    says = r"the state of the short convolution must be on cpu as the input is, but is on meta; move a cache with"
    with pytest.raises(ValueError, match=says):
        model(ids, cache=cache)


@pytest.mark.parametrize("name", ["resnet_bk", "seed"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_embeddings_are_real_numbers(name, dtype):
    model = MODELS[name]()
    with pytest.raises(ValueError, match=f"inputs_embeds must be embeddings, but got {dtype}; pass words as input_ids"):
        model(inputs_embeds=torch.ones(2, 5, model.config.hidden_size, dtype=dtype))


def test_padding_predicts_nothing():
    model, ids = build("modulus-as-it-is"), tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    targets = ids.masked_fill(mask == 0, -100)
    loss = model(ids, attention_mask=mask, targets=targets).loss
    assert loss.isfinite()
    targets[0, 1] = 3
    with pytest.raises(ValueError, match=r"targets must be -100 at padding, but 1 of them are words; targets\.masked"):
        model(ids, attention_mask=mask, targets=targets)


def test_numbers_of_documents_are_whole():
    ids = tokens(2, 6)
    for name in ("document_ids", "seq_idx"):
        with pytest.raises(ValueError, match=rf"{name} must be integers of shape \(2, 6\).* got torch.complex64"):
            build("modulus-as-it-is")(ids, **{name: ids.to(torch.complex64)})


@pytest.mark.parametrize("wide", [False, True])
def test_a_cache_of_another_precision(wide):
    model, other = (build("matrix-conv-gate-dense-untied", dtype=dtype) for dtype in (torch.float32, torch.float64))
    if wide:
        model, other = other, model
    ids = tokens(2, 6)
    cache = other(ids).cache
    with pytest.raises(
        ValueError, match=r"cache \(past_key_values\) was filled by a model of another precision: its states are"
    ):
        model(ids, past_key_values=cache)
    assert cache.get_seq_length() == 6


def test_a_half_model_goes_on_from_a_float32_cache():
    single, *halves = (
        build("matrix-conv-gate-dense-untied", dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)
    )
    ids = tokens(2, 6)
    for half in halves:
        assert half(ids, past_key_values=single(ids).cache).logits.isfinite().all()


def test_a_precision_that_is_not_known_is_not_compared():
    """FSDP and quantisers keep parameters in other ways."""
    model, ids = build("matrix-conv-gate-dense-untied"), tokens(2, 6)
    cache = model(ids).cache
    expected = model(ids, past_key_values=copy.deepcopy(cache.detach())).logits
    mixer = model.model.layers[0].mixer
    mixer.parameters = lambda recurse=True: iter([torch.zeros(3, dtype=torch.int8)])
    assert torch.equal(model(ids, past_key_values=cache).logits, expected)


@pytest.mark.parametrize("share", [-5, 1.5, float("nan"), "half", None, True])
def test_progress_is_a_share(share):
    model = build("sparse-matrix")
    with pytest.raises(ValueError, match=rf"share={share!r} must be a number from 0 to 1; take steps done"):
        model.set_progress(share)


def test_progress_may_be_numpys():
    model = build("sparse-matrix")
    model.set_progress(np.float32(0.5))
    assert model.model.stack.progress == 0.5


@pytest.mark.parametrize("rows", [[True, False], torch.tensor([0, 1])], ids=["a list", "indices"])
def test_rows_that_start_anew_are_a_mask(rows):
    cache = build("modulus-as-it-is")(tokens(2, 6)).cache
    with pytest.raises(ValueError, match=r"rows must be bool \[2\], true for a row, but got (list|torch.int64 \(2,\))"):
        cache.start_anew(rows)


@pytest.mark.parametrize(
    ("indices", "got"),
    [
        ([1, 0], "list"),
        (torch.tensor([True, False]), r"torch.bool \(2,\)"),
        (torch.tensor([[0]]), r"torch.int64 \(1, 1\)"),
        (torch.tensor([0, 2]), r"\[0, 2\]"),
        (torch.tensor([-1]), r"\[-1\]"),
    ],
    ids=["a list", "a mask", "a matrix", "beyond", "below"],
)
def test_rows_that_are_kept_are_numbers(indices, got):
    cache = build("modulus-as-it-is")(tokens(2, 6)).cache
    says = rf"indices must be int64 \[rows\], from 0 to 1, .* but got {got}; of a mask take"
    with pytest.raises(ValueError, match=says):
        cache.batch_select_indices(indices)
    cache.batch_select_indices(torch.tensor([1, 1, 0], dtype=torch.int32))
    assert cache.batch_size == 3


@pytest.mark.parametrize("repeats", [0, -1, 1.5, True])
def test_rows_are_repeated_a_whole_number_of_times(repeats):
    cache = build("modulus-as-it-is")(tokens(2, 6)).cache
    with pytest.raises(ValueError, match=rf"repeats={repeats} must be a whole number of at least 1; to drop rows"):
        cache.batch_repeat_interleave(repeats)
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 4


@pytest.mark.parametrize("name", ["resnet_bk", "seed"])
@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda ids: ids[0], r"\(5,\)"),
        (lambda ids: ids[:, :0], r"\(2, 0\)"),
        (lambda ids: ids.tolist(), "list"),
    ],
)
def test_a_prompt_has_rows_of_tokens(name, change, got):
    model, ids = MODELS[name](), tokens(2, 5) % V
    with pytest.raises(ValueError, match=rf"the prompt must be a tensor \[batch, tokens\] with .*, but got {got}; a"):
        model.generate(change(ids), max_new_tokens=2, pad_token_id=0)


def test_guidance_without_a_cache():
    with pytest.raises(ValueError, match=r"guidance_scale=1\.5: guidance of transformers reads"):
        build_seed("surface").generate(tokens(1, 5), guidance_scale=1.5, max_new_tokens=2)
    assert build_seed("surface").generate(tokens(1, 5), guidance_scale=1.0, max_new_tokens=2).shape == (1, 7)


@pytest.mark.parametrize("blocks", ["4", None, [], True, 0])
@pytest.mark.parametrize("switch", [{"adaptive_computation": True}, {"sparse_bk": []}, {"multi_scale": []}])
def test_a_number_of_blocks_is_told_once(blocks, switch):
    """Not by the rules of switches, which read it."""
    with pytest.raises(ValueError, match=r"num_hidden_layers=.* must be a whole number of at least 1") as told:
        ResNetBKConfig(vocab_size=VOCAB_SIZE, num_hidden_layers=blocks, **switch)
    assert str(told.value).count("num_hidden_layers=") == 1


def test_a_cache_is_made_of_a_configuration():
    with pytest.raises(ValueError, match=r"config: .*num_hidden_layers, but is a ResNetBKForCausalLM; .*model\.config"):
        ResNetBKCache(build("modulus-as-it-is"))
