"""Numbers of a chain on their way from float64 to the precision of the state.

A product of n numbers, each rounded to float32, is off by up to n roundings, all of one sign where the numbers are all
the same. Rounding z_1, then z_2 (1 + f_1), then z_3 (1 + f_2) and so on, with f_t for what rounding took from number t,

    z'_t = z_t (1 + f_{t-1}),    r_t = round(z'_t),    1 + f_t = z'_t / r_t,

makes the product telescope: r_1 r_2 ... r_n (1 + f_n) = z_1 z_2 ... z_n, off by one rounding whatever n is. (Error
diffusion, the first-order noise shaping of signal processing.)
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

# float32 rounds a complex number by 2^-24 of its size, if it is not subnormal: then the number, and with it all that it
# multiplies, is nothing beside the other terms.
LARGEST_SHARE = 2.0**-22


@register_jitable
def exact(array: NDArray[np.floating], i: int) -> float:
    """array[i] in float64."""
    return np.float64(array[i])


@register_jitable
def share(re: float, im: float, rounded_re: float, rounded_im: float) -> tuple[float, float]:
    """f with (1 + f) rounded = number, to first order; 0 where rounding left nothing of the number."""
    x, y, size = re - rounded_re, im - rounded_im, re * re + im * im
    f_re, f_im = (x * re + y * im) / size, (y * re - x * im) / size
    if abs(f_re) + abs(f_im) < LARGEST_SHARE:
        return f_re, f_im
    return 0.0, 0.0  # also for 0 / 0


@register_jitable
def with_share(re: float, im: float, f_re: float, f_im: float) -> tuple[float, float]:
    """The number times 1 + f."""
    return re + (re * f_re - im * f_im), im + (re * f_im + im * f_re)


@register_jitable
def within(x: float, largest: float) -> float:
    """x, or the largest number of its sign where it is beyond; NaN stays NaN."""
    if x > largest:
        return largest
    if x < -largest:
        return -largest
    return x
