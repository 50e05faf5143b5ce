"""Queries and keys of unit length: the kernels against plain PyTorch, and what both promise."""

import os
from math import prod

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.ops import dispatch, unit_query_key
from resnet_bk.ops.sizes import TASK_TOKENS as TOKENS
from resnet_bk.ops.unit_query_key import library, unit_length
from resnet_bk.ops.unit_query_key.sizes import EPSILON
from tests.ops.threads import assert_threads_change_nothing

run = unit_query_key.unit_query_key
# Results are of size 1, of sums over 33 numbers at most: a few roundings of the precision in which they are computed.
WIDE = {torch.float64: torch.float64, torch.float32: torch.float32, torch.bfloat16: torch.float32}
TOLERANCE = {dtype: 16 * torch.finfo(wide).eps for dtype, wide in WIDE.items()}
each_bias = pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])


def drawn(shape=(2, 9, 2, 3, 5), dtype=torch.float64, *, biased=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bias = torch.randn(prod(shape[2:]), generator=generator)
    return x.requires_grad_(), bias.to(wide).requires_grad_() if biased else None


def definition(x, bias):
    both = x / (x.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    if bias is not None:
        both = both + bias.view(x.shape[2:])
        both = both / (both.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    return both.unbind(2)


def gradients(outputs, leaves):
    generator = torch.Generator().manual_seed(1)
    bars = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, [x for x in leaves if x is not None], bars)


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", request.param == "compiled")


@pytest.mark.kernels
@each_bias
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("keys", [1, 7, 16, 33])
@pytest.mark.usefixtures("way")
def test_definition(dtype, keys, biased):
    leaves = drawn((2, 9, 2, 3, keys), dtype, biased=biased)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in leaves]
    outputs, expected = run(*leaves), definition(*exact)
    for y, z in zip(outputs, expected, strict=True):
        assert y.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert y.is_contiguous() or not dispatch._HAS_NUMBA
        assert_close(y.double(), z, rtol=0, atol=TOLERANCE[dtype])
    shortest = float(exact[0].detach().norm(dim=-1).min())
    for g, h, x in zip(gradients(outputs, leaves), gradients(expected, exact), leaves, strict=False):
        assert g.dtype == x.dtype
        # Cotangents over lengths, without what makes x longer, which of a single number leaves next to nothing.
        size = max(float(h.abs().max()), 1 / shortest)
        rounded = 2**-8 if x.dtype == torch.bfloat16 else 0.0
        assert_close(g.double(), h, rtol=0, atol=(rounded + TOLERANCE[dtype]) * size)


@pytest.mark.kernels
@pytest.mark.parametrize("tokens", [TOKENS, TOKENS + 1, 2 * TOKENS + 5])
@pytest.mark.usefixtures("way")
def test_gradients_of_several_tasks(tokens):
    """That of the bias is summed over all of them."""
    leaves = drawn((1, tokens, 2, 3, 5))
    exact = [x.detach().clone().requires_grad_() for x in leaves]
    outputs, expected = run(*leaves), definition(*exact)
    found, right = gradients(outputs, leaves), gradients(expected, exact)
    for y, z in (*zip(outputs, expected, strict=True), *zip(found, right, strict=True)):
        assert_close(y, z, rtol=1e-10, atol=1e-10)


@pytest.mark.kernels
@each_bias
@pytest.mark.usefixtures("way")
def test_gradcheck(biased):
    x, bias = drawn((1, 3, 2, 2, 3), biased=biased)
    assert torch.autograd.gradcheck(lambda *leaves: run(*leaves, *([] if biased else [None])), [x] + [bias] * biased)


PARTS = {
    "part": lambda part: part,
    "transposed": lambda part: part.transpose(0, 1),
    "every other token": lambda part: part[:, ::2],
    "flipped": lambda part: part.flip(-1),
    "inside out": lambda part: part.mT.contiguous().mT,
    "one token": lambda part: part[:, :1],
    "one row": lambda part: part[:1],
    "one token expanded": lambda part: part[:, :1].expand(2, 9, 2, 3, 5),
    "no rows": lambda part: part[:0],
    "no tokens": lambda part: part[:, :0],
}


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("of", PARTS)
def test_parts_of_a_wider_tensor(of, dtype):
    """As a mixer has them, beside its values, and in an order that is not that of the memory."""
    wide = torch.randn(2, 9, 40, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    exact, (_, bias) = wide.detach().double().requires_grad_(), drawn(dtype=dtype)
    outputs = run(PARTS[of](wide[..., 3:33].unflatten(-1, (2, 3, 5))), bias)
    expected = definition(PARTS[of](exact[..., 3:33].unflatten(-1, (2, 3, 5))), bias.double())
    for y, z in zip(outputs, expected, strict=True):
        assert_close(y.double(), z, rtol=0, atol=TOLERANCE[dtype])
    bars = [torch.randn(z.shape, dtype=torch.float64) for z in expected]
    (found,) = torch.autograd.grad(outputs, wide, [bar.to(y.dtype) for bar, y in zip(bars, outputs, strict=True)])
    (right,) = torch.autograd.grad(expected, exact, bars)
    # In bfloat16 of up to 9 numbers that are rounded, and summed in it, where a token is there so many times.
    rounded = 2**-6 if dtype == torch.bfloat16 else 0.0
    assert_close(found.double(), right, rtol=0, atol=(rounded + TOLERANCE[dtype]) * float(right.abs().max()))


@pytest.mark.kernels
@pytest.mark.usefixtures("way")
def test_zero_stays_zero_and_large_numbers_fit():
    zero, large = torch.zeros(1, 1, 2, 1, 5), torch.full((1, 1, 2, 1, 5), 1e15)
    assert all(torch.equal(y, torch.zeros(1, 1, 1, 5)) for y in run(zero, None))
    assert all(torch.allclose(y, torch.full((1, 1, 1, 5), 5**-0.5)) for y in run(large, None))


@pytest.mark.kernels
@pytest.mark.usefixtures("way")
def test_a_bias_that_nearly_cancels_keeps_its_digits():
    """What is left of u + c is a thousandth of either."""
    x = torch.randn(1, 4, 2, 1, 16, generator=torch.Generator().manual_seed(0))
    unit = unit_length(x[0, 0])
    bias = (-unit + 1e-3 * unit.roll(1, -1)).flatten()
    expected = definition(x[:, :1].double(), bias.double())
    for y, z in zip(run(x[:, :1], bias), expected, strict=True):
        assert_close(y.double(), z, rtol=0, atol=2e-4)  # u and c are rounded to 6e-8, and a thousandth of them is left


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_do_not_change_a_bit():
    leaves = drawn((3, TOKENS, 2, 2, 5), torch.float32)

    def compute():
        outputs = run(*leaves)
        return *outputs, *gradients(outputs, leaves)

    assert_threads_change_nothing(compute)


@each_bias
def test_registration(biased):
    x, bias = drawn(biased=biased)
    beside = torch.empty(0, dtype=x.dtype) if bias is None else bias.detach().view(x.shape[2:]).requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    torch.library.opcheck(library.unit_query_key, (x, beside), test_utils=tests)
    bars = [torch.randn(2, 9, 3, 5, dtype=torch.float64) for _ in range(2)]
    torch.library.opcheck(library.unit_query_key_backward, (*bars, x.detach(), beside.detach()), test_utils=tests[:2])


def test_derivatives_of_the_second_order_raise_and_those_forward_are_right_or_raise():
    x, bias = drawn()
    (first,) = torch.autograd.grad(run(x, bias)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
    inputs, tangent = x.detach(), torch.randn_like(x)
    _, expected = torch.func.jvp(lambda x: definition(x, bias.detach())[0], (inputs,), (tangent,))
    with torch.no_grad():
        _, found = torch.func.jvp(lambda x: run(x, bias.detach())[0], (inputs,), (tangent,))
    assert_close(found, expected)
    with pytest.raises(RuntimeError, match=r"autograd\.Function"):
        torch.func.jvp(lambda x: run(x, bias.detach())[0], (inputs,), (tangent,))


def test_half_precision_is_computed_in_float32():
    x, _ = drawn(dtype=torch.float16, biased=False)
    for y, z in zip(run(x, None), run(x.float(), None), strict=True):
        assert y.dtype == torch.float32
        assert torch.equal(y, z)
