"""The operators by dense inverses in float64, under autograd. Slow, short, and independent of every recurrence.

Shape legend: B batch, T sites, H chains, K key size, V value size.
"""

import torch
from torch import Tensor


def operator(potential: Tensor, hopping: Tensor, absorption: Tensor, green_in: Tensor | None = None) -> Tensor:
    """tridiag(-b, a, -b) - i diag(eta), complex [B, H, T, T]; a state shifts the first site by -b^2 L."""
    a, b, eta = (x.movedim(1, 2) for x in (potential, hopping, absorption))
    diagonal = torch.complex(a, -eta)
    if green_in is not None:
        shift = b[..., 0] ** 2 * green_in
        diagonal = torch.cat([(diagonal[..., 0] - shift)[..., None], diagonal[..., 1:]], -1)
    matrix = torch.diag_embed(diagonal)
    if a.shape[-1] > 1:
        matrix = matrix - torch.diag_embed(b[..., 1:], 1) - torch.diag_embed(b[..., 1:], -1)
    return matrix


def propagator(matrix: Tensor) -> Tensor:
    """Gamma [B, H, T, T]: row t is the last row of the inverse of the first t sites, and zeros."""
    sites = matrix.shape[-1]
    rows = []
    for t in range(1, sites + 1):
        row = torch.linalg.inv(matrix[..., :t, :t])[..., -1, :]
        rows.append(torch.nn.functional.pad(row, (0, sites - t)))
    return torch.stack(rows, -2)


def surface_green(potential, hopping, absorption, green_in=None):
    gamma = propagator(operator(potential, hopping, absorption, green_in))
    green = gamma.diagonal(dim1=-2, dim2=-1).movedim(1, 2)
    return green, green[:, -1]


def resolvent_diagonal(potential, hopping, absorption):
    inverse = torch.linalg.inv(operator(potential, hopping, absorption))
    return (inverse.diagonal(dim1=-2, dim2=-1).movedim(1, 2),)


def propagate_vector(source, potential, hopping, absorption, green_in=None, psi_in=None):
    gamma = propagator(operator(potential, hopping, absorption, green_in))
    psi = torch.einsum("bhtj,bjh->bth", gamma, source.to(gamma.dtype))
    if psi_in is not None:
        psi = psi + (gamma[..., 0] * (hopping[:, 0] * psi_in)[..., None]).movedim(1, 2)
    return psi, gamma[..., -1, -1], psi[:, -1]


def propagate(query, key, value, potential, hopping, absorption, green_in=None, memory_in=None):
    gamma = propagator(operator(potential, hopping, absorption, green_in))
    q, k, v = (x.to(gamma.dtype) for x in (query, key, value))
    output = torch.einsum("bthk,bjhk,bhtj,bjhv->bthv", q, k, gamma, v)
    memory = torch.einsum("bhj,bjhk,bjhv->bhkv", gamma[..., -1, :], k, v)
    if memory_in is not None:
        kept = gamma[..., 0] * hopping[:, 0, :, None]
        output = output + torch.einsum("bthk,bht,bhkv->bthv", q, kept, memory_in)
        memory = memory + kept[..., -1, None, None] * memory_in
    return output, gamma[..., -1, -1], memory
