"""Explicit 512-bit vectors for numba kernels; plain arrays stand in for them where numba does not compile.

The compiler's own vectoriser gives up on the sweeps (it cannot prove that the arrays do not overlap), which costs a
factor of seven. The functions here name the vector operations; LLVM splits them where a machine has narrower vectors.

    lanes(array)                              numbers in a vector of the array's dtype: 16 float32 or 8 float64
    scratch(array, size)                      a new array of that dtype whose vectors do not straddle cache lines
    zeros(array)                              a vector of them, of the array's dtype
    spread(array, i)                          array[i] in every lane
    load(array, i, count)                     array[i : i + count], zeros behind; a count above `lanes` means all
    store(array, i, count, x)                 writes the first `count` lanes
    load_pairs(array, i, count)               real and imaginary parts of `count` complex numbers from array[i] on
    store_pairs(array, i, count, re, im)      the reverse
    row_sums(array, i)                        lane r is the sum of row r of the `lanes` x `lanes` block at array[i]
    sum_lanes(x)                              the sum of the lanes, a number
    multiply_add(x, y, z)                     x y + z, fused where the machine can, whatever z is made of
    maximum(x, y)                             lane by lane; y where x is NaN
    exponential(x)                            e^x for x <= 0, relative error 2e-7; e^-87 below -87
    transpose(out, io, so, array, i, s)       out[io + n so + m] = array[i + m s + n] for m, n < lanes(array)

    load_as(array, i, count, like)            as `load`, where `array` may hold bfloat16 (int16) beside a float32 `like`
    store_as(array, i, count, x)              as `store`, where `array` may hold bfloat16 (int16), which x is rounded to

Arrays are one-dimensional. Vectors know +, - and * (fused to multiply-adds where the machine can) and /.

Tiles of matrix products, TILE_ROWS rows by TILE_COLUMNS vectors, summed in registers:

    tile_from(out, io, so, offsets, ib, left, il, row, step, right, ir, sr, depth)

        out[io + m so + n] = offsets[ib + m] + sum_{k < depth} left[il + m row + k step] right[ir + k sr + n]

    tile_zero, tile_onto                      the same without offsets, and added to what `out` holds
    tile_zero_half, tile_onto_half            half as many vectors wide
    tile_from_narrow                          one vector wide, as are
    tile_zero_narrow, tile_onto_narrow

`out`, `offsets`, `left` and `right` are of one precision, or the first two float32 and the others int32, for pairs of
bfloat16 [2 k, 2 k + 1], whose products are summed in float32 (needs AVX512-BF16). Such pairs are made and read by

    store_halves(array, i, x)                 lanes 2 j and 2 j + 1, rounded, are the pair array[i + j]
    load_halves(array, i, like)               the reverse, a vector as `like` is
    store_joined(array, i, low, high)         lane j of both, rounded, is the pair array[i + j]

Squares of matrix products on a processor with AMX, SQUARE rows by SQUARE columns of float32 out of pairs of bfloat16:

    squares_open(), squares_close()           around the squares of one thread: its registers are claimed and given up
    squares_zero(out, io, so, left, il, sl, right, ir, sr, depth)

        out[io + m so + n] = sum_{k < depth} left[il + m sl + k] right[ir + k sr + n], both numbers of each pair

    squares_onto                              the same, added to what `out` holds; `depth` is a multiple of 16 in both
"""

from typing import TYPE_CHECKING

from numba import config

if TYPE_CHECKING or config.DISABLE_JIT:
    from resnet_bk.ops.simd.uncompiled import (
        lanes,
        load,
        load_pairs,
        row_sums,
        scratch,
        spread,
        store,
        store_pairs,
        zeros,
    )
    from resnet_bk.ops.simd.uncompiled_squares import squares_close, squares_onto, squares_open, squares_zero
    from resnet_bk.ops.simd.uncompiled_tiles import (
        exponential,
        load_as,
        load_halves,
        maximum,
        multiply_add,
        store_as,
        store_halves,
        store_joined,
        sum_lanes,
        tile_from,
        tile_from_narrow,
        tile_onto,
        tile_onto_half,
        tile_onto_narrow,
        tile_zero,
        tile_zero_half,
        tile_zero_narrow,
        transpose,
    )
else:
    from resnet_bk.ops.simd.compiled import (
        lanes,
        load,
        load_pairs,
        row_sums,
        scratch,
        spread,
        store,
        store_pairs,
        zeros,
    )
    from resnet_bk.ops.simd.compiled_bfloats import load_as, store_as
    from resnet_bk.ops.simd.compiled_squares import squares_close, squares_onto, squares_open, squares_zero
    from resnet_bk.ops.simd.compiled_tiles import (
        exponential,
        load_halves,
        maximum,
        multiply_add,
        store_halves,
        store_joined,
        sum_lanes,
        tile_from,
        tile_from_narrow,
        tile_onto,
        tile_onto_half,
        tile_onto_narrow,
        tile_zero,
        tile_zero_half,
        tile_zero_narrow,
        transpose,
    )
