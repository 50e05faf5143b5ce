"""What the kernels of one token share."""

from math import exp, hypot, log1p

import numpy as np
from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats
from resnet_bk.ops.simd import lanes, load, multiply_add, sum_lanes, zeros


@register_jitable
def softplus(x: float) -> float:
    """PyTorch's, which is x itself from 20 on."""
    return x if x > 20 else log1p(exp(x))


@register_jitable
def sigmoid(x: float) -> float:
    """Without an exp that overflows, at which uncompiled kernels would stop."""
    if x < 0:
        part = exp(x)
        return part / (1 + part)
    return 1 / (1 + exp(-x))


@register_jitable
def next_green(
    potential: float, hopping: float, absorption: float, real: float, imaginary: float
) -> tuple[float, float, float]:
    """L = 1 / (a - i eta - b^2 L of the site before), of which `real` and `imaginary` are the parts; in float64, for
    near a resonance a and b^2 L cancel. (`float` of a float32 is one in compiled code.)

    Returns:
        Its parts and its modulus.
    """
    squared = np.float64(hopping) * np.float64(hopping)
    real = np.float64(potential) - squared * np.float64(real)
    imaginary = -np.float64(absorption) - squared * np.float64(imaginary)
    modulus = 1 / hypot(real, imaginary)
    return real * modulus * modulus, -imaginary * modulus * modulus, modulus


@register_jitable
def product(weight: Floats, begin: int, end: int, x: Floats, first: int, depth: int, y: Floats, to: int) -> None:
    """y[to + row] = the row of `weight` [rows, depth] times x[first : first + depth], for rows `begin` to `end` - 1:
    one after the other, as they lie in memory, whose speed is that of a token."""
    wide = lanes(x)
    for row in range(begin, end):
        start, j = row * depth, 0
        even, odd = zeros(x), zeros(x)  # two sums, for an addition waits for the one before
        while j + 2 * wide <= depth:
            even = multiply_add(load(weight, start + j, wide), load(x, first + j, wide), even)
            odd = multiply_add(load(weight, start + j + wide, wide), load(x, first + j + wide, wide), odd)
            j += 2 * wide
        while j < depth:
            count = min(wide, depth - j)
            even = multiply_add(load(weight, start + j, count), load(x, first + j, count), even)
            j += wide
        y[to + row] = sum_lanes(even + odd)
