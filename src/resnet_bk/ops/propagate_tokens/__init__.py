"""Causal propagation of tokens themselves: how much of what a site reads came from one word."""

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch
from resnet_bk.ops.precision import at_least_float32
from resnet_bk.ops.propagate_tokens import chunked, library, pairs

__all__ = ["propagate_tokens"]

# exp of it is 0 in float64 too. Running sums, whose differences all backends take, would lose what comes after a number
# like -1e30.
LEAST = -1000.0

IMPLEMENTATIONS: dict[str, dispatch.Implementation] = {
    "numba": library.propagate_tokens,
    "pairs": pairs.propagate_tokens,
    "chunked": chunked.propagate_tokens,
}


def propagate_tokens(
    query: Tensor,
    key: Tensor,
    log_transmission: Tensor,
    tokens: Tensor,
    targets: Tensor,
    *,
    document: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """n_t = sum_{j <= t} a_tj, and m_t, the same over the sites j with x_j = y_t alone.

    a_tj = (q_t . k_j) tau_{j+1} ... tau_t. That is a chain whose value is the token as a one-hot vector e(x),

        S_t = k_t e(x_t)^T + tau_t S_{t-1},     m_t = (q_t^T S_t)_{y_t},     n_t = sum over v of (q_t^T S_t)_v

    of which only the columns of words that are there are ever formed: O(T) in time and memory (O(T^2) with "pairs").
    m_t / n_t is the share that a pointer gives to y_t (Merity et al., arXiv 1609.07843). Differentiable in query, key
    and log_transmission (with numba once: a second derivative raises; with pairs forwards too).

    Args:
        query: q, real [B, T, H, K]; no scale is applied.
        key: k, real [B, T, H, K].
        log_transmission: log tau, real [B, T, H], between sites t-1 and t; below -1000, at -inf too, it is taken for
            -1000, and nothing passes. The first one has no gradient. Where a product of transmissions is out
            of the range of float32, "chunked" gives its largest number or NaN, at other words too.
        tokens: x, integers [B, T].
        targets: y, integers [B, T]; a number that is no token finds nothing.
        document: integers [B, T] that change where the chain is cut, so that a site sees only sites j for which they
            are the same from j to t; None for one chain a row.
        backend: "auto" or a name of `available_backends("propagate_tokens", device_type)`. Where there is no kernel,
            "auto" takes "pairs" up to 512 sites and "chunked" beyond.

    Returns:
        n and m, real [B, T, H]; float64 for float64 inputs, float32 for all others.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, T = 0, a log_transmission of inf (on a CPU, outside
            graphs of torch.compile; elsewhere it gives NaN), a backend that the device does not have, an input that
            carries a tangent of forward-mode differentiation with a backend other than pairs.
    """
    checks.real_inputs(query=query, key=key, log_transmission=log_transmission)
    checks.same_shape(log_transmission=log_transmission)
    checks.heads(log_transmission, query=query, key=key, chain_name="log_transmission")
    whole = {"tokens": tokens, "targets": targets} | ({} if document is None else {"document": document})
    checks.words(log_transmission, **whole)
    checks.transmission_values(log_transmission)
    chosen = dispatch.choose("propagate_tokens", backend, log_transmission)
    if backend == "auto" and chosen == "pairs" and tokens.shape[1] > pairs.FEW_SITES:
        chosen = "chunked"
    inputs = [query, key, log_transmission]
    if chosen != "pairs":
        dispatch.no_tangents("propagate_tokens", "take backend='pairs'", *inputs)
    inputs = [at_least_float32(x) for x in inputs]
    inputs[2] = inputs[2].clamp_min(LEAST)
    run = dispatch.select("propagate_tokens", chosen, IMPLEMENTATIONS)
    with dispatch.full_precision(query.device):
        cuts = None if document is None else document.to(torch.int64)
        return run(*inputs, tokens.to(torch.int64), targets.to(torch.int64), cuts)
