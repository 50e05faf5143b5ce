"""Vectors of float64, whatever precision an array has in memory: for recurrences that float32 would not carry.

    LANES                                     numbers in a vector: 8
    scratch(size)                             a new float64 array whose vectors do not straddle cache lines
    zeros(), ones()                           constant vectors
    largest(array)                            the largest number of the array's precision
    load(array, i, count)                     array[i : i + count], zeros behind; a count above LANES means all
    store(array, i, count, x)                 writes the first `count` lanes, rounded to the array's precision
    load_pairs(array, i, count)               real and imaginary parts of `count` complex numbers from array[i] on
    store_pairs(array, i, count, re, im)      the reverse
    halves(array, x)                          a vector of the array's precision as two: its first and its last lanes

Where a number is out of the range of a float32 array, `store` writes the largest float32 of its sign, not an infinity:
the next product with 0 would be NaN.
"""

from typing import TYPE_CHECKING

from numba import config

if TYPE_CHECKING or config.DISABLE_JIT:
    from resnet_bk.ops.simd.wide_uncompiled import (
        LANES,
        halves,
        largest,
        load,
        load_pairs,
        ones,
        scratch,
        store,
        store_pairs,
        zeros,
    )
else:
    from resnet_bk.ops.simd.wide_compiled import (
        LANES,
        halves,
        largest,
        load,
        load_pairs,
        ones,
        scratch,
        store,
        store_pairs,
        zeros,
    )
