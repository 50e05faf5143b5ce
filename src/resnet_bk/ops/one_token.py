"""What the kernels of one token compute of single numbers, as PyTorch has it for tensors."""

from math import exp, hypot, log1p

from numba.extending import register_jitable


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
    """L = 1 / (a - i eta - b^2 L of the site before), of which `real` and `imaginary` are the parts.

    Returns:
        Its parts and its modulus.
    """
    real = potential - hopping * hopping * real
    imaginary = -absorption - hopping * hopping * imaginary
    size = 1 / hypot(real, imaginary)
    return real * size * size, -imaginary * size * size, size
