"""Matrix state in plain PyTorch on any device: real matmuls inside a chunk, a scan of states between chunks.

Shape legend: B batch, T sites, H heads, N chunks, C sites in a chunk, K key size, V value size.

Inside a chunk that starts from the state S, with Gamma the propagator and tau_t = b_t L_t the transmission of site t,

    y_t = sum_{j <= t} (q_t . k_j) Gamma_tj v_j + Gamma_t,in (q_t^T S)        Gamma_t,in = tau_t tau_{t-1} ... tau_first
    S'  = sum_j Gamma_last,j k_j v_j^T        + Gamma_last,in S

The rows of Gamma (with the column `in` before the others) obey Gamma_t = tau_t Gamma_{t-1} + L_t e_t from
Gamma_{first-1} = e_in. That is a linear scan: only products of transmissions, so nothing is divided by a product that
underflows, and a hopping of 0 gives exact zeros. Its adjoint (`scan.py`) is the reverse row recursion

    R_t = Gammabar_t + conj(tau_{t+1}) R_{t+1},   Lbar_t = R_tt,   taubar_t = sum_j conj(Gamma_{t-1,j}) R_tj

L and Gamma are float64, rounded once to the precision of the inputs for the matmuls (`ops/precision.py` says why). The
rest is matmuls, elementwise products and the same scan over chunks, which autograd differentiates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.scan import before, linear_scan
from resnet_bk.ops.surface_green.chunked import wide_surface_green

CHUNK = 32


def propagator(transmission: Tensor, green: Tensor) -> Tensor:
    """Gamma [M, C, 1 + C] of M chunks from tau and L [M, C]; column 0 carries the state that enters the chunk."""
    chunks, sites = green.shape
    source = F.pad(torch.diag_embed(green), (1, 0))
    entering = green.new_zeros(chunks, 1 + sites)
    entering[:, 0] = 1
    return linear_scan(transmission[..., None], source, entering)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """left [..., m, n] times right [..., n, p], of which one may be complex: two real matmuls then."""
    if left.is_complex():
        return torch.complex(left.real @ right, left.imag @ right)
    return torch.complex(left @ right.real, left @ right.imag) if right.is_complex() else left @ right


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
    green = wide_surface_green(potential, hopping, absorption, initial_green)
    output, memory = propagate_through(query, key, value, green, widened(hopping)[0] * green, initial_memory)
    # A copy: the state must not keep the whole chain in memory.
    return output, narrowed(green[:, -1].clone(), initial_green.dtype), memory


def propagate_through(
    query: Tensor, key: Tensor, value: Tensor, green: Tensor, transmission: Tensor, initial_memory: Tensor
) -> tuple[Tensor, Tensor]:
    """y [B, T, H, V] and the last S [B, H, K, V] of chains whose L and tau are known, complex128 [B, T, H].

    All real where L, tau and S are (`resnet_bk.ops.propagate_modulus`).
    """
    batch, sites, heads, _ = query.shape
    # Sites that fill up the last chunk transmit all and write nothing: they hand the state on as it is.
    size = min(CHUNK, sites)
    count = -(-sites // size)
    missing = count * size - sites
    transmission = F.pad(transmission, (0, 0, 0, missing), value=1)

    def chunks(x: Tensor) -> Tensor:
        """[B, T, H, ...] to [B N H, C, ...]."""
        if x.shape[1] == sites and missing:
            x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
        return x.unflatten(1, (count, size)).movedim(2, 3).flatten(0, 2)

    q, k, v = chunks(query), chunks(key), chunks(value)
    gamma = narrowed(propagator(chunks(transmission), chunks(green)), initial_memory.dtype)
    last = gamma[:, -1, :, None]
    written = _matmul((last[:, 1:] * k).mT, v)

    def by_chunk(x: Tensor) -> Tensor:
        return x.unflatten(0, (batch, count, heads))

    memories = linear_scan(by_chunk(last[:, :1]), by_chunk(written), initial_memory)
    entering = before(memories, initial_memory).flatten(0, 2)
    output = _matmul((q @ k.mT) * gamma[:, :, 1:], v) + gamma[:, :, :1] * _matmul(q, entering)
    output = output.unflatten(0, (batch, count, heads)).movedim(3, 2).flatten(1, 2)[:, :sites]
    return output, memories[:, -1].clone()
