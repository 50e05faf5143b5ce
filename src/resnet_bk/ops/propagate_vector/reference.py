"""Definition of the vector state, one site after the other under autograd.

Shape legend: B batch, T sites, H chains.

psi = last rows of the resolvents applied to the source: psi_t = sum_j Gamma_tj u_j with the propagator from site j to t

    Gamma_tj = L_t b_t L_{t-1} b_{t-1} ... b_{j+1} L_j        (the last row of the resolvent of the first t sites)

so psi_t = L_t (u_t + b_t psi_{t-1}): the forward elimination of the tridiagonal system.
"""

import torch
from torch import Tensor


def propagate_vector(
    source: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, initial_green: Tensor, initial_psi: Tensor
) -> tuple[Tensor, Tensor]:
    """psi [B, T, H] and the last L [B, H], complex, from real [B, T, H] and the complex states [B, H]."""
    green, psi, sites = initial_green, initial_psi, []
    # Not x[:, t]: the backward pass of an index is as long as all of x.
    for u, a, b, eta in zip(*(x.unbind(1) for x in (source, potential, hopping, absorption)), strict=True):
        green = 1 / (torch.complex(a, -eta) - b * b * green)
        psi = green * (u + b * psi)
        sites.append(psi)
    return torch.stack(sites, 1), green
