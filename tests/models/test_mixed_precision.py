"""The invariants of the model under `mixed_precision: bf16`, alone and with the other switches.

In float64, where the other tests look, autocast does nothing. In bfloat16 the same rows in a batch of another shape may
be summed in another order, which moves a rounding of 0.4% here and there, and through the chain what comes after it.
3% of the norm leaves room for that; a state or boundaries that are lost move the logits by more than 10%, as the tests
make sure. Whether a token halts or its site is kept is decided in float32, and seldom so close that such a rounding
turns it: with these seeds it turns none.
"""

import pytest
import torch

from resnet_bk.layers.registry import MIXERS
from resnet_bk.models import ResNetBKCache
from tests.models.configs import GRID, VOCAB_SIZE, build, of_embeddings, tokens

pytestmark = pytest.mark.sweep
NAMES = (
    *(
        "matrix-conv-gate-dense-untied",
        "vector-conv-gate-moe-untied",
        "modulus-as-it-is",
        "delta-silu",
        "pointer-modulus",
    ),
    *("adaptive-matrix", "scales-nested-vector", "sparse-modulus", "all-matrix", "all-vector-moe", "pointer-switched"),
)
BOUND = 0.03
assert {GRID[name]["state"] for name in NAMES} == set(MIXERS)

every_model = pytest.mark.parametrize("name", NAMES)


def mixed(name, **fields):
    return build(name, mixed_precision="bf16", **fields)


def off(found, expected):
    """|found - expected| / |expected| of logits, whose mean over the words means nothing."""
    found, expected = (logits.detach().float() for logits in (found, expected))
    found, expected = (logits - logits.mean(-1, keepdim=True) for logits in (found, expected))
    return float((found - expected).norm() / expected.norm())


@every_model
def test_whole_equals_chunks_equals_token_by_token(name):
    model, ids = mixed(name), tokens(2, 34)
    whole = model(ids).logits
    forgotten = model(ids.reshape(-1, 1)).logits.view(*ids.shape, -1)
    assert off(forgotten, whole) > 0.1
    for lengths in ([11, 23], [1, 2, 31], [1] * 34):
        cache = ResNetBKCache(model.config)
        pieces = [model(piece, past_key_values=cache).logits for piece in ids.split(lengths, dim=1)]
        assert off(torch.cat(pieces, dim=1), whole) < BOUND
        assert {part.dtype for state in cache.states() for part in state.chain} <= {torch.complex64, torch.float32}


@every_model
def test_packed_documents(name):
    model, lengths = mixed(name), [9, 1, 2, 17, 5]
    ids = tokens(2, sum(lengths))
    numbers = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths)).expand(2, -1)
    separate = torch.cat([model(piece).logits for piece in ids.split(lengths, dim=1)], dim=1)
    assert off(model(ids, document_ids=numbers).logits, separate) < BOUND
    assert off(model(ids).logits, separate) > 0.1


@every_model
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    model, lengths = mixed(name), [3, 20, 11, 1]
    ids, mask = tokens(4, 20), torch.zeros(4, 20, dtype=torch.int64)
    places = [slice(20 - length, 20) if side == "left" else slice(0, length) for length in lengths]
    for row, place in enumerate(places):
        mask[row, place] = 1
    padded = model(ids, attention_mask=mask).logits
    for row, place in enumerate(places):
        assert off(padded[row, place], model(ids[row : row + 1, place]).logits[0]) < BOUND


@every_model
def test_no_gradient_from_later_tokens(name):
    model, ids = mixed(name), tokens(2, 23)
    embeddings = model.model.embed_tokens(ids).detach().requires_grad_()
    logits = of_embeddings(model, ids, embeddings).logits
    for position in (0, 10, 21):
        weight = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(position))
        (gradient,) = torch.autograd.grad((logits[:, position].float() @ weight).sum(), embeddings, retain_graph=True)
        assert torch.count_nonzero(gradient[:, position + 1 :]) == 0
        assert torch.count_nonzero(gradient[:, position]) > 0


@every_model
def test_two_runs_are_bitwise_the_same_and_train_is_eval(name):
    ids, gradients = tokens(2, 40), []
    for _ in range(2):
        model = mixed(name)
        in_eval = model(ids, labels=ids).loss
        loss = model.train()(ids, labels=ids).loss
        assert torch.equal(loss, in_eval)
        loss.backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient.dtype == torch.float32
        assert torch.isfinite(gradient).all()
        assert torch.equal(gradient, gradients[1][key]), key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_model
def test_a_gpu_computes_what_the_cpu_does(name):
    ids, found = tokens(2, 40), []
    for device in ("cpu", "cuda"):
        model = mixed(name).to(device)
        output = model(ids.to(device), labels=ids.to(device))
        output.loss.backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all(), key
        found.append(output.logits.cpu())
    assert off(*found) < BOUND


@every_model
def test_cached_generation_is_uncached_generation(name):
    model = mixed(name, pad_token_id=0)
    ids, mask = tokens(3, 9).clamp(min=1), torch.ones(3, 9, dtype=torch.int64)
    mask[1, :4] = 0
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(ids, attention_mask=mask, **options)
    assert isinstance(found.cache, ResNetBKCache)
    whole = torch.nn.functional.pad(mask, (0, 8), value=1)
    expected = model(found.sequences, attention_mask=whole).logits[:, 8:-1]
    assert off(torch.stack(found.logits, dim=1), expected) < BOUND


@pytest.mark.parametrize("name", ["scales-nested-vector", "all-matrix"])
def test_half_precision_of_the_other_kind(name):
    """Weights in float16, matmuls in bfloat16: no result of the two together may be asked of PyTorch."""
    model, ids = mixed(name), tokens(2, 9)
    expected = model(ids).logits
    mask = (torch.arange(9) >= torch.tensor([[0], [3]])).long()
    padded = model(ids, attention_mask=mask).logits[1, 3:]
    model = model.to(torch.float16)
    assert off(model(ids).logits, expected) < BOUND
    assert off(model(ids, attention_mask=mask).logits[1, 3:], padded) < BOUND
