"""The chain that a mixer projects: its start, its ranges and its precision."""

import math

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import ChainProjection, find_boundaries


def build(chains=16, **overrides):
    torch.manual_seed(0)
    options = {
        "potential_init": (-1.2, 1.2),
        "absorption_min": 1e-3,
        "absorption_init": (0.02, 1.0),
        "hopping_init": 1.0,
    }
    return ChainProjection(8, chains, **{**options, **overrides})


@pytest.mark.parametrize("chains", [1, 2, 4, 64])
@pytest.mark.parametrize("hopping", [0.5, 1.0, 3.0])
def test_starts_as_documented(chains, hopping):
    chain = build(chains, hopping_init=hopping)
    # 1e-5: float32 biases through softplus and its inverse.
    potential, b, absorption = (part[0, 0] for part in chain(torch.zeros(1, 1, 8), None))
    assert_close(b, torch.full((chains,), hopping), rtol=1e-5, atol=0)
    assert ((absorption >= 0.02 * (1 - 1e-5)) & (absorption <= 1 + 1e-5)).all()
    assert_close(potential, -potential.flip(0), rtol=1e-5, atol=1e-6)
    assert potential[0].item() == pytest.approx(-2.4 * hopping if chains > 1 else 0, rel=1e-5, abs=1e-6)
    if chains == 64:
        inside = (potential.abs() < 2 * b).float().mean().item()
        assert 0.75 < inside < 0.9
        # Log-uniform: about as many in each of four equal parts of the logarithm, and not in the order of the energies.
        place = (absorption.log() - math.log(0.02)) / (math.log(1.0) - math.log(0.02))
        assert torch.histc(place, 4, 0, 1).tolist() == pytest.approx([16] * 4, abs=2)
        assert abs(torch.corrcoef(torch.stack([potential, place]))[0, 1]) < 0.15


def test_a_gain_bends_all_but_the_average():
    hidden = torch.randn(2, 5, 8)
    one, three, none = (build(4, site_gain=gain).project(hidden) for gain in (1.0, 3.0, 0.0))
    assert_close(three - none, 3 * (one - none), rtol=1e-4, atol=1e-6)
    assert_close(none, build(4).initial_bias().expand_as(none), rtol=0, atol=0)


def test_range_and_precision():
    chain = build()
    hidden = 1e6 * torch.randn(3, 5, 8)
    for dtype in (torch.float32, torch.bfloat16):
        potential, hopping, absorption = chain(hidden.to(dtype), None)
        for part in (potential, hopping, absorption):
            assert part.dtype == torch.float32
            assert torch.isfinite(part).all()
        assert (hopping >= 0).all()
        assert (absorption >= 1e-3).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = chain(hidden, None)
    for part, expected in zip(inside, chain(hidden, None), strict=True):
        assert torch.equal(part, expected)
    assert chain(hidden.double(), None).potential.dtype == torch.float64


@pytest.mark.parametrize("absorption", [(1e-3, 1.0), (0.5, 0.1)])
def test_absorptions_that_the_floor_does_not_let_be(absorption):
    told = rf"^absorption_init=\({absorption[0]}, {absorption[1]}\) must be low and high, both above .*=0.001; for"
    with pytest.raises(ValueError, match=told):
        build(absorption_init=absorption)


def test_starts_that_no_chain_has():
    with pytest.raises(ValueError, match=r"^hopping_init=-1 must be above 0, for softplus is; 1 sets the unit"):
        build(hopping_init=-1)
    with pytest.raises(ValueError, match=r"^induction_heads=17 must be from 0 to 16, the number of chains; lower it"):
        build(induction_heads=17)


def test_cuts():
    chain = build()
    boundaries = find_boundaries(None, torch.tensor([[0, 0, 1]]), shape=(1, 3))
    hopping = chain(torch.randn(1, 3, 8), boundaries).hopping
    assert (hopping[:, 2] == 0).all()
    assert (hopping[:, :2] > 0).all()


def test_gradients():
    chain = build(3).double()
    hidden = torch.randn(1, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda hidden: chain(hidden, None), (hidden,))
