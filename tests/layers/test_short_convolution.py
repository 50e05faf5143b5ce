"""The short convolution against its definition, tap by tap.

float64 and 1e-12: sums of at most five products of order 1.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.layers import ShortConvolution, find_boundaries
from resnet_bk.layers.causal_filter import causal_filter, tap_gradient
from tests.ops.cases import ALONG_VECTORS

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
CHECKED = 2  # channels, where the time of a check by finite differences grows with their square


def definition(x, weight, document_ids=None):
    """SiLU of the sum over j of weight[:, K - 1 - j] x_{t-j}, j running over tokens of the document of t."""
    batch, length, _ = x.shape
    taps = weight.shape[1]
    y = torch.zeros_like(x)
    for row in range(batch):
        for t in range(length):
            for j in range(min(taps, t + 1)):
                if document_ids is None or len(set(document_ids[row, t - j : t + 1].tolist())) == 1:
                    y[row, t] += weight[:, taps - 1 - j] * x[row, t - j]
    return F.silu(y)


@pytest.fixture(params=[2, 3, 4, 5])
def conv(request):
    torch.manual_seed(0)
    return ShortConvolution(6, request.param).double()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11])
def test_is_its_definition(conv, length):
    x = torch.randn(2, length, 6, dtype=torch.float64)
    y, tail = conv(x, None, None)
    assert_close(y, definition(x, conv.weight), **TOLERANCE)
    taps = conv.kernel_size - 1
    assert_close(tail, F.pad(x, (0, 0, taps, 0))[:, length:], **TOLERANCE)


def test_with_documents(conv):
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    document_ids = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 2, 2], [3, 3, 1, 1, 1, 1, 1, 1, 0]])
    expected = definition(x, conv.weight, document_ids)
    y, tail = conv(x, find_boundaries(None, document_ids, shape=(2, 9)), None)
    assert_close(y, expected, **TOLERANCE)
    # The tail holds nothing of a document that has ended.
    taps = conv.kernel_size - 1
    same = document_ids[:, -taps:] == document_ids[:, -1:]
    assert_close(tail, x[:, -taps:] * same.unsqueeze(-1), **TOLERANCE)
    # In two calls.
    for split in range(1, 9):
        first = find_boundaries(None, document_ids[:, :split], shape=(2, split))
        begin, tail = conv(x[:, :split], first, None)
        second = find_boundaries(
            None,
            document_ids[:, split:],
            shape=(2, 9 - split),
            past_length=split,
            last_document=document_ids[:, split - 1],
        )
        end, _ = conv(x[:, split:], second, tail)
        assert_close(torch.cat([begin, end], dim=1), expected, **TOLERANCE)


def test_in_pieces(conv):
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    whole, last = conv(x, None, None)
    for split in ([4, 5], [1] * 9, [8, 1]):
        tail, pieces = None, []
        for piece in x.split(split, dim=1):
            y, tail = conv(piece, None, tail)
            pieces.append(y)
        assert_close(torch.cat(pieces, dim=1), whole, **TOLERANCE)
        assert_close(tail, last, **TOLERANCE)


def test_padding_enters_as_zero(conv):
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
    y, _ = conv(x, find_boundaries(mask, None, shape=(2, 7)), None)
    assert_close(y[:1, 3:], definition(x[:1, 3:], conv.weight), **TOLERANCE)
    assert_close(y[1:], definition(x[1:], conv.weight), **TOLERANCE)


def test_gradients(conv):
    x = torch.randn(1, 5, 6, dtype=torch.float64, requires_grad=True)
    tail = torch.randn(1, conv.kernel_size - 1, 6, dtype=torch.float64, requires_grad=True)
    document_ids = torch.tensor([[0, 0, 1, 1, 1]])
    boundaries = find_boundaries(None, document_ids, shape=(1, 5), past_length=3, last_document=torch.tensor([0]))
    assert torch.autograd.gradcheck(lambda x, tail: conv(x, None, tail), (x, tail))
    assert torch.autograd.gradcheck(lambda x, tail: conv(x, boundaries, tail), (x, tail))


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("with_tail", [False, True])
@pytest.mark.parametrize("at_once", [None, 0, 2], ids=["compiled", "two rows at once", "two tokens at once"])
def test_gradients_of_input_and_taps(conv, length, with_tail, at_once, monkeypatch):
    """Rows shorter than the filter and longer; gradients of gradients; compiled and in plain PyTorch."""
    if at_once is not None:
        monkeypatch.setattr("resnet_bk.ops.dispatch._HAS_NUMBA", False)
        monkeypatch.setattr("resnet_bk.ops.tap_sums.AT_ONCE", at_once * CHECKED or 2 * length * CHECKED)
    x = torch.randn(3, length, CHECKED, dtype=torch.float64, requires_grad=True)
    before = torch.randn(3, conv.kernel_size - 1, CHECKED, dtype=torch.float64) if with_tail else None
    weight = conv.weight[:CHECKED].detach().requires_grad_()

    def run(x, weight):
        full = x if before is None else torch.cat([before, x], dim=1)
        return causal_filter(full, weight, length=length)

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight), **ALONG_VECTORS)
    full = x if before is None else torch.cat([before, x], dim=1)
    assert_close(F.silu(run(x, weight)), definition(full, weight)[:, -length:], **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("before", [0, 3])
def test_a_single_token_without_a_gradient(dtype, before):
    """In generation it is no convolution, but the same sums: one rounding apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, before + 1, 8, generator=generator).to(dtype)
    weight = torch.randn(8, 4, generator=generator).to(torch.float32 if dtype == torch.bfloat16 else dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = causal_filter(x, weight.requires_grad_(), length=1)
        with torch.no_grad():
            found = causal_filter(x, weight, length=1)
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    precision = torch.finfo(dtype).eps
    assert_close(found, expected.detach(), rtol=2 * precision, atol=8 * precision)


@pytest.mark.parametrize("with_tail", [False, True])
def test_bfloat16_rounds_inputs_and_outputs_alone(with_tail):
    """What is summed over tokens is summed in float32: 4,000 products in bfloat16 would leave two digits."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 4, generator=generator).requires_grad_()
    x = torch.randn(4, 1000 + 3 * with_tail, 8, generator=generator).bfloat16().requires_grad_()
    cotangent = torch.randn(4, 1000, 8, generator=generator).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_filter(x, weight, length=1000)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad(y, (x, weight), cotangent)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight.bfloat16())]
    expected = torch.autograd.grad(causal_filter(*exact, length=1000), exact, cotangent.double())
    assert found[1].dtype == torch.float32
    assert_close(found[1].double(), expected[1], rtol=0, atol=1e-5 * float(expected[1].abs().max()))
    assert_close(found[0].double(), expected[0], rtol=2**-8, atol=2**-8)  # rounded once, sums of four


@pytest.mark.parametrize("with_tail", [False, True])
def test_is_a_sound_operator(with_tail):
    grad, x = (torch.randn(2, 9 + more, 6, requires_grad=True) for more in (0, 3 * with_tail))
    torch.library.opcheck(tap_gradient, (grad, x, 4))


def test_a_backward_pass_under_autocast_rounds_nothing():
    x, weight = torch.randn(2, 9, 6, requires_grad=True), torch.randn(6, 4)
    y, cotangent = causal_filter(x, weight, length=9), torch.randn(2, 9, 6)
    (expected,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(y, x, cotangent)
    assert torch.equal(found, expected)


def test_runs_in_a_graph():
    x, weight = torch.randn(2, 9, 6, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    compiled = torch.compile(filtered, fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(run(x, weight).sin().sum(), (x, weight)) for run in (compiled, filtered)]
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


def filtered(x, weight):
    return causal_filter(x, weight, length=9)


def test_work_of_the_gradient_is_counted():
    x, weight = torch.randn(2, 9, 6), torch.randn(6, 4, requires_grad=True)
    y = causal_filter(x, weight, length=9).sum()
    with FlopCounterMode(display=False) as counter:
        y.backward()
    assert counter.get_total_flops() == 2 * 4 * (2 * 9 * 6)


@pytest.mark.parametrize("taps", [1, 0])
def test_one_tap_is_refused(taps):
    with pytest.raises(ValueError, match=rf"kernel_size={taps}: .* 2 taps or more, .*; leave the convolution out"):
        ShortConvolution(6, taps)


def test_does_not_keep_the_input_alive():
    conv = ShortConvolution(6, 4)
    _, tail = conv(torch.randn(2, 50, 6), None, None)
    assert tail.untyped_storage().nbytes() == 2 * 3 * 6 * 4


@pytest.mark.parametrize("grad", [False, True])
def test_a_tangent_goes_through(grad):
    """Through PyTorch's convolution, for the gradient of our own has no forward-mode derivative."""
    x, tangent = torch.randn(2, 2, 7, 5, dtype=torch.float64)
    weight = torch.randn(5, 3, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        _, found = torch.func.jvp(lambda x: causal_filter(x, weight, length=7), (x,), (tangent,))
    assert_close(found, causal_filter(tangent, weight, length=7), **TOLERANCE)
