"""The vector operations on NumPy arrays, for runs without compilation (NUMBA_DISABLE_JIT=1): debugging and coverage."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_bk.ops.sizes import VECTOR_BYTES

Floats = NDArray[np.floating]
Array = NDArray[Any]


def lanes(array: Floats) -> int:
    return VECTOR_BYTES // array.itemsize


def scratch(array: Floats, size: int) -> Floats:
    return np.empty(size, array.dtype)


def zeros(array: Floats) -> Floats:
    return np.zeros(lanes(array), array.dtype)


def spread(array: Floats, i: int) -> Floats:
    return np.full(lanes(array), array[i], array.dtype)


def load(array: Floats, i: int, count: int) -> Floats:
    x = zeros(array)
    count = min(count, x.size)
    x[:count] = array[i : i + count]
    return x


def store(array: Floats, i: int, count: int, x: Floats) -> None:
    count = min(count, x.size)
    array[i : i + count] = x[:count]


def load_pairs(array: Floats, i: int, count: int) -> tuple[Floats, Floats]:
    return load(array[i::2], 0, count), load(array[i + 1 :: 2], 0, count)


def store_pairs(array: Floats, i: int, count: int, re: Floats, im: Floats) -> None:
    store(array[i::2], 0, count, re)
    store(array[i + 1 :: 2], 0, count, im)


def row_sums(array: Floats, i: int) -> Floats:
    side = lanes(array)
    return array[i : i + side * side].reshape(side, side).sum(1)
