"""Definition of propagation by the modulus, one site after the other under autograd.

Shape legend: B batch, T sites, H heads, K key size, V value size.

    S_t = |L_t| (k_t v_t^T + b_t S_{t-1}),   y_t = q_t^T S_t
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
    initial_green: Tensor,
    initial_memory: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, V] real, the last L [B, H] complex and the last S [B, H, K, V] real.

    query and key are real [B, T, H, K], value [B, T, H, V], the chain [B, T, H].
    """
    green, memory, outputs = initial_green, initial_memory, []
    for t in range(query.shape[1]):
        b = hopping[:, t]
        green = 1 / (torch.complex(potential[:, t], -absorption[:, t]) - b * b * green)
        write = key[:, t, :, :, None] * value[:, t, :, None, :]
        memory = green.abs()[..., None, None] * (write + b[..., None, None] * memory)
        outputs.append((query[:, t, :, :, None] * memory).sum(-2))
    return torch.stack(outputs, 1), green, memory
