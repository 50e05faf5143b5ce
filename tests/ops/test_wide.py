"""Float64 vectors over arrays of either precision, compiled and on plain arrays."""

import numba
import numpy as np
import pytest

from resnet_bk.ops import simd
from resnet_bk.ops.propagate import rounding
from resnet_bk.ops.simd import wide, wide_uncompiled

LANES = wide_uncompiled.LANES
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@numba.njit
def exercise(source, target, buffer, count):
    """Every operation once, on both the compiled and the plain functions."""
    x = wide.load(source, 3, count)
    wide.store(target, 0, count, x)
    re, im = wide.load_pairs(source, 5, count)
    wide.store_pairs(target, 40, count, re, im)
    wide.store(buffer, 0, wide.LANES, (x + re) * im - wide.ones() / (wide.ones() + x * x) + wide.zeros())
    own = wide.scratch(16)
    wide.store(own, 8, wide.LANES, x)
    wide.store(target, 100, wide.LANES, wide.load(own, 8, wide.LANES))
    target[120] = wide.largest(target)


@pytest.mark.kernels
@DTYPES
@pytest.mark.parametrize("count", [1, 3, 7, 8, 16])
def test_operations(dtype, count):
    source = np.random.default_rng(0).standard_normal(200).astype(dtype)
    target, buffer = np.zeros(200, dtype), np.zeros(LANES)
    exercise(source, target, buffer, count)
    n = min(count, LANES)
    x, re, im = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    x[:n], re[:n], im[:n] = source[3 : 3 + n], source[5 : 5 + 2 * n : 2], source[6 : 6 + 2 * n : 2]
    expected = np.zeros_like(target)
    expected[:n], expected[40 : 40 + 2 * n], expected[100 : 100 + LANES] = x[:n], source[5 : 5 + 2 * n], x
    expected[120] = np.finfo(dtype).max
    np.testing.assert_array_equal(target, expected)
    # Float64 arithmetic whatever the array holds; products and sums may be fused.
    np.testing.assert_allclose(buffer, (x + re) * im - 1 / (1 + x * x), rtol=0, atol=8 * np.finfo(float).eps)


@numba.njit
def split(source, low, high):
    first, second = wide.halves(source, simd.load(source, 0, 16))
    wide.store(low, 0, wide.LANES, first)
    wide.store(high, 0, wide.LANES, second)


@pytest.mark.kernels
@DTYPES
def test_halves(dtype):
    source, low, high = np.arange(1, 17).astype(dtype), np.zeros(LANES), np.zeros(LANES)
    split(source, low, high)
    np.testing.assert_array_equal(low, np.arange(1, 9))
    np.testing.assert_array_equal(high, np.arange(9, 17) if dtype == np.float32 else np.zeros(LANES))


@numba.njit
def copy(source, target, pairs):
    x = wide.load(source, 0, wide.LANES)
    wide.store(target, 0, wide.LANES, x)
    wide.store_pairs(pairs, 0, wide.LANES, x, x)


@pytest.mark.kernels
def test_float32_saturates():
    largest = float(np.finfo(np.float32).max)
    source = np.array([1e300, -1e300, largest, -0.0, np.nan, np.inf, 1e-300, 2.0])
    target, pairs = np.zeros(LANES, np.float32), np.zeros(2 * LANES, np.float32)
    with np.errstate(all="ignore"):
        copy(source, target, pairs)
    expected = np.array([largest, -largest, largest, -0.0, np.nan, largest, 0, 2], np.float32)
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(pairs, expected.repeat(2))


@pytest.mark.kernels
def test_float64_is_stored_as_it_is():
    source = np.array([np.inf, -np.inf, np.nan, 1e300, 0, 1, 2, 3])
    target, pairs = np.zeros(LANES), np.zeros(2 * LANES)
    copy(source, target, pairs)
    np.testing.assert_array_equal(target, source)
    np.testing.assert_array_equal(pairs, source.repeat(2))


@pytest.mark.parametrize("number", [0.9 * np.exp(0.7j), 1e-30 + 1e-33j, 1j * (1 - 5e-4)])
def test_shares_keep_products_of_rounded_numbers_exact(number):
    """2000 equal factors: rounded one by one the product would be off by up to 2000 eps / 2 = 1e-4."""
    f, kept, eps = 0j, 1.0 + 0j, float(np.finfo(np.float32).eps)
    for n in range(1, 2001):
        z = complex(*rounding.with_share(number.real, number.imag, f.real, f.imag))
        rounded = complex(np.complex64(z))
        f = complex(*rounding.share(z.real, z.imag, rounded.real, rounded.imag))
        kept *= rounded / number
        assert abs(kept * (1 + f) - 1) < n * eps**2, n  # to first order in f at every site
        assert abs(kept - 1) < eps


def test_no_share_of_what_rounding_left_nothing_of():
    with np.errstate(all="ignore"):
        assert rounding.share(np.float64(0), np.float64(0), 0.0, 0.0) == (0, 0)
        assert rounding.share(np.float64(1e-50), np.float64(0), 0.0, 0.0) == (0, 0)


def test_within():
    assert [rounding.within(x, 2.0) for x in (3.0, -3.0, 1.0, float("inf"))] == [2, -2, 1, 2]
    assert np.isnan(rounding.within(float("nan"), 2.0))
