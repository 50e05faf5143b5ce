"""Causal propagation by the modulus of the propagator: a matrix state of real numbers, one chain a head."""

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch
from resnet_bk.ops.propagate_modulus import chunked, library, reference

__all__ = ["propagate_modulus"]

IMPLEMENTATIONS: dict[str, dispatch.Implementation] = {
    "numba": library.propagate_modulus,
    "triton": chunked.with_triton,
    "chunked": chunked.propagate_modulus,
    "reference": reference.propagate_modulus,
}


def propagate_modulus(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    erase: Tensor | None = None,
    initial_state: tuple[Tensor, Tensor] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """y_t = sum_{j <= t} (q_t . k_j) |Gamma_tj| v_j in O(T), with the propagator Gamma_tj = L_t b_t L_{t-1} ... L_j.

    The same as S_t = |L_t| (k_t v_t^T + b_t S_{t-1}), y_t = q_t^T S_t, with L the surface Green's function
    (`surface_green`). |Gamma_tj|^2 is, up to the coupling to leads, the probability of transmission from j to t (Fisher
    and Lee, Phys. Rev. B 23, 6851, 1981). In `propagate` contributions from many sites meet with phases that
    the potentials between them have turned, and cancel; here they add up. |Gamma_tj| <= 1/eta_min. Differentiable in
    all inputs and the state (with numba and triton once: a second derivative raises).

    With `erase`, S_t = |L_t| (k_t v_t^T + b_t (1 - e_t k_t k_t^T) S_{t-1}): a site takes out what the chain holds along
    its key. That is an impurity in the space of keys, a potential u k_t k_t^T beside a_t: with the chain to the left as
    it is, G = (1/L_t + u k_t k_t^T)^-1 = L_t (1 - e k_t k_t^T), e = u L_t / (1 + u L_t) for |k_t| = 1 (Sherman and
    Morrison), of which e is taken real, and the factor stands before what comes from the left alone: the site's own
    source enters behind the impurity, which is our rule and no consequence of the operator. For e = 1, an impurity
    that nothing passes, it is the delta rule (Schlag, Irie and Schmidhuber, arXiv 2102.11174).

    Args:
        query: q, real [B, T, H, K]; no scale is applied.
        key: k, real [B, T, H, K].
        value: v, real [B, T, H, V].
        potential: a, real [B, T, H] (the energy folded in).
        hopping: b >= 0, real [B, T, H], between sites t-1 and t. A 0 cuts the chain before t exactly. Without a state
            the first one couples to nothing and has no gradient.
        absorption: eta > 0, real [B, T, H], the imaginary part of the spectral shift.
        erase: e, real [B, T, H]; None erases nothing. Erasing makes nothing grow while 0 <= e |k|^2 <= 2.
        initial_state: (L, S) at the site before the first, complex [B, H] and real [B, H, K, V]; None where the chain
            begins.
        backend: "auto" or a name of `available_backends("propagate_modulus", device_type)`. "triton" has a kernel for L
            and does the rest in matmuls.

    Returns:
        y, real [B, T, H, V], and the state (L, S) at the last site, complex [B, H] and real [B, H, K, V]. In double
        precision for float64 inputs, in single precision for all others (half types are computed in float32).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, T = 0, an absorption <= 0 or a hopping < 0 (CPU only, not
            while a graph is traced), a state that is not such a pair, a backend that the device does not have.
    """
    chain = {"potential": potential, "hopping": hopping, "absorption": absorption}
    if erase is not None:
        chain["erase"] = erase
    checks.real_inputs(query=query, key=key, value=value, **chain)
    checks.same_shape(**chain)
    checks.heads(potential, query=query, key=key, value=value)
    checks.chain_values(hopping, absorption)
    green_in, memory_in = checks.state_pair(initial_state, "S")
    green_in = checks.green_state("initial_state[0] (green)", green_in, potential)
    shape = (key.shape[0], *key.shape[2:], value.shape[3])
    memory_in = checks.state_part("initial_state[1] (S)", memory_in, potential, shape, real=True)
    chosen = dispatch.choose("propagate_modulus", backend, potential)
    # All of these backends compute in the dtype of their inputs, "triton" too, whose kernel is of L alone.
    of = "chunked" if chosen == "triton" else chosen
    query, key, value, *chain_in = dispatch.operands(
        of, query, key, value, *chain.values(), beside=(green_in, memory_in)
    )
    inputs = (query, key, value, *chain_in[:3], chain_in[3] if erase is not None else None)
    run = dispatch.select("propagate_modulus", chosen, IMPLEMENTATIONS)
    if chosen == "triton" and not torch.compiler.is_compiling():  # its kernel notes itself as `surface_green`
        dispatch.note("propagate_modulus", chosen)
    with dispatch.full_precision(potential.device):
        output, green, memory = run(*inputs, green_in, memory_in)
        return output, (green, memory)
