"""Cuts worked out from masks and document numbers."""

import pytest
import torch

from resnet_bk.layers import find_boundaries


def rows(*values):
    return torch.tensor(values)


def test_nothing_to_cut():
    assert find_boundaries(None, None, shape=(2, 3)) is None
    assert find_boundaries(torch.ones(2, 3), None, shape=(2, 3)) is None
    assert find_boundaries(torch.ones(2, 3), None, shape=(2, 3), past_length=4) is None
    # Padding that ended before the last token of the state.
    assert find_boundaries(rows([0, 0, 1, 1, 1]), None, shape=(1, 2), past_length=3) is None


def test_padding():
    boundaries = find_boundaries(rows([0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]), None, shape=(3, 4))
    assert boundaries.keep[..., 0].tolist() == [[1, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert boundaries.real[..., 0].tolist() == [[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert boundaries.segment is None
    assert boundaries.begun is None
    assert boundaries.padded_right
    # Padding up to the end of the call, before the first token: no state to lose.
    boundaries = find_boundaries(rows([0, 0, 0], [0, 1, 1]), None, shape=(2, 3))
    assert not boundaries.padded_right
    assert boundaries.begun.tolist() == [False, True]


def test_padding_before_the_call():
    mask = rows([0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1])
    boundaries = find_boundaries(mask, None, shape=(3, 2), past_length=3)
    assert boundaries.keep[..., 0].tolist() == [[0, 1], [1, 1], [1, 0]]
    assert find_boundaries(rows([1, 1, 0, 0]), None, shape=(1, 2), past_length=2).padded_right


def test_documents():
    boundaries = find_boundaries(None, rows([5, 5, 2, 2, 5], [0, 1, 1, 1, 1]), shape=(2, 5))
    assert boundaries.keep[..., 0].tolist() == [[1, 1, 0, 1, 0], [1, 0, 1, 1, 1]]
    assert boundaries.segment.tolist() == [[0, 0, 1, 1, 2], [0, 1, 1, 1, 1]]
    assert boundaries.real is None
    assert boundaries.same_segment(1)[..., 0].tolist() == [[True, True, False, True, False], [True, False, *[True] * 3]]
    last = torch.tensor([5, 9])
    boundaries = find_boundaries(None, rows([5, 5], [1, 1]), shape=(2, 2), past_length=7, last_document=last)
    assert boundaries.keep[..., 0].tolist() == [[1, 1], [0, 1]]
    # The tokens before the call are in segment 0.
    assert boundaries.same_segment(2)[..., 0].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.bfloat16])
def test_a_mask_of_any_type(dtype):
    boundaries = find_boundaries(rows([0, 1, 1]).to(dtype), None, shape=(1, 3))
    assert boundaries.real[..., 0].tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (rows([0.0, 0.0, 0.0], [-torch.inf, 0.0, 0.0]), r"\[1, 0\] is -inf; .*mask == 0\)"),
        (rows([1, 1, 2]), r"\[0, 2\] is 2; .*or document_ids"),
        (rows([1, 1, -1]).to(torch.int8), r"\[0, 2\] is -1"),
        (rows([torch.nan, 1.0, 1.0]), r"\[0, 0\] is nan"),
    ],
    ids=["additive", "numbers", "negative", "nan"],
)
def test_a_mask_of_other_values_is_refused(mask, says):
    with pytest.raises(ValueError, match="must be 1 for a token and 0 for padding, but attention_mask" + says):
        find_boundaries(mask, None, shape=tuple(mask.shape))


def test_rows_without_a_token_are_refused():
    with pytest.raises(ValueError, match=r"^shape=\(2, 0\) must have at least one token a row; "):
        find_boundaries(torch.ones(2, 0), None, shape=(2, 0))


def test_refused():
    with pytest.raises(ValueError, match=r"attention_mask must have shape \(2, 3\) \(1 for.*got \(2, 4\)"):
        find_boundaries(torch.ones(2, 4), None, shape=(2, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\) or \(2, 8\).*got \(2, 3, 3\)"):
        find_boundaries(torch.ones(2, 3, 3), None, shape=(2, 3), past_length=5)
    with pytest.raises(ValueError, match=r"row 1 has 2 runs of them.*pass document_ids"):
        find_boundaries(rows([1, 1, 1], [1, 0, 1]), None, shape=(2, 3))
    with pytest.raises(ValueError, match=r"cover the 4 tokens.*shape \(1, 3\); pass all 7 columns"):
        find_boundaries(rows([0, 1, 1]), None, shape=(1, 3), past_length=4)
    with pytest.raises(ValueError, match=r"document_ids must be integers of shape \(1, 3\).*got torch.int64 \(1, 2\)"):
        find_boundaries(None, rows([0, 1]), shape=(1, 3))
    with pytest.raises(ValueError, match=r"document_ids must be integers.*got torch.float32"):
        find_boundaries(None, torch.zeros(1, 3), shape=(1, 3))
    with pytest.raises(ValueError, match="its 4 tokens came without"):
        find_boundaries(None, rows([0, 1]), shape=(1, 2), past_length=4)
