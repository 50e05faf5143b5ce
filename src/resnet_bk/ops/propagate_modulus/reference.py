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
    for t in range(query.shape[1]):
        b = hopping[:, t]
        green = 1 / (torch.complex(potential[:, t], -absorption[:, t]) - b * b * green)
        k = key[:, t, :, :, None]
        write = k * value[:, t, :, None, :]
        if erase is not None:
            memory = memory - erase[:, t, :, None, None] * k * (k * memory).sum(-2, keepdim=True)
        memory = green.abs()[..., None, None] * (write + b[..., None, None] * memory)
        outputs.append((query[:, t, :, :, None] * memory).sum(-2))
    return torch.stack(outputs, 1), green, memory
