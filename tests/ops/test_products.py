"""Products and transposes of small matrices, compiled and on plain arrays."""

import numba
import numpy as np
import pytest

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
    # What lies before the matrix and behind its last row, the fours and the vectors of it, is as it was.
    vectors = -(-columns // uncompiled.lanes(out)) * uncompiled.lanes(out)
    np.testing.assert_array_equal(out[:3], before[:3])
    np.testing.assert_array_equal(out[3 + 7 * 80 + vectors :], before[3 + 7 * 80 + vectors :])


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
