"""Explicit 512-bit vectors for numba kernels; plain arrays stand in for them where numba does not compile.

The compiler's own vectoriser gives up on the sweeps (it cannot prove that the arrays do not overlap), which costs a
factor of seven. The functions here name the vector operations; LLVM splits them where a machine has narrower vectors.

    lanes(array)                              numbers in a vector of the array's dtype: 16 float32 or 8 float64
    scratch(array, size)                      a new array of that dtype whose vectors do not straddle cache lines
    zeros(array), ones(array)                 constant vectors of the array's dtype
    spread(array, i)                          array[i] in every lane
    load(array, i, count)                     array[i : i + count], zeros behind; a count above `lanes` means all
    store(array, i, count, x)                 writes the first `count` lanes
    load_pairs(array, i, count)               real and imaginary parts of `count` complex numbers from array[i] on
    store_pairs(array, i, count, re, im)      the reverse
    row_sums(array, i)                        lane r is the sum of row r of the `lanes` x `lanes` block at array[i]

Arrays are one-dimensional. Vectors know +, - and * (fused to multiply-adds where the machine can) and /.
"""

from typing import TYPE_CHECKING

from numba import config

if TYPE_CHECKING or config.DISABLE_JIT:
    from resnet_bk.ops.simd.uncompiled import (
        lanes,
        load,
        load_pairs,
        ones,
        row_sums,
        scratch,
        spread,
        store,
        store_pairs,
        zeros,
    )
else:
    from resnet_bk.ops.simd.compiled import (
        lanes,
        load,
        load_pairs,
        ones,
        row_sums,
        scratch,
        spread,
        store,
        store_pairs,
        zeros,
    )

__all__ = ["lanes", "load", "load_pairs", "ones", "row_sums", "scratch", "spread", "store", "store_pairs", "zeros"]
