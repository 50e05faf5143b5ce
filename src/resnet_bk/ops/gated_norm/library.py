"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: H heads, V value size; tokens lie in any number of dimensions. The registered functions expect checked
inputs.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.sizes import TASK_TOKENS


@torch.library.custom_op("resnet_bk::gated_norm", mutates_args=(), device_types="cpu")
def gated_norm(y: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """o [..., H, V] in `dtype`, which is that of y or bfloat16; gate is [..., H V], in either, or empty.

    Not a view of it as [..., H, V]: one of a symbolic length that is kept for the backward pass has strides which
    inductor cannot compare.
    """
    from resnet_bk.ops.gated_norm import cpu
    from resnet_bk.ops.kernels import MEMORY_BOUND_OPERATIONS, flat_as_bits, launch

    output = y.new_empty(y.shape, dtype=dtype)
    arguments = map(flat_as_bits, (y, weight, gate, output))
    tokens, heads, values = _sizes(y)
    tasks = -(-tokens // TASK_TOKENS)
    launch(cpu.forward, tasks, MEMORY_BOUND_OPERATIONS * y.numel(), *arguments, tokens, heads, values, eps)
    return output


def _sizes(y: Tensor) -> tuple[int, int, int]:
    return prod(y.shape[:-2]), y.shape[-2], y.shape[-1]


@gated_norm.register_fake
def _(y: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return y.new_empty(y.shape, dtype=dtype)


@torch.library.custom_op("resnet_bk::gated_norm_backward", mutates_args=(), device_types="cpu")
def gated_norm_backward(
    output_bar: Tensor, y: Tensor, weight: Tensor, gate: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of y, weight and gate."""
    from resnet_bk.ops.gated_norm import cpu
    from resnet_bk.ops.kernels import MEMORY_BOUND_OPERATIONS, flat_as_bits, launch

    tokens, heads, values = _sizes(y)
    y_bar, gate_bar = y.new_empty(y.shape), gate.new_empty(gate.shape)
    tasks = -(-tokens // TASK_TOKENS)
    partial = weight.new_empty(tasks, values)
    arguments = map(flat_as_bits, (output_bar, y, weight, gate, y_bar, partial, gate_bar))
    launch(cpu.backward, tasks, MEMORY_BOUND_OPERATIONS * y.numel(), *arguments, tokens, heads, values, eps)
    return y_bar, partial.sum(0), gate_bar


@gated_norm_backward.register_fake
def _(output_bar: Tensor, y: Tensor, weight: Tensor, gate: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), weight.new_empty(weight.shape), gate.new_empty(gate.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, output_bar: Tensor) -> tuple[Tensor | None, ...]:
    return (*gated_norm_backward(output_bar, *ctx.saved_tensors, ctx.eps), None, None)


gated_norm.register_autograd(_backward, setup_context=_setup)
