"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks, W numbers in a vector. The registered
functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch, work
from resnet_bk.ops.precision import narrowed
from resnet_bk.ops.sizes import PROPAGATE_CHUNK, VECTOR_BYTES

Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Backward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::propagate", mutates_args=(), device_types="cpu")
def _propagate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_memory: Tensor,
    keep: bool,
) -> Forward:
    """y [B, T, H, V], the last L [B, H] and S [B, H, K, V]; for the adjoint all L [B, T, H] and, if `keep`,
    checkpoints."""
    from resnet_bk.ops.kernels import flat, head_tasks, launch
    from resnet_bk.ops.propagate import cpu

    dispatch.note("propagate", "numba")
    outputs = _empty_outputs(query, value, initial_memory, keep)
    output, last_green, memory, green, checkpoints = outputs
    inputs = (query, key, value, potential, hopping, absorption, initial_green, initial_memory)
    arguments = map(flat, (*inputs, output, green, memory, checkpoints))
    operations = potential.numel() * work.matrix_forward(query.shape[3], value.shape[3])
    tasks, group = head_tasks(*potential.shape[::2])
    launch(cpu.forward, tasks, operations, *arguments, keep, *query.shape[1:], value.shape[3], group)
    last_green.copy_(narrowed(green[:, -1], last_green.dtype))
    return outputs


def _empty_outputs(query: Tensor, value: Tensor, state: Tensor, keep: bool) -> Forward:
    batch, sites, heads, keys = query.shape
    values, wide = value.shape[3], VECTOR_BYTES // query.dtype.itemsize
    tiles, chunks = (values + wide - 1) // wide, (sites + PROPAGATE_CHUNK - 1) // PROPAGATE_CHUNK
    return (
        query.new_empty(value.shape, dtype=state.dtype),
        query.new_empty((batch, heads), dtype=state.dtype),
        query.new_empty(state.shape, dtype=state.dtype),
        query.new_empty((batch, sites, heads), dtype=torch.complex128),
        query.new_empty((batch, heads, tiles, chunks, 2, keys, wide) if keep else (0,)),
    )


@_propagate.register_fake
def _(*inputs: Any) -> Forward:
    query, _, value, *_, initial_memory, keep = inputs
    return _empty_outputs(query, value, initial_memory, keep)


@torch.library.custom_op("resnet_bk::propagate_backward", mutates_args=(), device_types="cpu")
def propagate_backward(
    output_bar: Tensor | None,
    green_bar: Tensor | None,
    memory_bar: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hopping: Tensor,
    initial_green: Tensor,
    green: Tensor,
    checkpoints: Tensor,
) -> Backward:
    """Cotangents of the eight inputs from those of y, the last L and the last S; None stands for zeros."""
    from resnet_bk.ops.kernels import flat, head_tasks, launch
    from resnet_bk.ops.propagate import cpu

    checks.kept(checkpoints)
    bars = _empty_bars(query, value, hopping, initial_green)
    tasks, group = head_tasks(*hopping.shape[::2])
    launch(
        cpu.backward,
        tasks,
        hopping.numel() * work.matrix_backward(query.shape[3], value.shape[3]),
        flat(query if output_bar is None else output_bar),
        output_bar is not None,
        flat(torch.zeros_like(initial_green) if green_bar is None else green_bar),
        flat(torch.zeros_like(bars[-1]) if memory_bar is None else memory_bar),
        *map(flat, (query, key, value, hopping, initial_green, green, checkpoints, *bars)),
        *query.shape[1:],
        value.shape[3],
        group,
    )
    return bars


def _empty_bars(query: Tensor, value: Tensor, hopping: Tensor, state: Tensor) -> Backward:
    batch, _, heads, keys = query.shape
    a, b, eta = (hopping.new_empty(hopping.shape) for _ in range(3))
    return (
        query.new_empty(query.shape),
        query.new_empty(query.shape),
        value.new_empty(value.shape),
        a,
        b,
        eta,
        state.new_empty(state.shape),
        state.new_empty(batch, heads, keys, value.shape[3]),
    )


@propagate_backward.register_fake
def _(*inputs: Any) -> Backward:
    query, _, value, hopping, initial_green, *_ = inputs[3:]
    return _empty_bars(query, value, hopping, initial_green)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Forward) -> None:
    query, key, value, _, hopping, _, initial_green, *_ = inputs
    *_, green, checkpoints = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, hopping, initial_green, green, checkpoints)


def _backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
    output_bar, green_bar, memory_bar, *_ = bars
    if output_bar is None and green_bar is None and memory_bar is None:
        return (None,) * 9
    return (*propagate_backward(output_bar, green_bar, memory_bar, *ctx.saved_tensors), None)


_propagate.register_autograd(_backward, setup_context=_setup)


def propagate(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, V], the last L [B, H] and the last S [B, H, K, V], all complex, from the inputs of
    `reference.propagate`."""
    output, green, memory, *_ = _propagate(*inputs, dispatch.wants_gradient(*inputs))
    return output, green, memory
