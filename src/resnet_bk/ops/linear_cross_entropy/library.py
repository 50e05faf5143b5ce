"""Registers the fused head with PyTorch, so that autograd, fake tensors and torch.compile know it.

Shape legend: N tokens, D width, V vocabulary. The registered functions expect checked inputs.
"""

import torch
from torch import Tensor

from resnet_bk.ops.linear_cross_entropy.sweep import sweep


def _empty(
    input: Tensor, weight: Tensor, bias: Tensor | None, with_gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs of `sweep` without values, for shape propagation."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    return (
        input.new_empty(input.shape[0], dtype=dtype),
        input.new_empty(input.shape if with_gradients else (0,), dtype=dtype),
        input.new_empty(weight.shape if with_gradients else (0,), dtype=dtype),
        input.new_empty(weight.shape[0] if with_gradients and bias is not None else 0, dtype=dtype),
    )


@torch.library.custom_op("resnet_bk::linear_cross_entropy_sum", mutates_args=())
def cross_entropy_sum(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
    with_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the losses (0-d) and its gradients, formed in the forward pass."""
    losses, grad_input, grad_weight, grad_bias = sweep(
        input, weight, target, bias, None, ignore_index, label_smoothing, matmul_dtype, backend, with_gradients
    )
    return losses.sum(), grad_input, grad_weight, grad_bias


@cross_entropy_sum.register_fake
def _(input, weight, target, bias, ignore_index, label_smoothing, matmul_dtype, backend, with_gradients):  # type: ignore[no-untyped-def]
    losses, *gradients = _empty(input, weight, bias, with_gradients)
    return (losses.new_empty(()), *gradients)


@torch.library.custom_op("resnet_bk::scale", mutates_args=())
def _scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient * factor` in `dtype`. It has no derivative on purpose: a second derivative raises, and is not wrong."""
    return (gradient * factor).to(dtype)


@_scale.register_fake
def _(gradient, factor, dtype):  # type: ignore[no-untyped-def]
    return gradient.new_empty(gradient.shape, dtype=dtype)


def _sum_setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    input, weight, _, bias, *_ = inputs
    ctx.dtypes = (input.dtype, weight.dtype, None if bias is None else bias.dtype)
    ctx.save_for_backward(*output[1:])
    # The gradients are outputs to PyTorch: it would fill zeros for their cotangents.
    ctx.set_materialize_grads(False)


def _sum_backward(ctx, grad_sum, *_):  # type: ignore[no-untyped-def]
    if grad_sum is None:
        return (None,) * 9
    gradients = [
        _scale(gradient, grad_sum, dtype) if dtype is not None and needed else None
        for gradient, dtype, needed in zip(
            ctx.saved_tensors, ctx.dtypes, (*ctx.needs_input_grad[:2], ctx.needs_input_grad[3]), strict=True
        )
    ]
    return gradients[0], gradients[1], None, gradients[2], None, None, None, None, None


cross_entropy_sum.register_autograd(_sum_backward, setup_context=_sum_setup)


@torch.library.custom_op("resnet_bk::linear_cross_entropy_tokens", mutates_args=())
def cross_entropy_tokens(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """Losses [N]. Their cotangents differ from token to token, so the backward pass sweeps again."""
    return sweep(input, weight, target, bias, None, ignore_index, label_smoothing, matmul_dtype, backend, False)[0]


@cross_entropy_tokens.register_fake
def _(input, weight, target, bias, ignore_index, label_smoothing, matmul_dtype, backend):  # type: ignore[no-untyped-def]
    return _empty(input, weight, bias, False)[0]


@torch.library.custom_op("resnet_bk::linear_cross_entropy_tokens_backward", mutates_args=())
def _tokens_backward(
    grad_losses: Tensor,
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _, grad_input, grad_weight, grad_bias = sweep(
        input, weight, target, bias, grad_losses, ignore_index, label_smoothing, matmul_dtype, backend, True
    )
    return (
        grad_input.to(input.dtype),
        grad_weight.to(weight.dtype),
        grad_bias if bias is None else grad_bias.to(bias.dtype),
    )


@_tokens_backward.register_fake
def _(grad_losses, input, weight, target, bias, ignore_index, label_smoothing, matmul_dtype, backend):  # type: ignore[no-untyped-def]
    return (
        input.new_empty(input.shape),
        weight.new_empty(weight.shape),
        input.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


def _tokens_setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    input, weight, target, bias, *ctx.options = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(input, weight, target, *(() if bias is None else (bias,)))


def _tokens_autograd(ctx, grad_losses):  # type: ignore[no-untyped-def]
    input, weight, target, *bias = ctx.saved_tensors
    grad_input, grad_weight, grad_bias = _tokens_backward(
        grad_losses, input, weight, target, bias[0] if bias else None, *ctx.options
    )
    return grad_input, grad_weight, None, grad_bias if ctx.has_bias else None, None, None, None, None


cross_entropy_tokens.register_autograd(_tokens_autograd, setup_context=_tokens_setup)
