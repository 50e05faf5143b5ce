"""Vector state in plain PyTorch on any device: the surface Green's function, then a linear scan.

Shape legend: B batch, T sites, H chains. The formula and its source are in `reference.py`.
"""

from torch import Tensor

from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.scan import linear_scan
from resnet_bk.ops.surface_green.chunked import wide_surface_green


def propagate_vector(
    source: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, initial_green: Tensor, initial_psi: Tensor
) -> tuple[Tensor, Tensor]:
    """psi [B, T, H] and the last L [B, H], complex, from real [B, T, H] and the complex states [B, H]."""
    dtype = initial_psi.dtype
    source, hopping, initial_psi = widened(source, hopping, initial_psi)
    green = wide_surface_green(potential, hopping, absorption, initial_green)
    psi = linear_scan(hopping * green, source * green, initial_psi)
    # A copy: the state must not keep the whole chain in memory.
    return narrowed(psi, dtype), narrowed(green[:, -1].clone(), dtype)
