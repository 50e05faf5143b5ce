"""Definition of the surface Green's function, one site after the other under autograd.

Shape legend: B batch, T sites, H chains.

Recursive Green's function method: cutting the chain after site t leaves a resolvent whose corner entry is

    L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1}),        L_{-1} = initial state, or 0

(Schur complement of the site t against the sites before it, which it sees through b_t alone.)
"""

import torch
from torch import Tensor


def surface_green(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> Tensor:
    """L [B, T, H] complex from real [B, T, H] and the complex state `initial` [B, H]."""
    green, sites = initial, []
    for a, b, eta in zip(potential.unbind(1), hopping.unbind(1), absorption.unbind(1), strict=True):
        green = 1 / (torch.complex(a, -eta) - b * b * green)
        sites.append(green)
    return torch.stack(sites, 1)
