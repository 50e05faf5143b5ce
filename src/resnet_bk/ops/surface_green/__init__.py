"""Causal surface Green's function of a tridiagonal operator: L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1})."""

from torch import Tensor

from resnet_bk.ops import checks, dispatch
from resnet_bk.ops.surface_green import chunked, library, reference, triton_library

__all__ = ["surface_green"]

IMPLEMENTATIONS: dict[str, dispatch.Implementation] = {
    "numba": library.surface_green,
    "triton": triton_library.surface_green,
    "chunked": chunked.surface_green,
    "reference": reference.surface_green,
}


def surface_green(
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Corner entry of the resolvent of the first t sites, for every t: L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1}).

    Causal, |L_t| <= 1/eta_min and Im L_t >= 0 at any length. Energies, potentials, hoppings and absorptions share one
    unit; L has its inverse. Source: recursive Green's function method (Thouless and Kirkpatrick, J. Phys. C 14, 235,
    1981). Differentiable in all inputs and the state (with numba and triton once: a second derivative
    raises).

    Args:
        potential: a, real [B, T, H] (the energy folded in).
        hopping: b >= 0, real [B, T, H], between sites t-1 and t. A 0 cuts the chain before t exactly. Without a state
            the first one couples to nothing and has no gradient.
        absorption: eta > 0, real [B, T, H], the imaginary part of the spectral shift.
        initial_state: L at the site before the first, complex [B, H]; None where the chain begins.
        backend: "auto" or a name of `available_backends("surface_green", device_type)`.

    Returns:
        L, complex [B, T, H], and the state to continue from, complex [B, H] (L at the last site). complex128 for
        float64 inputs; complex64 for all others (half types are computed in float32).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, T = 0, an absorption <= 0 or a hopping < 0 (CPU only, not
            while a graph is traced), a backend that the device does not have.
    """
    checks.real_inputs(potential=potential, hopping=hopping, absorption=absorption)
    checks.same_shape(potential=potential, hopping=hopping, absorption=absorption)
    checks.chain_values(hopping, absorption)
    initial = checks.green_state("initial_state", initial_state, potential)
    chosen = dispatch.choose("surface_green", backend, potential)
    inputs = dispatch.operands(chosen, potential, hopping, absorption, beside=(initial,))
    run = dispatch.select("surface_green", chosen, IMPLEMENTATIONS)
    with dispatch.full_precision(potential.device):
        green = run(*inputs, initial)
        # A copy: the state must not keep the whole chain in memory.
        return green, green[:, -1].clone()
