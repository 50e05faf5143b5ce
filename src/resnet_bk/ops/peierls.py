"""Hoppings with a phase, as a magnetic field gives them to a charged particle (Peierls, Z. Phys. 80, 763, 1933).

Shape legend: B batch, T sites, H chains (heads or channels), K key size, V value size.

From site t-1 to t the hopping is b_t exp(-i phi_t), and its conjugate on the way back. The surface Green's function
knows the product of the two, b_t^2, and does not change. The propagator takes one phase a site:

    Gamma_tj  ->  exp(-i (Phi_t - Phi_j)) Gamma_tj        Phi_t = phi_1 + ... + phi_t

What that is for: inside its band, |a| < 2 b, a chain turns a signal by arccos(a / 2b) a site, so what comes from many
sites arrives with phases all round the circle and cancels; at the edge of the band nothing turns, but nothing gets
further than about sqrt(2 b / eta) sites. A phase equal to that angle lets all of it arrive in step from as far as the
absorption allows.

How it is computed: by a gauge transformation. S'_t = exp(i Phi_t) S_t obeys the recurrence with real hoppings and the
sources exp(i Phi_j) u_j, whose real and imaginary parts run side by side as twice as many columns:

    S_t = exp(-i Phi_t) (S'_t[u cos Phi] + i S'_t[u sin Phi])

Phi starts at 0 in every call, and what is handed on is S, not S'. It runs on where a hopping of 0 cuts the chain: what
stands before the cut has no influence behind it but in the rounding of Phi.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.precision import at_least_float32, widened

Run = Callable[..., tuple[Tensor, ...]]


def accumulated(phase: Tensor) -> Tensor:
    """Phi, float64 [B, T, H], in [0, 2 pi): summed in float64, for a float32 sum of many turns has lost the angle."""
    return torch.remainder(widened(at_least_float32(phase))[0].cumsum(1), 2 * math.pi)


def split(source: Tensor, angle: Tensor) -> Tensor:
    """source [..., N] real times exp(i angle), the real parts before the imaginary ones, [..., 2 N]."""
    return torch.cat([source * angle.cos().to(source.dtype), source * angle.sin().to(source.dtype)], -1)


def join(pair: Tensor, angle: Tensor) -> Tensor:
    """exp(-i angle) (x + i y) from the x and y of `split` sources, complex [..., 2 N] to [..., N]."""
    x, y = pair.chunk(2, -1)
    real, imaginary = x.real - y.imag, x.imag + y.real
    cos, sin = angle.cos().to(real.dtype), angle.sin().to(real.dtype)
    return torch.complex(real * cos + imaginary * sin, imaginary * cos - real * sin)


def _beside_zeros(state: Tensor) -> Tensor:
    """A state of the columns of the real parts; the others start from nothing."""
    return torch.cat([state, torch.zeros_like(state)], -1)


def propagate(
    run: Run,
    phase: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    green_in: Tensor,
    memory_in: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`run` (such as `propagate.reference.propagate`) with hoppings of this phase, real [B, T, H]; None is 0."""
    chain = (potential, hopping, absorption)
    if phase is None:
        output, green, memory = run(query, key, value, *chain, green_in, memory_in)
        return output, green, memory
    angle = accumulated(phase)[..., None]
    # Triton's kernels would read the products with cosines in half precision.
    value = split(at_least_float32(value), angle)
    output, green, memory = run(query, key, value, *chain, green_in, _beside_zeros(memory_in))
    return join(output, angle), green, join(memory, angle[:, -1, ..., None])


def propagate_vector(
    run: Run,
    phase: Tensor | None,
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    green_in: Tensor,
    psi_in: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same for `propagate_vector.reference.propagate_vector`: every chain runs twice."""
    chain = (potential, hopping, absorption)
    if phase is None:
        psi, green = run(source, *chain, green_in, psi_in)
        return psi, green
    angle = accumulated(phase)
    twice: list[Any] = [torch.cat([x, x], -1) for x in (*chain, green_in)]
    psi, green = run(split(at_least_float32(source), angle), *twice, _beside_zeros(psi_in))
    # A copy: half of a tensor would keep all of it in memory.
    return join(psi, angle), green.chunk(2, -1)[0].clone()
