"""Propagation by the modulus in matmuls: L first, by whatever computes it, then the chunks of `propagate.chunked`.

Shape legend: B batch, T sites, H heads, K key size, V value size.

With |L| in the place of L and b |L| in that of the transmissions, everything behind L is `propagate.chunked` in real
numbers. The modulus is differentiable, for L is never 0: |L_t| >= 1 / (|a_t| + eta_t + b_t^2 / eta_min). L and the
propagator of a chunk are float64, as there.
"""

from torch import Tensor

from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.propagate.chunked import propagate_through
from resnet_bk.ops.surface_green import triton_library
from resnet_bk.ops.surface_green.chunked import wide_surface_green

Outputs = tuple[Tensor, Tensor, Tensor]


def carried(
    query: Tensor, key: Tensor, value: Tensor, green: Tensor, hopping: Tensor, initial_memory: Tensor
) -> tuple[Tensor, Tensor]:
    """y [B, T, H, V] and the last S [B, H, K, V] of chains whose L is known: L and b in the precision of `widened`."""
    size = green.abs()
    return propagate_through(query, key, value, size, hopping * size, initial_memory)


def propagate_modulus(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> Outputs:
    """As `reference.propagate_modulus`, L in plain PyTorch."""
    (hopping,) = widened(hopping)  # once: the two parts of its gradient are summed before they are rounded
    green = wide_surface_green(potential, hopping, absorption, initial_green)
    output, memory = carried(query, key, value, green, hopping, initial_memory)
    # A copy: the state must not keep the whole chain in memory.
    return output, narrowed(green[:, -1].clone(), initial_green.dtype), memory


def with_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> Outputs:
    """L by the kernel for GPUs, which rounds it to float32: errors of the decays, of one sign where the chain is
    uniform, add up over the 1 / eta sites of a memory."""
    green = triton_library.surface_green(potential, hopping, absorption, initial_green)
    wide_green, hopping = widened(green, hopping)
    output, memory = carried(query, key, value, wide_green, hopping, initial_memory)
    return output, green[:, -1].clone(), memory
