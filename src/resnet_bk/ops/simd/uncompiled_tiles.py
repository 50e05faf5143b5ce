"""Tiles of matrix products on NumPy arrays, for runs without compilation; see `compiled_tiles.py`."""

import numpy as np

from resnet_bk.ops.simd.uncompiled import Array, Floats, lanes, load, store, zeros
from resnet_bk.ops.sizes import TILE_COLUMNS, TILE_ROWS


def add_products(
    total: Floats, left: Array, il: int, row: int, step: int, right: Array, ir: int, sr: int, depth: int
) -> Floats:
    rows, columns = total.shape
    a = left[il + row * np.arange(rows)[:, None] + step * np.arange(depth)]
    b = right[ir + sr * np.arange(depth)[:, None] + np.arange(columns)]
    if left.dtype == np.int32:
        return total + _low(a) @ _low(b) + _high(a) @ _high(b)
    return total + a @ b


def _low(pairs: Array) -> Floats:
    return np.left_shift(pairs, 16).view(np.float32)


def _high(pairs: Array) -> Floats:
    return (pairs & np.int32(-65536)).view(np.float32)


def _tile(start: str, vectors: int):  # type: ignore[no-untyped-def]
    def tile(  # type: ignore[no-untyped-def]
        out, io, so, offsets, ib, left, il, row, step, right, ir, sr, depth
    ) -> None:
        places = io + so * np.arange(TILE_ROWS)[:, None] + np.arange(vectors * lanes(out))
        total = np.zeros(places.shape, out.dtype)
        if start == "out":
            total = out[places]
        elif start == "offsets":
            total = total + offsets[ib : ib + TILE_ROWS, None]
        out[places] = add_products(total, left, il, row, step, right, ir, sr, depth)

    return tile


tile_from = _tile("offsets", TILE_COLUMNS)
tile_from_narrow = _tile("offsets", 1)
tile_zero = _tile("zero", TILE_COLUMNS)
tile_onto = _tile("out", TILE_COLUMNS)
tile_zero_half = _tile("zero", TILE_COLUMNS // 2)
tile_onto_half = _tile("out", TILE_COLUMNS // 2)
tile_zero_narrow = _tile("zero", 1)
tile_onto_narrow = _tile("out", 1)


def transpose(out: Floats, io: int, so: int, array: Floats, i: int, s: int) -> None:
    across = np.arange(lanes(array))
    out[io + so * across[:, None] + across] = array[i + s * across + across[:, None]]


def maximum(x: Floats, y: Floats) -> Floats:
    return np.where(x > y, x, y)


def multiply_add(a: Floats, b: Floats, c: Floats) -> Floats:
    return a * b + c


def sum_lanes(x: Floats) -> np.floating:
    return x.sum()


def exponential(x: Floats) -> Floats:
    return np.exp(np.where(x < -87.0, np.float32(-87.0), x))


def _halves(x: Floats) -> Array:
    """bfloat16 nearest to each float32, ties to even, in the low bits of a uint32."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint32)


def store_joined(array: Array, i: int, low: Floats, high: Floats) -> None:
    array[i : i + low.size] = (_halves(low) | (_halves(high) << 16)).view(np.int32)


def store_halves(array: Array, i: int, x: Floats) -> None:
    store_joined(array, i, x[::2].copy(), x[1::2].copy())


def load_as(array: Array, i: int, count: int, like: Floats) -> Floats:
    if array.dtype != np.int16:
        return load(array, i, count)
    x = zeros(like)
    count = min(count, x.size)
    x[:count] = np.left_shift(array[i : i + count].astype(np.int32), 16).view(np.float32)
    return x


def store_as(array: Array, i: int, count: int, x: Floats) -> None:
    if array.dtype == np.int16:
        x = _halves(x).astype(np.uint16).view(np.int16)
    store(array, i, count, x)


def load_halves(array: Array, i: int, like: Floats) -> Floats:
    pairs = array[i : i + like.size // 2]
    return np.stack([_low(pairs), _high(pairs)], 1).ravel()
