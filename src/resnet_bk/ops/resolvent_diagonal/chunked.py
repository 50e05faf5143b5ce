"""Diagonal of the resolvent in plain PyTorch: two surface Green's functions, with their exact adjoint, and one formula.

Shape legend: B batch, T sites, H chains. The formula and its source are in `reference.py`.
"""

import torch
from torch import Tensor

from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.surface_green.chunked import wide_surface_green


def resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> Tensor:
    """G_tt [B, T, H] complex from real [B, T, H]; hopping[:, 0] has no use."""
    chains, dtype = potential.shape[2], torch.complex128 if potential.dtype == torch.float64 else torch.complex64
    potential, hopping, absorption = widened(potential, hopping, absorption)
    shifted = torch.complex(potential, -absorption)
    to_right = torch.cat([hopping[:, 1:], torch.zeros_like(hopping[:, :1])], 1)
    # Both directions side by side as chains of one sweep.
    both = wide_surface_green(
        torch.cat([potential, potential.flip(1)], 2),
        torch.cat([hopping, to_right.flip(1)], 2),
        torch.cat([absorption, absorption.flip(1)], 2),
        shifted.new_zeros(shifted.shape[0], 2 * chains),
    )
    nothing = torch.zeros_like(shifted[:, :1])
    left = torch.cat([nothing, both[:, :-1, :chains]], 1)
    right = torch.cat([both[:, :, chains:].flip(1)[:, 1:], nothing], 1)
    return narrowed((shifted - hopping * hopping * left - to_right * to_right * right).reciprocal(), dtype)
