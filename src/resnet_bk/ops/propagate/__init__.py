"""Causal propagation with a matrix state, one chain a head: attention whose softmax is a physical propagator."""

from torch import Tensor

from resnet_bk.ops import checks, dispatch
from resnet_bk.ops.propagate import chunked, library, reference, triton_library

__all__ = ["propagate"]

IMPLEMENTATIONS: dict[str, dispatch.Implementation] = {
    "numba": library.propagate,
    "triton": triton_library.propagate,
    "chunked": chunked.propagate,
    "reference": reference.propagate,
}


def propagate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    initial_state: tuple[Tensor, Tensor] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """y_t = sum_{j <= t} (q_t . k_j) Gamma_tj v_j with the propagator Gamma_tj = L_t b_t L_{t-1} ... b_{j+1} L_j, in
    O(T).

    The same as S_t = L_t (k_t v_t^T + b_t S_{t-1}), y_t = q_t^T S_t, with L the surface Green's function
    (`surface_green`): each column of S is a vector state (`propagate_vector`). |Gamma_tj| <= 1/eta_min. Differentiable
    in all inputs and the state (with numba and triton once: a second derivative raises).

    Args:
        query: q, real [B, T, H, K]; no scale is applied.
        key: k, real [B, T, H, K].
        value: v, real [B, T, H, V].
        potential: a, real [B, T, H] (the energy folded in).
        hopping: b >= 0, real [B, T, H], between sites t-1 and t. A 0 cuts the chain before t exactly. Without a state
            the first one couples to nothing and has no gradient.
        absorption: eta > 0, real [B, T, H], the imaginary part of the spectral shift.
        initial_state: (L, S) at the site before the first, complex [B, H] and [B, H, K, V]; None where the chain
            begins.
        backend: "auto" or a name of `available_backends("propagate", device_type)`.

    Returns:
        y, complex [B, T, H, V], and the state (L, S) at the last site, complex [B, H] and [B, H, K, V]. complex128 for
        float64 inputs; complex64 for all others (half types are computed in float32).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, T = 0, an absorption <= 0 or a hopping < 0 (CPU only, not
            while a graph is traced), a state that is not such a pair, a backend that the device does not have.
    """
    chain = {"potential": potential, "hopping": hopping, "absorption": absorption}
    checks.real_inputs(query=query, key=key, value=value, **chain)
    checks.same_shape(**chain)
    checks.heads(potential, query=query, key=key, value=value)
    checks.chain_values(hopping, absorption)
    green_in, memory_in = checks.state_pair(initial_state, "S")
    green_in = checks.green_state("initial_state[0] (green)", green_in, potential)
    shape = (key.shape[0], *key.shape[2:], value.shape[3])
    memory_in = checks.state_part("initial_state[1] (S)", memory_in, potential, shape)
    chosen = dispatch.choose("propagate", backend, potential)
    beside = (green_in, memory_in)
    operands = dispatch.operands(chosen, query, key, value, potential, hopping, absorption, beside=beside)
    run = dispatch.select("propagate", chosen, IMPLEMENTATIONS)
    with dispatch.full_precision(potential.device):
        output, green, memory = run(*operands, *beside)
        return output, (green, memory)
