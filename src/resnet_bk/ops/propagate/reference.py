"""Definition of the matrix state, one site after the other under autograd.

Shape legend: B batch, T sites, H heads, K key size, V value size.

    S_t = L_t (k_t v_t^T + b_t S_{t-1}),   y_t = q_t^T S_t

or y_t = sum_{j <= t} (q_t . k_j) Gamma_tj v_j with the propagator Gamma_tj = L_t b_t L_{t-1} ... b_{j+1} L_j: attention
whose softmax is replaced by the last row of the resolvent of the first t sites.
"""

import torch
from torch import Tensor


def propagate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, V], the last L [B, H] and the last S [B, H, K, V], all complex.

    query and key are real [B, T, H, K], value [B, T, H, V], the chain [B, T, H]; the states are complex.
    """
    green, memory, outputs = initial_green, initial_memory, []
    # Not x[:, t]: the backward pass of an index is as long as all of x.
    sites = zip(*(x.unbind(1) for x in (query, key, value, potential, hopping, absorption)), strict=True)
    for q, k, v, a, b, eta in sites:
        green = 1 / (torch.complex(a, -eta) - b * b * green)
        write = k[..., :, None] * v[..., None, :]
        memory = green[..., None, None] * (write + b[..., None, None] * memory)
        outputs.append((q[..., :, None] * memory).sum(-2))
    return torch.stack(outputs, 1), green, memory
