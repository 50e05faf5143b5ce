"""Propagation by the modulus in matmuls: L first, by whatever computes it, then the chunks of `propagate.chunked`.

Shape legend: B batch, T sites, H heads, N chunks, C sites in a chunk, K key size, V value size.

With |L| in the place of L and b |L| in that of the transmissions tau, everything behind L is `propagate.chunked` in
real numbers. The modulus is differentiable, for L is never 0: |L_t| >= 1 / (|a_t| + eta_t + b_t^2 / eta_min). L and the
propagator of a chunk are float64, as there.

Where sites erase, S_t = k_t u_t^T + tau_t S_{t-1} with u_t = |L_t| v_t - tau_t e_t S_{t-1}^T k_t. Inside a chunk that S
enters, with Pi_tj = tau_t ... tau_{j+1} and Pi_t,in = tau_t ... tau_first, that is a triangular system for all u of it,

    (1 + A) u = |L| v - e Pi_in K S,       A_tj = e_t (k_t . k_j) Pi_tj  for j < t

whose solution is linear in S, u = u_0 - W S. The systems are solved for all chunks at once; what is left is a loop over
the chunks, S' = Pi_last,in S + (Pi_last K)^T (u_0 - W S).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.propagate.chunked import CHUNK, propagate_through, propagator
from resnet_bk.ops.surface_green import triton_library
from resnet_bk.ops.surface_green.chunked import wide_surface_green

Outputs = tuple[Tensor, Tensor, Tensor]


def carried(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    green: Tensor,
    hopping: Tensor,
    erase: Tensor | None,
    initial_memory: Tensor,
) -> tuple[Tensor, Tensor]:
    """y [B, T, H, V] and the last S [B, H, K, V] of chains whose L is known: L and b in the precision of `widened`."""
    size = green.abs()
    if erase is None:
        return propagate_through(query, key, value, size, hopping * size, initial_memory)
    return _erase_through(query, key, value, size, hopping * size, erase, initial_memory)


def _erase_through(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gain: Tensor,
    transmission: Tensor,
    erase: Tensor,
    initial_memory: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same where sites erase; gain and tau are float64 [B, T, H]."""
    batch, sites, heads, keys = key.shape
    size = min(CHUNK, sites)
    count = -(-sites // size)
    missing = count * size - sites

    def chunks(x: Tensor, fill: float = 0) -> Tensor:
        """[B, T, H, ...] to [B, H, N, C, ...]; sites that fill up the last chunk hand the state on as it is."""
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=fill)
        return x.unflatten(1, (count, size)).movedim(3, 1)

    q, k, v, e, g, tau = (*map(chunks, (query, key, value, erase, gain)), chunks(transmission, 1))
    flat = tau.flatten(0, 2)
    pi = narrowed(propagator(flat, torch.ones_like(flat)), initial_memory.dtype).unflatten(0, (batch, heads, count))
    entering, inside = pi[..., :1], pi[..., 1:]
    a = (e[..., None] * (k @ k.mT) * inside).tril(-1)
    written = narrowed(g, initial_memory.dtype)[..., None] * v
    right = torch.cat([written, e[..., None] * entering * k], -1)
    solved = torch.linalg.solve_triangular(a, right, upper=False, unitriangular=True)
    u_0, w = solved.split([v.shape[-1], keys], dim=-1)
    last = (inside[..., -1, :, None] * k).mT  # [B, H, N, K, C]
    memory, memories = initial_memory, []
    for n in range(count):
        memories.append(memory)
        memory = entering[:, :, n, -1:] * memory + last[:, :, n] @ (u_0[:, :, n] - w[:, :, n] @ memory)
    before = torch.stack(memories, 2)
    output = ((q @ k.mT) * inside) @ (u_0 - w @ before) + entering * (q @ before)
    return output.movedim(1, 3).flatten(1, 2)[:, :sites], memory


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
) -> Outputs:
    """As `reference.propagate_modulus`, L in plain PyTorch."""
    (hopping,) = widened(hopping)  # once: the two parts of its gradient are summed before they are rounded
    green = wide_surface_green(potential, hopping, absorption, initial_green)
    output, memory = carried(query, key, value, green, hopping, erase, initial_memory)
    # A copy: the state must not keep the whole chain in memory.
    return output, narrowed(green[:, -1].clone(), initial_green.dtype), memory


def with_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    erase: Tensor | None,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> Outputs:
    """L by the kernel for GPUs, which rounds it to float32: errors of the decays, of one sign where the chain is
    uniform, add up over the 1 / eta sites of a memory."""
    green = triton_library.surface_green(potential, hopping, absorption, initial_green)
    wide_green, hopping = widened(green, hopping)
    output, memory = carried(query, key, value, wide_green, hopping, erase, initial_memory)
    return output, green[:, -1].clone(), memory
