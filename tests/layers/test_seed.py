"""Layers of the earlier system: its experts against a loop over tokens, its chain against a dense inverse."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import find_boundaries
from resnet_bk.layers.chain import Chain
from resnet_bk.layers.seed_block import SeedChain, seed_green
from resnet_bk.layers.seed_moe import SeedMoE

GREENS = ("two_sided", "surface")


def experts(dtype=torch.float32, number=5):
    torch.manual_seed(0)
    moe = SeedMoE(16, 24, number)
    moe.reset_parameters(0.3)
    for parameter in (moe.gate.weight, moe.gate.bias, moe.up_bias, moe.down_bias):
        torch.nn.init.normal_(parameter, std=0.5)
    return moe.to(dtype)


def definition(moe, hidden):
    """Every token through its expert, one at a time."""
    output = torch.zeros_like(hidden)
    for row, tokens in enumerate(hidden):
        for t, token in enumerate(tokens):
            probabilities = (moe.gate.weight @ token + moe.gate.bias).softmax(-1)
            e = int(probabilities.argmax())
            inner = (token @ moe.up_proj[e] + moe.up_bias[e]).relu()
            output[row, t] = probabilities[e] * (inner @ moe.down_proj[e] + moe.down_bias[e])
    return output


@pytest.mark.parametrize("shape", [(3, 7), (1, 1)])
def test_experts_are_their_definition(shape):
    hidden = torch.randn(*shape, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = definition(experts(torch.float64), hidden)
    assert_close(experts(torch.float64)(hidden), expected, rtol=1e-12, atol=1e-12)
    # The grouped matmul sums 16 to 24 products of order 1 in float32.
    assert_close(experts()(hidden.float()), expected.float(), rtol=1e-4, atol=1e-5)


def test_gradients_of_experts():
    moe = experts(torch.float64, number=3)
    hidden = torch.randn(1, 4, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moe, (hidden,))
    single = experts(number=3)
    for layer, x in ((moe, hidden), (single, hidden.float())):
        layer(x).square().sum().backward()
    for (name, expected), (_, found) in zip(moe.named_parameters(), single.named_parameters(), strict=True):
        assert torch.count_nonzero(expected.grad) > 0, name
        # Sums of a few products in float32.
        assert_close(found.grad.double(), expected.grad, rtol=1e-3, atol=1e-4 * expected.grad.abs().max().item())


def test_the_choice_of_an_expert_stays_in_float32():
    moe, hidden = experts(), torch.randn(4, 200, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # what is put out is the number of the expert, times its probability, in every place
        for weight in (moe.up_proj, moe.up_bias, moe.down_proj):
            weight.zero_()
        moe.down_bias.copy_(2.0 ** torch.arange(5).unsqueeze(1).expand_as(moe.down_bias))
    expected = moe(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = moe(hidden)
    assert torch.equal(found, expected.to(found.dtype))


def sites(length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(2, length, 1, dtype=torch.float64).uniform_(-3, 3, generator=generator)


def chain_of(v, boundaries=None):
    """The chain that potentials v within the clamp make."""
    layer = SeedChain(1, 3.0).double()
    torch.nn.init.ones_(layer.proj.weight)
    torch.nn.init.zeros_(layer.proj.bias)
    return layer(v, boundaries)


def resolvent(v):
    """(H0 + diag(v) - i)^-1 with H0 = tridiag(1, -2, 1), v [T]."""
    ones = torch.ones(len(v) - 1, dtype=v.dtype)
    h = torch.diag(v - 2) + torch.diag(ones, 1) + torch.diag(ones, -1)
    return torch.linalg.inv(h.to(torch.complex128) - 1j * torch.eye(len(v)))


def dense_green(v, green):
    """[B, T, 1] from dense inverses, of the whole chain or of each of its beginnings."""
    rows = []
    for row in v.squeeze(-1):
        if green == "two_sided":
            rows.append(resolvent(row).diagonal())
        else:
            rows.append(torch.stack([resolvent(row[: t + 1])[t, t] for t in range(len(row))]))
    return torch.stack(rows).unsqueeze(-1)


@pytest.mark.parametrize("green", GREENS)
@pytest.mark.parametrize("gradient", ["exact", "diagonal"])
def test_green_is_that_of_the_dense_operator(green, gradient):
    v = sites()
    found = seed_green(chain_of(v), green=green, gradient=gradient, backend="auto")
    # Inverses of 9 x 9 matrices with condition numbers below 10, in float64.
    assert_close(found, dense_green(v, green), rtol=1e-12, atol=1e-12)
    assert found.abs().max() <= 1
    single = seed_green(Chain(*(part.float() for part in chain_of(v))), green=green, gradient=gradient, backend="auto")
    assert single.dtype == torch.complex64
    assert_close(single.to(found.dtype), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("green", GREENS)
def test_exact_gradient(green):
    v = sites(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: seed_green(chain_of(v), green=green, gradient="exact", backend="auto"), v)


@pytest.mark.parametrize("green", GREENS)
def test_published_gradient_is_the_diagonal_of_the_exact_one(green):
    v = sites(6)

    def jacobian(gradient):
        def function(v):
            return torch.view_as_real(seed_green(chain_of(v), green=green, gradient=gradient, backend="auto"))

        full = torch.autograd.functional.jacobian(function, v)[:, :, 0, :, :, :, 0]  # [B, T, 2, B, T]
        return torch.stack([full[row, :, :, row] for row in range(2)])  # [B, T, 2, T]

    exact, published = jacobian("exact"), jacobian("diagonal")
    value = seed_green(chain_of(v), green=green, gradient="exact", backend="auto").squeeze(-1)
    expected = torch.diag_embed(torch.view_as_real(-value * value).transpose(1, 2)).transpose(1, 2)
    assert_close(published, expected, rtol=1e-12, atol=1e-12)
    assert_close(exact.diagonal(dim1=1, dim2=3), expected.diagonal(dim1=1, dim2=3), rtol=1e-10, atol=1e-10)
    # What was left out is not small.
    assert (exact - published).abs().max() > 0.1


def test_both_gradients_have_one_value():
    chain = Chain(*(part.float() for part in chain_of(sites(40))))
    for green in GREENS:
        exact, published = (seed_green(chain, green=green, gradient=g, backend="auto") for g in ("exact", "diagonal"))
        assert torch.equal(exact, published)


def test_potential_is_clamped():
    layer = SeedChain(1, 3.0)
    torch.nn.init.ones_(layer.proj.weight)
    torch.nn.init.zeros_(layer.proj.bias)
    hidden = torch.tensor([-50.0, -3.5, -2.0, 0.0, 2.0, 3.5, 50.0])[None, :, None].requires_grad_()
    chain = layer(hidden, None)
    assert chain.potential.flatten().tolist() == [-5.0, -5.0, -4.0, -2.0, 0.0, 1.0, 1.0]
    assert (chain.hopping == 1).all()
    assert (chain.absorption == 1).all()
    chain.potential.sum().backward()
    assert hidden.grad.flatten().tolist() == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("green", GREENS)
def test_cut_chains_are_separate_chains(green):
    v = sites(9)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0, 0], [1] * 9])
    found = seed_green(
        chain_of(v, find_boundaries(mask, None, shape=(2, 9))), green=green, gradient="exact", backend="auto"
    )
    assert_close(found[:1, 2:6], dense_green(v[:1, 2:6], green), rtol=1e-12, atol=1e-12)
    assert_close(found[1:], dense_green(v[1:], green), rtol=1e-12, atol=1e-12)
    documents = torch.tensor([[4] * 3 + [0] * 6] * 2)
    found = seed_green(
        chain_of(v, find_boundaries(None, documents, shape=(2, 9))), green=green, gradient="exact", backend="auto"
    )
    pieces = [dense_green(piece, green) for piece in v.split([3, 6], dim=1)]
    assert_close(found, torch.cat(pieces, 1), rtol=1e-12, atol=1e-12)
