"""Shortening and lengthening against their formulas, written as loops over tokens."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import Shortening, find_boundaries


def build(factor):
    torch.manual_seed(0)
    return Shortening(6, factor).double()


def through(shortening, hidden, boundaries=None, state=None):
    """Down and up with doubled coarse tokens in between."""
    down = shortening.shorten(hidden, boundaries, state)
    return shortening.lengthen(down, None if down.hidden is None else 2 * down.hidden)


def definition(shortening, hidden):
    """One document: c_g = P [...], h_t + (U 2 c_g)_j from the last token of group g on."""
    k, output = shortening.factor, hidden.clone()
    for g in range(len(hidden) // k):
        coarse = 2 * shortening.pool(hidden[g * k : g * k + k].flatten())
        for j, part in enumerate(shortening.spread(coarse).view(k, -1)):
            if g * k + k - 1 + j < len(hidden):
                output[g * k + k - 1 + j] += part
    return output


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 12, 13])
def test_is_its_definition(factor, length):
    shortening = build(factor)
    hidden = torch.randn(2, length, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output, state = through(shortening, hidden)
    for row in range(2):
        assert_close(output[row], definition(shortening, hidden[row]), rtol=1e-10, atol=1e-10)
    assert state.filled.tolist() == [length % factor] * 2


@pytest.mark.parametrize("factor", [2, 3])
def test_documents_and_padding_start_groups_anew(factor):
    shortening = build(factor)
    hidden = torch.randn(2, 14, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lengths = [[3, 7, 4], [1, 1, 12]]
    numbers = torch.stack([torch.repeat_interleave(torch.arange(3), torch.tensor(row)) for row in lengths])
    boundaries = find_boundaries(None, numbers, shape=(2, 14))
    output, _ = through(shortening, hidden, boundaries)
    for row in range(2):
        pieces = hidden[row].split(lengths[row])
        expected = torch.cat([definition(shortening, piece) for piece in pieces])
        assert_close(output[row], expected, rtol=1e-10, atol=1e-10)

    mask = torch.ones(2, 14, dtype=torch.int64)
    mask[0, :5] = 0
    output, _ = through(shortening, hidden, find_boundaries(mask, None, shape=(2, 14)))
    assert_close(output[0, 5:], definition(shortening, hidden[0, 5:]), rtol=1e-10, atol=1e-10)
    assert_close(output[1], definition(shortening, hidden[1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("factor", [2, 3, 5])
@pytest.mark.parametrize("cuts", [[1] * 11, [2, 9], [4, 4, 3], [10, 1]])
def test_calls_join(factor, cuts):
    shortening = build(factor)
    hidden = torch.randn(2, 11, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole, _ = through(shortening, hidden)
    state, pieces = None, []
    for piece in hidden.split(cuts, dim=1):
        output, state = through(shortening, piece, state=state)
        pieces.append(output)
    assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
