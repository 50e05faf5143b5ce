"""The gradient of the taps of a filter: the kernel and plain PyTorch against the definition."""

import os

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.ops import dispatch, tap_sums
from resnet_bk.ops.tap_sums.cpu import PIECE
from tests.ops.threads import assert_threads_change_nothing

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def definition(grad, x, taps):
    length = grad.shape[1]
    z = x if x.shape[1] > length else torch.nn.functional.pad(x, (0, 0, taps - 1, 0))
    return torch.stack([(grad * z[:, k : k + length]).sum((0, 1)) for k in range(taps)], 1)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("taps", [1, 2, 4, 5, 7])  # four at a time
@pytest.mark.parametrize("with_tail", [False, True])
@pytest.mark.parametrize(("length", "channels"), [(1, 3), (5, 16), (3, 65), (PIECE + 2, 9)])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_definition(compiled, length, channels, with_tail, taps, dtype, monkeypatch):
    """Channels that fill vectors, blocks of them, and neither; a piece of the tokens and a few more."""
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", compiled)
    generator = torch.Generator().manual_seed(channels)
    grad, x = (
        torch.randn(2, length + more, channels, generator=generator, dtype=torch.float64).to(dtype)
        for more in (0, (taps - 1) * with_tail)
    )
    found, expected = tap_sums.tap_sums(grad, x, taps), definition(grad.double(), x.double(), taps)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    # Sums over 2 x 66 products at most, of size 1.
    assert_close(found.double(), expected, rtol=0, atol=100 * torch.finfo(found.dtype).eps)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_do_not_change_a_bit():
    grad, x = torch.randn(3, 70, 200), torch.randn(3, 73, 200)
    assert_threads_change_nothing(lambda: [tap_sums.tap_sums(grad, x, 4)])


def test_layouts_and_precisions_that_differ():
    grad, x = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    expected = tap_sums.tap_sums(grad, x, 4)
    assert_close(tap_sums.tap_sums(grad.mT.contiguous().mT, x.mT.contiguous().mT, 4), expected)
    ones = torch.ones(1, 1, 1).expand(2, 9, 6)
    assert_close(tap_sums.tap_sums(ones, x, 4), definition(ones, x, 4))
    for other in (torch.bfloat16, torch.float16, torch.float64):
        narrow = x.to(other)
        for first, second in ((grad, narrow), (narrow, grad)):
            found = tap_sums.tap_sums(first, second, 4)
            assert found.dtype == torch.promote_types(other, torch.float32)
            assert_close(found.double(), definition(first.double(), second.double(), 4), rtol=0, atol=1e-5)
    assert torch.equal(tap_sums.tap_sums(grad[:0], x[:0], 4), torch.zeros(6, 4))
