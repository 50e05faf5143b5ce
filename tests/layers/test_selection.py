"""Selections: what is taken out of rows comes back to its place, whatever the rows have."""

import pytest
import torch

from resnet_bk.layers.selection import SIZES, add_rows, fill_up, select, size_step

CASES = {
    "ragged": [[1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
    "even": [[1, 0, 1, 0], [0, 0, 1, 1]],
    "all": [[1, 1], [1, 1]],
    "one token": [[1]],
    "one row of two": [[0], [1]],
}


@pytest.mark.parametrize("name", CASES)
def test_tokens_stand_side_by_side(name):
    keep = torch.tensor(CASES[name], dtype=torch.bool)
    x = torch.randn(*keep.shape, 3, requires_grad=True)
    selection = select(keep)
    taken = selection.gather(x)
    counts = keep.sum(1).tolist()
    assert selection.counts.tolist() == counts
    assert selection.ragged == (len(set(counts)) > 1)
    # A row that is filled up is filled up by two places or more.
    assert selection.width == max(counts) + (2 if selection.ragged else 0)
    assert torch.equal(selection.real(), torch.arange(selection.width) < keep.sum(1, keepdim=True))
    for row, count in enumerate(counts):
        assert torch.equal(taken[row, :count], x[row][keep[row]])
        assert torch.count_nonzero(taken[row, count:]) == 0

    back = add_rows(torch.zeros_like(x), selection.tokens, taken.flatten(0, 1)[selection.places])
    assert torch.equal(back, x * keep.unsqueeze(-1))
    weight = torch.randn_like(back)
    (gradient,) = torch.autograd.grad((back * weight).sum(), x)
    assert torch.equal(gradient, weight * keep.unsqueeze(-1))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [2, 3, 8])
def test_rows_of_one_of_a_few_sizes(name, step):
    keep = torch.tensor(CASES[name], dtype=torch.bool)
    selection = select(keep, step)
    missing = selection.width - selection.counts
    assert selection.width % step == 0
    assert missing.min() == 0 or missing.min() >= 2  # one place more cannot be filled up
    assert missing.min() < step + 2
    x = torch.randn(*keep.shape, 3)
    assert torch.equal(selection.gather(x)[selection.real()], x[keep])


def test_filling_up_repeats_the_last():
    assert fill_up(torch.tensor([3, 5, 6]), 4).tolist() == [3, 5, 6, 6]
    assert fill_up(torch.tensor([3, 5, 6, 9, 11]), 4).tolist() == [3, 5, 6, 9, 11, 11, 11, 11]
    assert fill_up(torch.tensor([3, 5]), 2).tolist() == [3, 5]
    assert fill_up(torch.empty(0, dtype=torch.int64), 4).tolist() == []


def test_numbers_are_rounded_where_matmuls_are_compiled_for_them():
    x = torch.empty(1)
    assert size_step(x, 4096) == 1
    assert size_step(x.bfloat16(), 4096) == 128
    assert size_step(x.bfloat16(), 1) == 1
    assert size_step(x.bfloat16().to("meta"), 4096) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert size_step(x, 4096) == 128


@pytest.mark.parametrize("tokens", [1, 31, 63, 64, 95, 2048])
def test_there_are_no_more_numbers_than_that(tokens):
    step = size_step(torch.empty(1, dtype=torch.bfloat16), tokens)
    assert len({len(fill_up(torch.arange(count), step)) for count in range(1, tokens + 1)}) <= SIZES


def test_nothing_selected():
    assert select(torch.zeros(2, 5, dtype=torch.bool)) is None
    assert select(torch.zeros(0, 5, dtype=torch.bool)) is None
