"""The gate of sparse chains, its share and its schedule; removed sites are not there."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import SiteGate, find_boundaries
from resnet_bk.layers.registry import MIXERS
from resnet_bk.layers.sparse import sparsity_loss, target_share
from tests.models.configs import build, tokens


def test_the_share_has_the_value_of_the_choice_and_the_slope_of_the_sigmoid():
    torch.manual_seed(0)
    gate = SiteGate(8).double()
    torch.nn.init.normal_(gate.weight)
    hidden = torch.randn(3, 11, 8, dtype=torch.float64)
    choice = gate(hidden, None)
    score = hidden @ gate.weight + gate.bias
    assert torch.equal(choice.keep, score > 0)
    assert_close(choice.share, choice.keep.double().mean())
    found = torch.autograd.grad(choice.share, gate.bias)
    assert_close(found, torch.autograd.grad(score.sigmoid().mean(), gate.bias))


def test_padding_is_never_kept_and_does_not_count():
    gate = SiteGate(4)
    mask = torch.tensor([[0, 0, 1, 1], [1] * 4])
    choice = gate(torch.randn(2, 4, 4), find_boundaries(mask, None, shape=(2, 4)))
    assert torch.equal(choice.keep, mask == 1)  # at the start nearly all tokens are kept
    assert choice.share == 1


def test_padding_has_no_part_in_the_slope():
    torch.manual_seed(0)
    gate, hidden = SiteGate(4).double(), torch.randn(2, 4, 4, dtype=torch.float64)
    torch.nn.init.normal_(gate.weight)
    mask = torch.tensor([[0, 0, 1, 1], [1] * 4])
    share = gate(hidden, find_boundaries(mask, None, shape=(2, 4))).share
    probability = (hidden @ gate.weight + gate.bias).sigmoid()[mask == 1]
    found = torch.autograd.grad(share, (gate.weight, gate.bias))
    assert_close(found, torch.autograd.grad(probability.mean(), (gate.weight, gate.bias)))


def test_the_target_comes_down_in_a_straight_line():
    assert [target_share(0.4, progress, 0.5) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.7, 0.4, 0.4])
    assert target_share(0.4, 0.0, 0.0) == 0.4
    assert sparsity_loss(torch.tensor([0.5, 1.0]), [0.5, 0.5]) == 0.125
    assert sparsity_loss(torch.tensor([0.5, 1.0]), [0.5, 0.75]) == 0.03125


@pytest.mark.parametrize("state", MIXERS)
def test_a_removed_site_is_as_if_it_were_not_there(state):
    """The mixer of a block on kept tokens alone gives what the block gives them in the row."""
    model = build("sparse-matrix", state=state, dtype=torch.float64)
    block = model.model.layers[0]
    hidden = model.model.embed_tokens(tokens(1, 23))
    normed = block.mixer_norm(hidden)
    choice = block.site_gate(normed, None)
    assert 4 < int(choice.keep.sum()) < 19
    kept = choice.keep[0]
    mixed, expected_state, _ = block.mixer(normed[:, kept])
    expected = hidden.clone()
    expected[:, kept] += mixed * choice.weight[:, kept].unsqueeze(-1)
    expected = expected + block.feed_forward(block.feed_forward_norm(expected))
    found = block(hidden)
    assert_close(found.hidden, expected, rtol=1e-10, atol=1e-10)
    assert_close(found.state, expected_state, rtol=1e-10, atol=1e-10)
    # What a block adds teaches the gate.
    bar = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_gate = [
        torch.autograd.grad(y, block.site_gate.weight, bar, retain_graph=True)[0] for y in (found.hidden, expected)
    ]
    assert_close(*of_gate, rtol=1e-9, atol=1e-9)
