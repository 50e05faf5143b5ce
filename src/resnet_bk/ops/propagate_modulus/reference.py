"""Definition of propagation by the modulus, one site after the other under autograd.

Shape legend: B batch, T sites, H heads, K key size, V value size.

    S_t = |L_t| (k_t v_t^T + b_t (1 - e_t k_t k_t^T) S_{t-1}),   y_t = q_t^T S_t
"""

import torch
from torch import Tensor


def propagate_modulus(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    erase: Tensor | None,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, V] real, the last L [B, H] complex and the last S [B, H, K, V] real.

    query and key are real [B, T, H, K], value [B, T, H, V], the chain and erase [B, T, H].
    """
    green, memory, outputs = initial_green, initial_memory, []
    # Not x[:, t]: the backward pass of an index is as long as all of x.
    erased = [None] * query.shape[1] if erase is None else erase.unbind(1)
    sites = zip(*(x.unbind(1) for x in (query, key, value, potential, hopping, absorption)), erased, strict=True)
    for q, k, v, a, b, eta, e in sites:
        green = 1 / (torch.complex(a, -eta) - b * b * green)
        k = k[..., :, None]
        write = k * v[..., None, :]
        if e is not None:
            memory = memory - e[..., None, None] * k * (k * memory).sum(-2, keepdim=True)
        memory = green.abs()[..., None, None] * (write + b[..., None, None] * memory)
        outputs.append((q[..., :, None] * memory).sum(-2))
    return torch.stack(outputs, 1), green, memory
