"""Propagators with the gradient of the earlier system: a site's own share of the derivative, and nothing else.

Shape legend: B batch, T sites, H chains (heads or channels), K key size, V value size.

The exact derivative of L_t = 1 / (a_t - i eta_t - b_t^2 L_{t-1}) reaches every site before t through L_{t-1}:

    dL_t/da_j = -L_t^2 (b_t L_{t-1})^2 ... (b_{j+1} L_j)^2

The earlier system kept j = t alone, dL_t/da_t = -L_t^2. Here L_{t-1} is a constant of the derivative of L_t in the same
way; what the chain carries is linear in its sources, and is differentiated in full. The values are those of the exact
operators. It is here to be compared with; nothing else should use it.
"""

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.propagate.chunked import propagate_through
from resnet_bk.ops.propagate_modulus.chunked import carried
from resnet_bk.ops.scan import before, linear_scan
from resnet_bk.ops.surface_green.chunked import wide_surface_green

State = tuple[Tensor, Tensor]


def local_green(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> Tensor:
    """L [B, T, H] of the precision in which chains are computed, each differentiable in its own site alone."""
    with torch.no_grad():
        left = before(wide_surface_green(potential, hopping, absorption, initial), widened(initial)[0])
    potential, hopping, absorption = widened(potential, hopping, absorption)
    return (torch.complex(potential, -absorption) - hopping * hopping * left).reciprocal()


def _initial(state: State | None, like: Tensor, *shape: int, real: bool = False) -> State:
    if state is not None:
        return state
    dtype = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    batch, _, chains = like.shape
    carried = like.new_zeros(batch, chains, *shape, dtype=dtype)
    return like.new_zeros(batch, chains, dtype=dtype), carried.real if real else carried


def propagate_vector(
    source: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, initial_state: State | None = None
) -> tuple[Tensor, State]:
    """As `resnet_bk.ops.propagate_vector`, on inputs that fit together."""
    dispatch.note("propagate_vector", "diagonal")
    green_in, psi_in = _initial(initial_state, potential)
    source = dispatch.operands("chunked", source)[0]
    with dispatch.full_precision(potential.device):
        green = local_green(potential, hopping, absorption, green_in)
        wide_source, wide_hopping, wide_psi = widened(source, hopping, psi_in)
        psi = narrowed(linear_scan(wide_hopping * green, wide_source * green, wide_psi), psi_in.dtype)
        return psi, (narrowed(green[:, -1].clone(), green_in.dtype), psi[:, -1].clone())


def propagate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """As `resnet_bk.ops.propagate`, on inputs that fit together."""
    dispatch.note("propagate", "diagonal")
    green_in, memory_in = _initial(initial_state, potential, key.shape[3], value.shape[3])
    query, key, value = dispatch.operands("chunked", query, key, value)
    with dispatch.full_precision(potential.device):
        green = local_green(potential, hopping, absorption, green_in)
        output, memory = propagate_through(query, key, value, green, widened(hopping)[0] * green, memory_in)
        return output, (narrowed(green[:, -1].clone(), green_in.dtype), memory)


def propagate_modulus(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_state: State | None = None,
    *,
    erase: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `resnet_bk.ops.propagate_modulus`, on inputs that fit together."""
    dispatch.note("propagate_modulus", "diagonal")
    green_in, memory_in = _initial(initial_state, potential, key.shape[3], value.shape[3], real=True)
    query, key, value = dispatch.operands("chunked", query, key, value)
    erase = None if erase is None else dispatch.operands("chunked", erase)[0]
    with dispatch.full_precision(potential.device):
        green = local_green(potential, hopping, absorption, green_in)
        output, memory = carried(query, key, value, green, widened(hopping)[0], erase, memory_in)
        return output, (narrowed(green[:, -1].clone(), green_in.dtype), memory)
