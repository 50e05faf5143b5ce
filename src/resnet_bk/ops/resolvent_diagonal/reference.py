"""Definition of the diagonal of the resolvent, from both sides, under autograd.

Shape legend: B batch, T sites, H chains.

    L_t = 1 / (a_t - i eta_t - b_t^2     L_{t-1}),   L_{-1} = 0        left surface Green's function
    R_t = 1 / (a_t - i eta_t - b_{t+1}^2 R_{t+1}),   R_T    = 0        right surface Green's function
    G_tt = 1 / (a_t - i eta_t - b_t^2 L_{t-1} - b_{t+1}^2 R_{t+1})

(Schur complement of site t against both sides; equal to 1/G = 1/L + 1/R - (a - i eta), without its cancellation.)
"""

import torch
from torch import Tensor

from resnet_bk.ops.surface_green.reference import surface_green


def resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> Tensor:
    """G_tt [B, T, H] complex from real [B, T, H]; hopping[:, 0] has no use."""
    shifted = torch.complex(potential, -absorption)
    nothing = torch.zeros_like(shifted[:, 0])
    left = surface_green(potential, hopping, absorption, nothing)
    to_right = torch.cat([hopping[:, 1:], torch.zeros_like(hopping[:, :1])], 1)
    right = surface_green(potential.flip(1), to_right.flip(1), absorption.flip(1), nothing).flip(1)
    left = torch.cat([nothing[:, None], left[:, :-1]], 1)
    right = torch.cat([right[:, 1:], nothing[:, None]], 1)
    return 1 / (shifted - hopping * hopping * left - to_right * to_right * right)
