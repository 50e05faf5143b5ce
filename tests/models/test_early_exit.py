"""A model whose tokens halt, read at a lower threshold than it was trained with: sooner, and still token by token."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.models import ResNetBKForCausalLM
from tests.models.configs import VOCAB_SIZE, build, tokens

EARLY = {"early_exit_threshold": 0.3}
ROUNDING_64 = {"rtol": 1e-9, "atol": 1e-9}  # as in test_invariants
every_early = pytest.mark.parametrize("name", ["adaptive-matrix", "adaptive-vector-moe", "all-matrix", "all-delta"])


def early_exit(name):
    """In float64; tokens leave it sooner than the model that has no such threshold."""
    early, late = (build(name, dtype=torch.float64, **fields) for fields in (EARLY, {}))
    ids = tokens(2, 30)
    assert early.base_model(ids).measures["depth"] < late.base_model(ids).measures["depth"] - 0.2
    return early


def test_an_early_exit_stops_sooner_in_evaluation_alone_and_in_generation():
    late, early = build("adaptive-matrix"), build("adaptive-matrix", **EARLY)
    ids = tokens(2, 30)
    depths = [float(model.base_model(ids).measures["depth"]) for model in (late, early)]
    assert depths[1] < depths[0] - 0.5
    assert torch.equal(late.train()(ids).logits, early.train()(ids).logits)
    early.eval()
    logits = early(ids).logits
    cache, pieces = None, []
    for token in ids.split(1, dim=1):
        output = early(token, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    assert_close(torch.cat(pieces, dim=1), logits, rtol=1e-3, atol=1e-4)


def test_an_early_exit_in_generate():
    late, early = (build("adaptive-matrix", dtype=torch.float64, **fields) for fields in ({}, EARLY))
    prompt = tokens(3, 9)
    options = {"max_new_tokens": 12, "do_sample": False}
    found = early.generate(prompt, **options)
    assert torch.equal(found, early.generate(prompt, use_cache=False, **options))
    assert torch.equal(early(found).logits[:, 8:-1].argmax(-1), found[:, 9:])
    assert not torch.equal(found, late.generate(prompt, **options))


@every_early
def test_no_later_token_decides_where_one_halts(name):
    model, ids = early_exit(name), tokens(6, 41)
    changed = ids.clone()
    positions = (1, 2, 3, 20, 33, 39)
    for row, position in enumerate(positions):
        changed[row, position] = (changed[row, position] + 17) % VOCAB_SIZE
    for before, after, position in zip(model(ids).logits, model(changed).logits, positions, strict=True):
        assert_close(after[:position], before[:position], **ROUNDING_64)
        assert (after[position] - before[position]).abs().amax() > 1e-3


@every_early
def test_nor_does_another_document_or_padding(name):
    model, lengths = early_exit(name), [9, 1, 2, 17, 5]
    ids = tokens(1, sum(lengths))
    alone = [model(piece).logits for piece in ids.split(lengths, dim=1)]
    numbers = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    assert_close(model(ids, document_ids=numbers).logits, torch.cat(alone, dim=1), **ROUNDING_64)
    # Each document in a row of its own, padded to the longest.
    for on_the_left in (True, False):
        rows, mask = torch.zeros(5, 17, dtype=torch.int64), torch.zeros(5, 17, dtype=torch.int64)
        places = [slice(17 - n, 17) if on_the_left else slice(n) for n in lengths]
        for row, (place, piece) in enumerate(zip(places, ids.split(lengths, dim=1), strict=True)):
            rows[row, place], mask[row, place] = piece[0], 1
        padded = model(rows, attention_mask=mask).logits
        for row, (place, expected) in enumerate(zip(places, alone, strict=True)):
            assert_close(padded[row : row + 1, place], expected, **ROUNDING_64)


@every_early
def test_saved_and_loaded(name, tmp_path):
    model, ids = early_exit(name), tokens(2, 30)
    model.save_pretrained(tmp_path)
    loaded = ResNetBKForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.config.early_exit_threshold == 0.3
    weights = loaded.state_dict()
    assert all(torch.equal(weights[key], weight) for key, weight in model.state_dict().items())
    # Not bit for bit: loaded weights need not be aligned in memory, and some processors add in another order then.
    assert_close(loaded(ids).logits, model(ids).logits, **ROUNDING_64)
