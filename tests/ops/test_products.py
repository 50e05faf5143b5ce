"""Products and transposes of small matrices, and arrays of bfloat16, compiled and on plain arrays."""

import numba
import numpy as np
import pytest
import torch

from resnet_bk.ops import simd
from resnet_bk.ops.simd import uncompiled
from resnet_bk.ops.simd.products import multiply

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@numba.njit
def product(out, left, row, step, right, rows, columns, depth, add):
    multiply(out, 3, 80, left, 5, row, step, right, 7, 80, rows, columns, depth, add)


@pytest.mark.kernels
@DTYPES
@pytest.mark.parametrize("across", [False, True], ids=["rows", "transposed"])
@pytest.mark.parametrize("columns", [1, 16, 17, 40, 48, 64, 70])
def test_products(dtype, columns, across):
    """Columns that fill whole tiles, halves of them, single vectors, and none of these; five rows, in fours."""
    rows, depth, generator = 5, 6, np.random.default_rng(columns)
    left, right, out = (generator.standard_normal(2000).astype(dtype) for _ in range(3))
    row, step = (1, 9) if across else (9, 1)
    a = left[5 + row * np.arange(rows)[:, None] + step * np.arange(depth)].astype(float)
    places = np.arange(rows)[:, None] * 80 + np.arange(columns)
    expected = a @ right[7 + np.arange(depth)[:, None] * 80 + np.arange(columns)]
    before = out.copy()
    for add in (False, True):
        product(out, left, row, step, right, rows, columns, depth, add)
        error = out[3 + places] - (1 + add) * expected
        assert np.abs(error).max() < 100 * np.finfo(dtype).eps
    # Rows in fours and columns in vectors may be written, and nothing else is.
    vectors = -(-columns // uncompiled.lanes(out)) * uncompiled.lanes(out)
    written = np.zeros(out.size, bool)
    written[3 + np.arange(8)[:, None] * 80 + np.arange(vectors)] = True
    np.testing.assert_array_equal(out[~written], before[~written])


@pytest.mark.kernels
def test_a_product_replaces_whatever_was_there():
    left, right, out = np.ones(400, np.float32), np.ones(2000, np.float32), np.full(2000, np.nan, np.float32)
    product(out, left, 9, 1, right, 4, 16, 6, False)
    np.testing.assert_array_equal(out[3 : 3 + 16], 6)


@numba.njit
def turned(out, array):
    simd.transpose(out, 2, 20, array, 5, 18)


@pytest.mark.kernels
@DTYPES
def test_transpose(dtype):
    array, out = np.arange(400).astype(dtype), np.zeros(400, dtype)
    turned(out, array)
    side = np.arange(uncompiled.lanes(array))
    expected = np.zeros_like(out)
    expected[2 + 20 * side[:, None] + side] = array[5 + 18 * side + side[:, None]]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="plain arrays take any dtype")
def test_operands_of_two_precisions_are_refused():
    single, double = np.zeros(2000, np.float32), np.zeros(2000)
    with pytest.raises((TypeError, numba.core.errors.NumbaError), match="a tile takes operands of its own precision"):
        product(single, double, 9, 1, double, 4, 16, 4, False)


@numba.njit
def copied(source, target, like, count):
    simd.store_as(target, 2, count, simd.load_as(source, 3, count, like))


# Ties to even and beside them.
ROUNDED = [1.0, 1.00390625, 1.01171875, 1.005, -1.00390625]
# The largest number and what rounds to an infinity, subnormals, zeros of both signs.
SPECIAL = [np.inf, -np.inf, 3.3895e38, 3.4e38, 1e-40, -1e-45, 0.0, -0.0, np.nan]


@pytest.mark.kernels
@pytest.mark.parametrize("count", [1, 3, 15, 16, 40])
def test_arrays_of_bfloat16(count):
    numbers = torch.tensor([0.0, 0.0, 0.0, *ROUNDED, *SPECIAL, 2.5, -7.1, 1.0], dtype=torch.float32)
    narrow = numbers.bfloat16()
    bits, like = narrow.view(torch.int16).numpy(), np.zeros(1, np.float32)
    n = min(count, 16)
    wide, back = np.zeros(20, np.float32), np.zeros(20, np.int16)
    copied(bits, wide, like, count)  # bfloat16 to float32
    np.testing.assert_array_equal(wide[2 : 2 + n], narrow[3 : 3 + n].float().numpy())
    copied(numbers.numpy(), back, like, count)  # float32 to bfloat16
    found, expected = torch.from_numpy(back[2 : 2 + n].copy()), narrow[3 : 3 + n]
    assert torch.equal(found.view(torch.bfloat16).isnan(), expected.isnan())
    assert torch.equal(found[~expected.isnan()], expected.view(torch.int16)[~expected.isnan()])  # bit for bit
    assert not back[:2].any()
    assert not back[2 + n :].any()


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="plain arrays take any dtype")
def test_bfloat16_beside_float64_is_refused():
    with pytest.raises((TypeError, numba.core.errors.NumbaError), match=r"of bfloat16 \(int16\)"):
        copied(np.zeros(40, np.int16), np.zeros(40), np.zeros(1), 4)
