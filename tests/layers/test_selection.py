"""Selections: what is taken out of rows comes back to its place, whatever the rows have."""

import pytest
import torch

from resnet_bk.layers.selection import add_rows, select

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


def test_nothing_selected():
    assert select(torch.zeros(2, 5, dtype=torch.bool)) is None
    assert select(torch.zeros(0, 5, dtype=torch.bool)) is None
