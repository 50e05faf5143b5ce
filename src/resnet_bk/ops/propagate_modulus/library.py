"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks, W numbers in a vector. The registered
functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch, work
from resnet_bk.ops.precision import narrowed, widened
from resnet_bk.ops.sizes import PROPAGATE_CHUNK, VECTOR_BYTES
from resnet_bk.ops.surface_green import library as surface_green

Backward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::carry_matrix", mutates_args=(), device_types="cpu")
def _carry_matrix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gain: Tensor,
    decay: Tensor,
    erase: Tensor,
    initial_memory: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, V] and the last S [B, H, K, V] of S_t = gain_t k_t v_t^T + decay_t (1 - erase_t k_t k_t^T) S_{t-1};
    for the adjoint, if `keep`, checkpoints. gain and decay are float64 [B, T, H], erase is [B, T, H] in the precision
    of the query, or empty where nothing is erased."""
    from resnet_bk.ops.kernels import flat, head_tasks, launch
    from resnet_bk.ops.propagate_modulus import cpu

    dispatch.note("propagate_modulus", "numba")
    outputs = _empty_outputs(query, value, initial_memory, keep)
    arguments = map(flat, (query, key, value, gain, decay, erase, initial_memory, *outputs))
    operations = gain.numel() * work.modulus_forward(query.shape[3], value.shape[3], erasing=erase.numel() > 0)
    tasks, group = head_tasks(*gain.shape[::2])
    launch(cpu.forward, tasks, operations, *arguments, keep, *query.shape[1:], value.shape[3], group)
    return outputs


def _empty_outputs(query: Tensor, value: Tensor, state: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, sites, heads, keys = query.shape
    values, wide = value.shape[3], VECTOR_BYTES // query.dtype.itemsize
    tiles, chunks = (values + wide - 1) // wide, (sites + PROPAGATE_CHUNK - 1) // PROPAGATE_CHUNK
    return (
        query.new_empty(value.shape),
        query.new_empty(state.shape),
        query.new_empty((batch, heads, tiles, chunks, keys, wide) if keep else (0,)),
    )


@_carry_matrix.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, _, value, *_, initial_memory, keep = inputs
    return _empty_outputs(query, value, initial_memory, keep)


@torch.library.custom_op("resnet_bk::carry_matrix_backward", mutates_args=(), device_types="cpu")
def carry_matrix_backward(
    output_bar: Tensor | None,
    memory_bar: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gain: Tensor,
    decay: Tensor,
    erase: Tensor,
    checkpoints: Tensor,
) -> Backward:
    """Cotangents of the seven inputs from those of y and the last S; None stands for zeros."""
    from resnet_bk.ops.kernels import flat, head_tasks, launch
    from resnet_bk.ops.propagate_modulus import cpu, cpu_adjoint

    checks.kept(checkpoints)
    bars = _empty_bars(query, value, gain, erase)
    erasing = erase.numel() > 0
    arguments: tuple[Tensor, ...] = (query, key, value, gain, decay, erase, checkpoints, *bars)
    if not erasing:
        arguments = (*arguments[:5], checkpoints, *bars[:5], bars[6])
    tasks, group = head_tasks(*gain.shape[::2])
    launch(
        cpu.backward_erasing if erasing else cpu_adjoint.backward,
        tasks,
        work.modulus_backward(query.shape, value.shape[3], erasing=erasing),
        flat(query if output_bar is None else output_bar),
        output_bar is not None,
        flat(torch.zeros_like(bars[-1]) if memory_bar is None else memory_bar),
        *map(flat, arguments),
        *query.shape[1:],
        value.shape[3],
        group,
    )
    return bars


def _empty_bars(query: Tensor, value: Tensor, gain: Tensor, erase: Tensor) -> Backward:
    batch, _, heads, keys = query.shape
    return (
        query.new_empty(query.shape),
        query.new_empty(query.shape),
        value.new_empty(value.shape),
        gain.new_empty(gain.shape),
        gain.new_empty(gain.shape),
        erase.new_empty(erase.shape),
        query.new_empty(batch, heads, keys, value.shape[3]),
    )


@carry_matrix_backward.register_fake
def _(*inputs: Any) -> Backward:
    query, _, value, gain, _, erase, _ = inputs[2:]
    return _empty_bars(query, value, gain, erase)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], output[2])


def _backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
    output_bar, memory_bar, _ = bars
    if output_bar is None and memory_bar is None:
        return (None,) * 8
    return (*carry_matrix_backward(output_bar, memory_bar, *ctx.saved_tensors), None)


_carry_matrix.register_autograd(_backward, setup_context=_setup)


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
    """As `reference.propagate_modulus`. L is float64 between the two kernels, and so is the gradient of the hopping
    until its two parts, by L and by the decay, have met: most of them may cancel."""
    dtype = initial_green.dtype
    potential, hopping, absorption, initial_green = widened(potential, hopping, absorption, initial_green)
    green = surface_green.surface_green(potential, hopping, absorption, initial_green)
    size = green.abs()
    nothing = query.new_empty(0)
    inputs = (query, key, value, size, hopping * size, nothing if erase is None else erase, initial_memory)
    output, memory, _ = _carry_matrix(*inputs, dispatch.wants_gradient(*inputs))
    # A copy: the state must not keep the whole chain in memory.
    return output, narrowed(green[:, -1].clone(), dtype), memory
