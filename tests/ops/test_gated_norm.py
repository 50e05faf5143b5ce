"""The norm with a gate: the kernels against plain PyTorch, and what both promise."""

import os

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.ops import dispatch, gated_norm
from resnet_bk.ops.gated_norm import library
from resnet_bk.ops.sizes import TASK_TOKENS as TOKENS
from tests.ops.threads import assert_threads_change_nothing

EPS = 1e-5
# Of the inputs y and g, and the result.
PRECISIONS = [
    (torch.float64, torch.float64, torch.float64),
    (torch.float32, torch.float32, torch.float32),
    (torch.float32, torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.bfloat16, torch.float32),
    (torch.float32, torch.float16, torch.float16),
]
each_precision = pytest.mark.parametrize("precisions", PRECISIONS, ids=lambda x: ",".join(map(str, x)))
each_gate = pytest.mark.parametrize("gated", [False, True], ids=["no gate", "gate"])


def drawn(precisions, values=5, *, gated=True):
    generator = torch.Generator().manual_seed(values)
    y, gate = (torch.randn(2, 9, 3 * values, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(values, generator=generator, dtype=torch.float64)
    leaves = [y.unflatten(-1, (3, values)).to(precisions[0]), weight.to(precisions[0])]
    return [x.requires_grad_() for x in (*leaves, *([gate.to(precisions[1])] if gated else []))]


def run(y, weight, gate=None, *, dtype):
    return gated_norm.gated_norm(y, weight, gate, eps=EPS, dtype=dtype)


def definition(y, weight, gate=None):
    normed = (weight * y / (y.square().mean(-1, keepdim=True) + EPS).sqrt()).flatten(-2)
    return normed if gate is None else normed * (1 + gate)


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", request.param == "compiled")


@pytest.mark.kernels
@each_gate
@each_precision
@pytest.mark.parametrize("values", [1, 7, 16, 33])
@pytest.mark.usefixtures("way")
def test_definition(values, precisions, gated):
    leaves = drawn(precisions, values, gated=gated)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    output, expected = run(*leaves, dtype=precisions[2]), definition(*exact)
    assert (output.dtype, output.shape) == (precisions[2], (2, 9, 3 * values))
    own = 8 * torch.finfo(precisions[0]).eps  # of sums
    assert_close(output.double(), expected, rtol=torch.finfo(precisions[2]).eps + own, atol=10 * own)
    bar = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(precisions[2])
    found, right = torch.autograd.grad(output, leaves, bar), torch.autograd.grad(expected, exact, bar.double())
    for g, h, x in zip(found, right, leaves, strict=True):
        assert g.dtype == x.dtype
        rounded = torch.finfo(x.dtype).eps if x.dtype != precisions[0] else 0.0
        assert_close(g.double(), h, rtol=rounded, atol=10 * own * float(h.abs().max()))


@pytest.mark.kernels
@pytest.mark.parametrize("tokens", [TOKENS, TOKENS + 1, 2 * TOKENS + 5])
@pytest.mark.usefixtures("way")
def test_gradients_of_several_tasks(tokens):
    """That of the weight is summed over all of them."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((tokens, 2, 5), (5,), (tokens, 10))
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    bar = torch.randn(tokens, 10, generator=generator, dtype=torch.float64)
    output, expected = run(*leaves, dtype=torch.float64), definition(*leaves)
    found, right = torch.autograd.grad(output, leaves, bar), torch.autograd.grad(expected, leaves, bar)
    for y, z in ((output, expected), *zip(found, right, strict=True)):
        assert_close(y, z, rtol=1e-10, atol=1e-10)


@pytest.mark.kernels
@each_gate
@pytest.mark.usefixtures("way")
def test_gradcheck(gated):
    leaves = drawn(PRECISIONS[0], 3, gated=gated)
    assert torch.autograd.gradcheck(lambda *x: run(*x, dtype=torch.float64), leaves)


@pytest.mark.usefixtures("way")
def test_a_gate_in_bfloat16_is_not_rounded_again():
    """1 + g with g = 2^-9 is 1 in bfloat16."""
    y, gate = torch.ones(1, 1, 1, 4), torch.full((1, 1, 4), 2.0**-9).bfloat16()
    output = run(y, torch.ones(4), gate, dtype=torch.float32)
    assert_close(output, torch.full((1, 1, 4), (1 + 2.0**-9) / (1 + EPS) ** 0.5))


@pytest.mark.usefixtures("way")
def test_autocast_rounds_nothing_within():
    leaves = drawn(PRECISIONS[1])
    expected = run(*leaves, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(*leaves, dtype=torch.float32), expected)


@pytest.mark.usefixtures("way")
def test_tokens_in_one_dimension_or_none():
    """Those that read, where others have halted."""
    y, weight, gate = (x.detach() for x in drawn(PRECISIONS[0]))
    for rows in (y.flatten(0, 1), y.flatten(0, 1)[:0]):
        gates = gate.flatten(0, 1)[: len(rows)]
        assert_close(run(rows, weight, gates, dtype=torch.float64), definition(rows, weight, gates))


@pytest.mark.usefixtures("way")
def test_layouts_and_cotangents():
    """Strided inputs, a cotangent of stride 0, and inputs that need no gradient."""
    y, weight, gate = drawn(PRECISIONS[0])
    strided = [y, weight, gate]
    strided[::2] = (x.detach().mT.contiguous().mT.requires_grad_() for x in (y, gate))
    assert not any(x.is_contiguous() for x in (strided[0], strided[2]))
    found = torch.autograd.grad(run(*strided, dtype=torch.float64).sum(), strided)
    for g, h in zip(found, torch.autograd.grad(definition(y, weight, gate).sum(), (y, weight, gate)), strict=True):
        assert_close(g, h)
    (alone,) = torch.autograd.grad(run(y.detach(), weight.detach(), gate, dtype=torch.float64).sum(), gate)
    assert_close(alone, found[2])


def test_derivatives_of_the_second_order_raise_and_those_forward_are_right():
    y, weight, gate = drawn(PRECISIONS[0])
    (first,) = torch.autograd.grad(run(y, weight, gate, dtype=torch.float64).square().sum(), y, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
    inputs = tuple(x.detach() for x in (y, weight, gate))
    tangents = tuple(torch.randn_like(x) for x in inputs)
    _, expected = torch.func.jvp(definition, inputs, tangents)
    _, found = torch.func.jvp(lambda *x: run(*x, dtype=torch.float64), inputs, tangents)
    assert_close(found, expected)


def test_what_does_not_fit():
    y, weight, gate = (x.detach() for x in drawn(PRECISIONS[0]))
    with pytest.raises(ValueError, match=r"y must be float32 or float64, but is torch\.bfloat16"):
        run(y.bfloat16(), weight, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"y must be \[\.\.\., H, V\], but is \(5,\); a single head needs \[None\]"):
        run(weight.double(), weight, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"weight must have the 5 numbers of a head of y, but has \(4,\); pass one"):
        run(y, weight[:4], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"gate must be \[\.\.\., H V\] for y .*; gate\.flatten\(-2\) lays"):
        run(y, weight, gate[..., :4], dtype=torch.float64)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_do_not_change_a_bit():
    y, weight = torch.randn(3 * TOKENS, 2, 5, requires_grad=True), torch.rand(5, requires_grad=True)
    gate, bar = torch.randn(3 * TOKENS, 10, requires_grad=True), torch.randn(3 * TOKENS, 10)

    def compute():
        output = run(y, weight, gate, dtype=torch.float32)
        return output, *torch.autograd.grad(output, (y, weight, gate), bar)

    assert_threads_change_nothing(compute)


@each_gate
def test_registration(gated):
    y, weight, *gate = drawn(PRECISIONS[0], gated=gated)
    beside = gate[0].detach().view(y.shape).requires_grad_() if gated else y.new_empty(0)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    torch.library.opcheck(library.gated_norm, (y, weight, beside, EPS, torch.float64), test_utils=tests)
    inputs = (torch.randn_like(y), y.detach(), weight.detach(), beside.detach(), EPS)
    torch.library.opcheck(library.gated_norm_backward, inputs, test_utils=tests[:2])
