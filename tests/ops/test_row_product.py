"""A few vectors times a matrix, row by row."""

import os

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.ops.row_product import library, row_product
from tests.ops.threads import assert_threads_change_nothing

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def drawn(dtype, batch, rows, depth):
    generator = torch.Generator().manual_seed(depth)
    sizes = ((batch, depth), (rows, depth))
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


@pytest.mark.kernels
@each_dtype
@pytest.mark.parametrize(
    ("batch", "rows", "depth"),
    # One task and several, the last of them short; a sum of a part of a vector, of two, and of two and a part.
    [(1, 1, 1), (3, 65, 7), (2, 128, 32), (1, 130, 37)],
)
def test_definition(batch, rows, depth, dtype):
    x, weight = drawn(dtype, batch, rows, depth)
    found = row_product(x, weight)
    assert found.dtype == dtype
    exact = x.double() @ weight.double().t()
    assert_close(found.double(), exact, rtol=0, atol=20 * torch.finfo(dtype).eps * depth**0.5)


def test_strides_and_nothing():
    x, weight = drawn(torch.float64, 3, 9, 5)
    turned = x.t().contiguous().t(), weight.t().contiguous().t()
    assert torch.equal(row_product(*turned), row_product(x, weight))
    assert row_product(x[:0], weight).shape == (0, 9)
    assert row_product(x, weight[:0]).shape == (3, 0)
    assert torch.equal(row_product(x[:, :0], weight[:, :0]), torch.zeros(3, 9, dtype=torch.float64))


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
@each_dtype
def test_threads_do_not_change_a_bit(dtype):
    x, weight = drawn(dtype, 2, 1000, 37)
    assert_threads_change_nothing(lambda: [row_product(x, weight)])


def test_registration():
    x, weight = drawn(torch.float64, 3, 9, 5)
    torch.library.opcheck(library.row_product, (x, weight), test_utils=("test_schema", "test_faketensor"))
    with FlopCounterMode(display=False) as counter:
        row_product(x, weight)
    assert counter.get_total_flops() == 2 * 3 * 9 * 5
