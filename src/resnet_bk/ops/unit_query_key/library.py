"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T tokens, H heads, K key size. The registered functions expect checked inputs.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.sizes import TASK_TOKENS


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """The memory of x [B, T, 2, H, K] from its first number to its last, and the numbers from token to token."""
    stride, row = x.stride(1), prod(x.shape[2:])
    as_rows = x.stride()[2:] == (row // 2, x.shape[4], 1) and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * stride)
    if not as_rows or stride < row or not x.numel():
        return x.reshape(-1), row
    return x.as_strided(((x.shape[0] * x.shape[1] - 1) * stride + row,), (1,)), stride


@torch.library.custom_op("resnet_bk::unit_query_key", mutates_args=(), device_types="cpu")
def unit_query_key(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key [B, T, H, K] of x [B, T, 2, H, K]; bias is [2, H, K], or empty where there is none, in the
    precision of the results: that of x, or float32 where x is bfloat16."""
    from resnet_bk.ops.kernels import MEMORY_BOUND_OPERATIONS, flat_as_bits, launch
    from resnet_bk.ops.unit_query_key import cpu

    batch, length, _, heads, keys = x.shape
    query, key = _empty_outputs(x, bias)
    rows, stride = _rows(x)
    arguments = map(flat_as_bits, (rows, bias, query, key))
    tasks, operations = -(-batch * length // TASK_TOKENS), MEMORY_BOUND_OPERATIONS * x.numel()
    launch(cpu.forward, tasks, operations, *arguments, batch * length, stride, heads, keys)
    return query, key


def _empty_outputs(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, _, heads, keys = x.shape
    return bias.new_empty(batch, length, heads, keys), bias.new_empty(batch, length, heads, keys)


@unit_query_key.register_fake
def _(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return _empty_outputs(x, bias)


@torch.library.custom_op("resnet_bk::unit_query_key_backward", mutates_args=(), device_types="cpu")
def unit_query_key_backward(query_bar: Tensor, key_bar: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangents of x and of the bias."""
    from resnet_bk.ops.kernels import MEMORY_BOUND_OPERATIONS, flat_as_bits, launch
    from resnet_bk.ops.unit_query_key import cpu

    batch, length, _, heads, keys = x.shape
    x_bar = x.new_empty(x.shape)
    tasks, operations = -(-batch * length // TASK_TOKENS), MEMORY_BOUND_OPERATIONS * x.numel()
    partial = bias.new_empty(tasks, *bias.shape)
    rows, stride = _rows(x)
    arguments = map(flat_as_bits, (query_bar, key_bar, rows, bias, x_bar, partial))
    launch(cpu.backward, tasks, operations, *arguments, batch * length, stride, heads, keys)
    return x_bar, partial.sum(0)


@unit_query_key_backward.register_fake
def _(query_bar: Tensor, key_bar: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, *bars: Tensor) -> tuple[Tensor, Tensor]:
    return unit_query_key_backward(*bars, *ctx.saved_tensors)


unit_query_key.register_autograd(_backward, setup_context=_setup)
