"""Squares of matrix products on NumPy arrays, for runs without compilation; see `compiled_squares.py`."""

import numpy as np

from resnet_bk.ops.simd.uncompiled_tiles import add_products
from resnet_bk.ops.sizes import SQUARE


def squares_open() -> None:
    pass


def squares_close() -> None:
    pass


def _squares(onto: bool):  # type: ignore[no-untyped-def]
    def squares(out, io, so, left, il, sl, right, ir, sr, depth) -> None:  # type: ignore[no-untyped-def]
        places = io + so * np.arange(SQUARE)[:, None] + np.arange(SQUARE)
        total = out[places] if onto else np.zeros(places.shape, out.dtype)
        out[places] = add_products(total, left, il, sl, 1, right, ir, sr, depth)

    return squares


squares_zero = _squares(onto=False)
squares_onto = _squares(onto=True)
