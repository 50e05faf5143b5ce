"""Registers the Triton kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H heads, K key size, V value size, N chunks. The registered functions expect checked
inputs, float32 or half.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.triton_sizes import CHUNK, pieces

Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Backward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::propagate_triton", mutates_args=())
def _propagate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_memory: Tensor,
) -> Forward:
    """y [B, T, H, V], the last L [B, H] and S [B, H, K, V]; for the adjoint all L [B, T, H], L before each piece, S
    before each chunk and the transmission of each chunk."""
    from resnet_bk.ops.propagate import triton

    dispatch.note("propagate", "triton")
    return triton.forward(query, key, value, potential, hopping, absorption, initial_green, initial_memory)


@_propagate.register_fake
def _(*inputs: Any) -> Forward:
    query, _, value, potential, _, _, initial_green, _ = inputs
    batch, sites, heads, keys = query.shape
    values, chunks, kept = value.shape[3], -(-sites // CHUNK), initial_green.real.dtype
    return (
        initial_green.new_empty(value.shape),
        initial_green.new_empty((batch, heads)),
        initial_green.new_empty((batch, heads, keys, values)),
        initial_green.new_empty((batch, sites, heads)),
        query.new_empty((2, batch, pieces(*potential.shape), heads), dtype=torch.float64),
        query.new_empty((batch, heads, chunks, 2, keys, values), dtype=kept),
        query.new_empty((batch, heads, chunks, 2), dtype=kept),
    )


@torch.library.custom_op("resnet_bk::propagate_triton_backward", mutates_args=())
def propagate_backward(
    output_bar: Tensor | None,
    green_bar: Tensor | None,
    memory_bar: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    green: Tensor,
    entering: Tensor,
    states: Tensor,
    factors: Tensor,
) -> Backward:
    """Cotangents of the eight inputs from those of y, the last L and the last S; None stands for zeros."""
    from resnet_bk.ops.propagate import triton

    inputs = (query, key, value, potential, hopping, absorption)
    bars = triton.backward(output_bar, green_bar, memory_bar, *inputs, green, entering, states, factors)
    q, k, v, a, b, eta = (bar.to(x.dtype) for bar, x in zip(bars, inputs, strict=False))
    return q, k, v, a, b, eta, bars[6], bars[7]


@propagate_backward.register_fake
def _(*inputs: Any) -> Backward:
    query, key, value, potential, hopping, absorption, green, *_ = inputs[3:]
    batch, _, heads, keys = query.shape
    q, k, v, a, b, eta = (x.new_empty(x.shape) for x in (query, key, value, potential, hopping, absorption))
    initial_green = green.new_empty((batch, heads))
    return q, k, v, a, b, eta, initial_green, green.new_empty((batch, heads, keys, value.shape[3]))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Forward) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], *output[3:])


def _backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(bar is None for bar in bars[:3]):
        return (None,) * 8
    return propagate_backward(*bars[:3], *ctx.saved_tensors)


_propagate.register_autograd(_backward, setup_context=_setup)


def propagate(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, V], the last L [B, H] and the last S [B, H, K, V], all complex, from the inputs of
    `reference.propagate`."""
    output, green, memory, *_ = _propagate(*inputs)
    return output, green, memory
