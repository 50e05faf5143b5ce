"""Diagonal of the resolvent of a tridiagonal operator, from both sides. Not causal."""

from torch import Tensor

from resnet_bk.ops import checks, dispatch
from resnet_bk.ops.resolvent_diagonal import chunked, library, reference, triton_library

__all__ = ["resolvent_diagonal"]

IMPLEMENTATIONS: dict[str, dispatch.Implementation] = {
    "numba": library.resolvent_diagonal,
    "triton": triton_library.resolvent_diagonal,
    "chunked": chunked.resolvent_diagonal,
    "reference": reference.resolvent_diagonal,
}


def resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor, *, backend: str = "auto") -> Tensor:
    """G_tt of G = (tridiag(-b, a, -b) - i diag(eta))^-1, by a sweep from each side.

    G_tt depends on all sites, those after t included: not for causal models. |G_tt| <= 1/eta_min. Source: recursive
    Green's function method. Differentiable (with numba and triton once: a second derivative raises).

    Args:
        potential: a, real [B, T, H] (the energy folded in).
        hopping: b >= 0, real [B, T, H], between sites t-1 and t; the first one has no use and no gradient. A 0 cuts the
            chain before t exactly.
        absorption: eta > 0, real [B, T, H], the imaginary part of the spectral shift.
        backend: "auto" or a name of `available_backends("resolvent_diagonal", device_type)`.

    Returns:
        G_tt, complex [B, T, H]; complex128 for float64 inputs, complex64 for all others.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, T = 0, an absorption <= 0 or a hopping < 0 (CPU only, not
            while a graph is traced), a backend that the device does not have.
    """
    checks.real_inputs(potential=potential, hopping=hopping, absorption=absorption)
    checks.same_shape(potential=potential, hopping=hopping, absorption=absorption)
    checks.chain_values(hopping, absorption)
    chosen = dispatch.choose("resolvent_diagonal", backend, potential)
    inputs = dispatch.operands(chosen, potential, hopping, absorption)
    run = dispatch.select("resolvent_diagonal", chosen, IMPLEMENTATIONS)
    with dispatch.full_precision(potential.device):
        return run(*inputs)
