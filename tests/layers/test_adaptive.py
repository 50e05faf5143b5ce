"""Halting against its definition (Graves), token by token."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import HaltingUnit, Pondering, find_boundaries


def definition(states, probabilities, threshold):
    """Output, blocks passed and remainder of one token."""
    output, total = torch.zeros_like(states[0]), 0.0
    for block, state in enumerate(states):
        last = block == len(states) - 1
        probability = 1.0 if last else float(probabilities[block])
        if last or total + probability >= threshold:
            return output + (1 - total) * state, block + 1, 1 - total
        output, total = output + probability * state, total + probability
    raise AssertionError


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.99])
def test_is_its_definition(threshold):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 3, 7, 4, dtype=torch.float64, generator=generator)
    probabilities = torch.rand(4, 3, 7, dtype=torch.float64, generator=generator) * 0.6
    pondering, seen = Pondering(threshold, None), []
    for block in range(5):
        seen.append(7 * 3 if pondering.active is None else int(pondering.active.sum()))
        pondering.step(states[block], probabilities[block] if block < 4 else None)
    costs, depths = [], []
    for row in range(3):
        for t in range(7):
            output, depth, remainder = definition(states[:, row, t], probabilities[:, row, t], threshold)
            assert_close(pondering.result()[row, t], output)
            costs.append(depth + remainder)
            depths.append(depth)
    assert_close(pondering.ponder_cost(), torch.tensor(costs, dtype=torch.float64).mean())
    assert_close(pondering.depth(), torch.tensor(depths, dtype=torch.float64).mean())
    # Every block runs on the tokens that have not halted, and on no others.
    assert seen == [sum(depth > block for depth in depths) for block in range(5)]
    assert seen[-1] < seen[0]


def test_gradients():
    """Of what is read and of its cost, by the states and by the probabilities of halting."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 2, 3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    probabilities = (0.6 * torch.rand(2, 2, 3, dtype=torch.float64, generator=generator)).requires_grad_()

    def read(states, probabilities):
        pondering = Pondering(0.8, None)
        for block in range(3):
            pondering.step(states[block], probabilities[block] if block < 2 else None)
        return pondering.result(), pondering.ponder_cost()

    assert torch.autograd.gradcheck(read, (states, probabilities))


def test_padding_does_not_count():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    boundaries = find_boundaries(mask, None, shape=(2, 5))
    probabilities = torch.where(mask == 1, 0.9, 0.1)
    pondering = Pondering(0.8, boundaries)
    pondering.step(torch.randn(2, 5, 3), probabilities)
    pondering.step(torch.randn(2, 5, 3), None)
    assert_close(pondering.depth(), torch.tensor(1.0))
    assert_close(pondering.ponder_cost(), torch.tensor(2.0))


def test_no_tokens_cost_nothing():
    pondering = Pondering(0.8, None)
    pondering.step(torch.empty(0, 5, 3), torch.empty(0, 5))
    pondering.step(torch.empty(0, 5, 3), None)
    assert (float(pondering.depth()), float(pondering.ponder_cost())) == (0.0, 0.0)


def test_the_remainder_teaches_the_unit():
    torch.manual_seed(0)
    unit = HaltingUnit(4)
    pondering, hidden = Pondering(0.99, None), torch.randn(2, 3, 4)
    pondering.step(hidden, unit(hidden))
    pondering.step(hidden, None)
    pondering.ponder_cost().backward()
    # A higher probability in the first block leaves a smaller remainder.
    assert unit.bias.grad < 0
    assert torch.count_nonzero(unit.weight.grad) == 4
