"""Causal propagation with a vector state, one chain a channel: psi_t = L_t (u_t + b_t psi_{t-1})."""

from torch import Tensor

from resnet_bk.ops import checks, dispatch
from resnet_bk.ops.propagate_vector import chunked, library, reference, triton_library

__all__ = ["propagate_vector"]

IMPLEMENTATIONS: dict[str, dispatch.Implementation] = {
    "numba": library.propagate_vector,
    "triton": triton_library.propagate_vector,
    "chunked": chunked.propagate_vector,
    "reference": reference.propagate_vector,
}


def propagate_vector(
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    initial_state: tuple[Tensor, Tensor] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """psi_t = sum_{j <= t} Gamma_tj u_j with the propagator Gamma_tj = L_t b_t L_{t-1} ... b_{j+1} L_j, in one sweep.

    L is the surface Green's function (`surface_green`). psi_t is the forward elimination of the tridiagonal system
    (tridiag(-b, a, -b) - i diag(eta)) x = u. |Gamma_tj| <= 1/eta_min. Differentiable in all inputs and the state
    (with numba and triton once: a second derivative raises).

    Args:
        source: u, real [B, T, H].
        potential: a, real [B, T, H] (the energy folded in).
        hopping: b >= 0, real [B, T, H], between sites t-1 and t. A 0 cuts the chain before t exactly. Without a state
            the first one couples to nothing and has no gradient.
        absorption: eta > 0, real [B, T, H], the imaginary part of the spectral shift.
        initial_state: (L, psi) at the site before the first, complex [B, H] each; None where the chain begins.
        backend: "auto" or a name of `available_backends("propagate_vector", device_type)`.

    Returns:
        psi, complex [B, T, H], and the state (L, psi) at the last site, complex [B, H] each. complex128 for float64
        inputs; complex64 for all others (half types are computed in float32).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, T = 0, an absorption <= 0 or a hopping < 0 (CPU only, not
            while a graph is traced), a state that is not such a pair, a backend that the device does not have.
    """
    chain = {"source": source, "potential": potential, "hopping": hopping, "absorption": absorption}
    checks.real_inputs(**chain)
    checks.same_shape(**chain)
    checks.chain_values(hopping, absorption)
    green_in, psi_in = checks.state_pair(initial_state, "psi")
    green_in = checks.green_state("initial_state[0] (green)", green_in, potential)
    psi_in = checks.green_state("initial_state[1] (psi)", psi_in, potential)
    chosen = dispatch.choose("propagate_vector", backend, potential)
    beside = (green_in, psi_in)
    operands = dispatch.operands(chosen, source, potential, hopping, absorption, beside=beside)
    run = dispatch.select("propagate_vector", chosen, IMPLEMENTATIONS)
    with dispatch.full_precision(potential.device):
        psi, green = run(*operands, *beside)
        # A copy: the state must not keep the whole chain in memory.
        return psi, (green, psi[:, -1].clone())
