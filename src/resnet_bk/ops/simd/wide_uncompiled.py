"""The operations of `wide` on NumPy arrays, for runs without compilation (NUMBA_DISABLE_JIT=1)."""

import numpy as np
from numpy.typing import NDArray

from resnet_bk.ops.sizes import VECTOR_BYTES

Floats = NDArray[np.floating]
LANES = VECTOR_BYTES // 8


def scratch(size: int) -> NDArray[np.float64]:
    return np.empty(size)


def zeros() -> Floats:
    return np.zeros(LANES)


def ones() -> Floats:
    return np.ones(LANES)


def largest(array: Floats) -> float:
    return float(np.finfo(array.dtype).max)


def load(array: Floats, i: int, count: int) -> Floats:
    x = zeros()
    count = min(count, LANES)
    x[:count] = array[i : i + count]
    return x


def store(array: Floats, i: int, count: int, x: Floats) -> None:
    count = min(count, LANES)
    if array.dtype == np.float32:
        x = np.clip(x, -largest(array), largest(array))
    array[i : i + count] = x[:count]


def load_pairs(array: Floats, i: int, count: int) -> tuple[Floats, Floats]:
    return load(array[i::2], 0, count), load(array[i + 1 :: 2], 0, count)


def store_pairs(array: Floats, i: int, count: int, re: Floats, im: Floats) -> None:
    store(array[i::2], 0, count, re)
    store(array[i + 1 :: 2], 0, count, im)


def halves(array: Floats, x: Floats) -> tuple[Floats, Floats]:
    return x[:LANES].astype(float), np.concatenate([x[LANES:].astype(float), zeros()])[:LANES]
