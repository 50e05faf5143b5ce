"""Documents of a packed row by the names of the collators of transformers."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DataCollatorWithFlattening

from resnet_bk.models.packing import packed_documents
from tests.models.configs import build, tokens

LENGTHS = [7, 1, 12, 4]
NAMES = ("matrix-conv-gate-dense-untied", "pointer-modulus", "all-matrix")


def examples():
    return [{"input_ids": tokens(1, length, seed=length)[0].tolist()} for length in LENGTHS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"return_seq_idx": True}, {"position_ids_start": 2}], ids=str)
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


def test_positions_one_after_another_are_one_document():
    positions = torch.arange(5, 15).view(1, 10)
    assert packed_documents(None, positions, None, shape=(3, 10)).unique().tolist() == [0]
    assert packed_documents(None, positions, None, shape=(3, 10), past_length=5) is None


def test_a_packed_prompt_is_continued():
    model, ids = build("pointer-modulus", dtype=torch.float64), tokens(2, 12)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    found = model.generate(ids, position_ids=positions, **options)
    for row, start in enumerate((7, 1)):
        alone = model.generate(ids[row : row + 1, start:], **options)
        assert torch.equal(found[row, start:], alone[0])
    assert torch.equal(found, model.generate(ids, position_ids=positions, use_cache=False, **options))
