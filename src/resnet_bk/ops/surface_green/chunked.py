"""Surface Green's function in plain PyTorch on any device, with the exact adjoint.

Shape legend: B batch, T sites, H chains.

The recurrence L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1}) is a chain of Moebius maps, and could be scanned as 2x2
matrices in log2(T) steps. It is a loop here all the same: every step of the loop keeps Im L >= 0 and |L| <= 1/eta
whatever was rounded before, a hopping of 0 cuts exactly, and a chain cut in two calls gives the same bits. The 2x2
products keep none of the three: they tend to rank 1, and near the spectrum their ratio is a difference of nearly equal
numbers.

Adjoint. With d = 1/L and bars for cotangents (dL/dRe + i dL/dIm),

    dbar_t      = -conj(L_t)^2 Lbar_t
    abar_t      = Re dbar_t        etabar_t = -Im dbar_t        bbar_t = -2 b_t Re(conj(L_{t-1}) dbar_t)
    Lbar_{t-1} += -b_t^2 dbar_t = conj(b_t L_t)^2 Lbar_t

which is linear in Lbar, so the reverse sweep is a scan. Both are float64 (`ops/precision.py` says why).
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.scan import before, reverse_scan


class _SurfaceGreen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> Tensor:
        shifted = torch.complex(potential, -absorption)
        coupling = hopping * hopping
        green, sites = initial, []
        for t in range(potential.shape[1]):
            green = (shifted[:, t] - coupling[:, t] * green).reciprocal()
            sites.append(green)
        result = torch.stack(sites, 1)
        ctx.save_for_backward(hopping, initial, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hopping, initial, green = ctx.saved_tensors
        transmission = (hopping * green).conj()
        green_bar = reverse_scan(transmission * transmission, grad)
        d_bar = -(green.conj() ** 2) * green_bar
        hopping_bar = -2 * hopping * (before(green, initial).conj() * d_bar).real
        return d_bar.real, hopping_bar, -d_bar.imag, -(hopping[:, 0] ** 2) * d_bar[:, 0]


def wide_surface_green(*inputs: Tensor) -> Tensor:
    """`surface_green` in the precision in which chains are computed, not rounded to that of the inputs."""
    return _SurfaceGreen.apply(*widened(*inputs))


def surface_green(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> Tensor:
    """L [B, T, H] complex from real [B, T, H] and the complex state `initial` [B, H]."""
    return narrowed(wide_surface_green(potential, hopping, absorption, initial), initial.dtype)
