"""Documents of a packed row by the names of the collators of transformers."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DataCollatorWithFlattening

from resnet_bk.models import ResNetBKCache
from resnet_bk.models.packing import packed_documents
from tests.models.configs import build, tokens

LENGTHS = [7, 1, 12, 4]
NAMES = ("matrix-conv-gate-dense-untied", "pointer-modulus", "all-matrix")


def examples():
    return [{"input_ids": tokens(1, length, seed=length)[0].tolist()} for length in LENGTHS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_seq_idx": True},
        {"position_ids_start": 2},
        {"return_flash_attn_kwargs": True},
        {"return_flash_attn_kwargs": True, "return_position_ids": False},
    ],
    ids=str,
)
def test_a_flattened_batch_is_its_examples(name, options):
    model, features = build(name, dtype=torch.float64), examples()
    output = model(**DataCollatorWithFlattening(**options)(features))
    separate = [model(input_ids=torch.tensor([feature["input_ids"]])) for feature in features]
    assert_close(output.logits, torch.cat([one.logits for one in separate], dim=1))
    ids = torch.tensor([[word for feature in features for word in feature["input_ids"]]])
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))[None]
    assert_close(output.loss, model(ids, labels=ids, document_ids=numbers).loss)
    base = model.base_model(ids, seq_idx=numbers).last_hidden_state
    assert_close(base, model.base_model(ids, document_ids=numbers).last_hidden_state)
    assert (model(ids).logits - output.logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("borders", "rows"),
    [([0, 3, 9], 1), ([1, 10], 1), ([0, 6, 4, 10], 1), ([0, 5, 10], 2), ([[0, 10]], 1), ([0.0, 10.0], 1), ([0], 1)],
)
def test_borders_that_are_none_of_a_row(borders, rows):
    model, ids = build("matrix-conv-gate-dense-untied"), tokens(rows, 10)
    with pytest.raises(
        ValueError, match=f"cu_seq_lens_q must rise from 0 .* for {rows} rows of 10 tokens; .*document_ids"
    ):
        model(ids, cu_seq_lens_q=torch.tensor(borders))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_borders_of_either_size(dtype):
    borders = torch.tensor([0, 3, 3, 10], dtype=dtype)
    found = packed_documents(None, None, None, borders, shape=(1, 10))
    assert (found.diff() != 0).tolist() == [[False] * 2 + [True] + [False] * 6]


def test_borders_beside_document_ids():
    model, ids = build("matrix-conv-gate-dense-untied"), tokens(1, 10)
    with pytest.raises(ValueError, match="cu_seq_lens_q and document_ids both say"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 10]), document_ids=torch.zeros_like(ids))


def test_borders_after_a_cache():
    """They number documents anew in every call."""
    model, ids = build("matrix-conv-gate-dense-untied"), tokens(1, 14)
    cache = model(ids[:, :10], cu_seq_lens_q=torch.tensor([0, 6, 10]), use_cache=True).cache
    with pytest.raises(ValueError, match=r"cu_seq_lens_q after the 10 tokens of the cache .*; pass document_ids"):
        model(ids[:, 10:], cu_seq_lens_q=torch.tensor([0, 4]), cache=cache)


def test_positions_of_padding_that_reaches_into_a_second_call():
    model, ids = build("matrix-conv-gate-dense-untied", dtype=torch.float64), tokens(2, 6)
    mask = torch.tensor([[0, 0, 0, 0, 1, 1], [1] * 6])
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)  # as `generate` of transformers makes them
    for first in (3, 4):  # the padding ends within the second call, or with the first
        cache, logits = ResNetBKCache(model.config), []
        for stretch in (slice(first), slice(first, 6)):
            call = {"attention_mask": mask[:, : stretch.stop], "position_ids": positions[:, stretch]}
            logits.append(model(ids[:, stretch], **call, cache=cache, use_cache=True).logits)
        whole = model(ids, attention_mask=mask).logits
        for row, start in enumerate((4, 0)):
            assert_close(torch.cat(logits, dim=1)[row, start:], whole[row, start:])
    cache = model(ids[:, :3], use_cache=True).cache
    with pytest.raises(ValueError, match="position_ids start anew after the 3 tokens"):
        model(ids[:, 3:], attention_mask=torch.ones(2, 6), position_ids=torch.arange(3).expand(2, 3), cache=cache)


def test_positions_one_after_another_are_one_document():
    positions = torch.arange(5, 15).view(1, 10)
    for past_length in (0, 5):
        assert packed_documents(None, positions, None, shape=(3, 10), past_length=past_length) is None


POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


def test_a_packed_prompt_is_continued():
    model, ids = build("pointer-modulus", dtype=torch.float64), tokens(2, 12)
    found = model.generate(ids, position_ids=POSITIONS, **OPTIONS)
    for row, start in enumerate((7, 1)):
        alone = model.generate(ids[row : row + 1, start:], **OPTIONS)
        assert torch.equal(found[row, start:], alone[0])
    for options in ({"use_cache": False}, {"num_beams": 1, "num_return_sequences": 1}):
        assert torch.equal(found, model.generate(ids, position_ids=POSITIONS, **options, **OPTIONS))
    numbers = torch.tensor([[0] * 5 + [1] * 2 + [2] * 5, [0] + [1] * 11])
    assert torch.equal(found, model.generate(ids, seq_idx=numbers, **OPTIONS))
    borders = torch.tensor([0, 5, 7, 12])
    for beside in ({}, {"position_ids": POSITIONS[:1]}):
        assert torch.equal(found[:1], model.generate(ids[:1], cu_seq_lens_q=borders, **beside, **OPTIONS))
    # In pieces, of which one begins with a document.
    for size in (5, 7):
        pieces = model.generate(
            ids, position_ids=POSITIONS, prefill_chunk_size=size, cache=ResNetBKCache(model.config), **OPTIONS
        )
        assert torch.equal(found, pieces)
    with pytest.raises(ValueError, match="position_ids and document_ids both say"):
        model.generate(ids, position_ids=POSITIONS, document_ids=numbers, **OPTIONS)


def test_positions_that_only_count_are_of_no_document():
    model, ids = build("matrix-conv-gate-dense-untied", dtype=torch.float64), tokens(2, 12)
    cache = model(ids[:, :4], use_cache=True).cache
    counted = torch.arange(12)[None]
    assert torch.equal(
        model.generate(ids, position_ids=counted, cache=cache, **OPTIONS), model.generate(ids, **OPTIONS)
    )


@pytest.mark.parametrize("name", ["document_ids", "seq_idx"])
@pytest.mark.parametrize("pieces", [{}, {"prefill_chunk_size": 3}], ids=["whole", "in pieces"])
def test_new_tokens_alone_behind_a_cache(name, pieces):
    model, ids = build("pointer-modulus", dtype=torch.float64), tokens(1, 14)
    numbers = torch.tensor([[0] * 6 + [1] * 3 + [2] * 5])
    for first in (6, 8):  # a document ends there, or goes on
        whole = model.generate(ids, document_ids=numbers, **OPTIONS)
        cache = model(ids[:, :first], document_ids=numbers[:, :first], use_cache=True).cache
        found = model.generate(
            ids[:, first:],
            attention_mask=torch.ones_like(ids),  # of the tokens before as well
            cache=cache,
            **{name: numbers[:, first:]},
            **pieces,
            **OPTIONS,
        )
        assert torch.equal(found, whole[:, first:])
    mask = torch.ones_like(ids)  # without a cache it says nothing of tokens before
    options = {**pieces, **OPTIONS, **({"cache": ResNetBKCache(model.config)} if pieces else {})}
    alone = model.generate(ids[:, 6:], **{name: numbers[:, 6:]}, **options)
    options |= {"cache": ResNetBKCache(model.config)} if pieces else {}
    assert torch.equal(alone, model.generate(ids[:, 6:], attention_mask=mask, **{name: numbers[:, 6:]}, **options))
    cache = model(ids[:, :8], document_ids=numbers[:, :8], use_cache=True).cache
    with pytest.raises(ValueError, match=r"attention_mask has 14 columns for a prompt of 7 tokens after the 8 of"):
        model.generate(ids[:, 7:], attention_mask=mask, cache=cache, **{name: numbers[:, 7:]}, **OPTIONS)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    cache = model(ids[:, :6], document_ids=numbers[:, :6], use_cache=True).cache
    with pytest.raises(ValueError, match="position_ids start anew after the 6 tokens of the cache"):
        model.generate(ids[:, 6:], attention_mask=mask, cache=cache, position_ids=positions, **OPTIONS)


@pytest.mark.parametrize(
    "filled",
    [
        {"document_ids": [[1] * 6 + [2] * 4]},
        {"document_ids": [[0] * 6 + [1] * 4]},
        {"cu_seq_lens_q": [0, 6, 10]},
        {"position_ids": [[*range(6), *range(4)]]},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "asked",
    [{"position_ids": [[*range(6), *range(8)]]}, {"cu_seq_lens_q": [0, 6, 14]}],
    ids=lambda given: next(iter(given)),
)
def test_a_whole_text_behind_a_cache_that_counted_documents_otherwise(filled, asked):
    model, ids = build("pointer-modulus", dtype=torch.float64), tokens(1, 14)
    filled, asked = ({name: torch.tensor(value) for name, value in given.items()} for given in (filled, asked))
    cache, repeated = (model(ids[:, :10], **filled, use_cache=True).cache for _ in range(2))
    repeated.batch_repeat_interleave(2)
    found = model.generate(ids, cache=cache, **asked, **OPTIONS)
    assert torch.equal(found, model.generate(ids, **asked, **OPTIONS))
    beams = model.generate(ids, cache=repeated, num_beams=2, **asked, **OPTIONS)
    assert torch.equal(beams, model.generate(ids, num_beams=2, **asked, **OPTIONS))


def test_what_does_not_fit_beside_documents():
    model, ids = build("matrix-conv-gate-dense-untied", dtype=torch.float64), tokens(1, 14)
    with pytest.raises(ValueError, match=r"cache \(past_key_values\) must be a ResNetBKCache, but got dict"):
        model.generate(ids, document_ids=torch.zeros_like(ids), cache={}, **OPTIONS)
    # A mask of more columns is one of a cache that is not there.
    anew = {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])}
    found = model.generate(ids[:, 6:], attention_mask=torch.ones_like(ids), **anew, **OPTIONS)
    assert torch.equal(found, model.generate(ids[:, 6:], **anew, **OPTIONS))


def test_positions_for_all_rows():
    model, ids = build("matrix-conv-gate-dense-untied", dtype=torch.float64), tokens(2, 12)
    found = model.generate(ids, position_ids=POSITIONS[:1], **OPTIONS)
    assert torch.equal(found, model.generate(ids, position_ids=POSITIONS[:1].expand(2, -1), **OPTIONS))
    assert torch.equal(found, model.generate(input_ids=ids, position_ids=POSITIONS[:1], **OPTIONS))
    with pytest.raises(ValueError, match=r"position_ids must be integers of shape \(2, 12\)"):
        model.generate(ids, position_ids=POSITIONS[:1].expand(3, -1), **OPTIONS)


def test_positions_of_padding_are_no_documents():
    model, ids = build("matrix-conv-gate-dense-untied", dtype=torch.float64, pad_token_id=0), tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # as tokenizers' users make them
    found = model.generate(ids, attention_mask=mask, position_ids=positions, **OPTIONS)
    assert torch.equal(found, model.generate(ids, attention_mask=mask, **OPTIONS))


@pytest.mark.parametrize("name", ["document_ids", "position_ids", "seq_idx"])
def test_numbers_that_do_not_cover_the_prompt(name):
    model, ids = build("pointer-modulus"), tokens(2, 12)
    for wrong in (ids[:, :9], torch.cat([ids, ids], 1), ids[0], ids.float()):
        for prompt in ({"inputs": ids}, {"input_ids": ids}):
            with pytest.raises(ValueError, match=rf"{name} must be integers of shape \(2, 12\), one a token"):
                model.generate(**prompt, **{name: wrong}, **OPTIONS)
    with pytest.raises(ValueError, match=f"{name} must be a tensor, but got list"):
        model.generate(ids, **{name: ids.tolist()}, **OPTIONS)
    with pytest.raises(ValueError, match=rf"{name} must be integers of shape \(1, 1\)"):  # of the prompt that it makes
        model.generate(bos_token_id=1, **{name: ids}, **OPTIONS)
    with pytest.raises(
        ValueError, match=r"the prompt must be a tensor \[batch, tokens\] with at least one token, but got \(12,\)"
    ):
        model.generate(ids[0], **{name: ids}, **OPTIONS)


def test_the_numbers_of_a_prompt_of_embeddings():
    model, ids = build("matrix-conv-gate-dense-untied", dtype=torch.float64), tokens(2, 12)
    embeddings = model.model.embed_tokens(ids)
    numbers = torch.tensor([[0] * 5 + [1] * 7] * 2)
    found = model.generate(inputs_embeds=embeddings, document_ids=numbers, **OPTIONS)
    assert torch.equal(found, model.generate(ids, document_ids=numbers, **OPTIONS)[:, 12:])
    with pytest.raises(ValueError, match=r"document_ids must be integers of shape \(2, 12\)"):
        model.generate(inputs_embeds=embeddings, document_ids=numbers[:, 1:], **OPTIONS)
