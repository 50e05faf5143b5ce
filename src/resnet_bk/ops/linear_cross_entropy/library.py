"""Registers the fused head with PyTorch, so that autograd, fake tensors and torch.compile know it.

Shape legend: N tokens, D width, V vocabulary. The registered functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.linear_cross_entropy.sweep import sweep


def _empty(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_extra: Tensor | None,
    with_gradients: bool,
    with_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs of `sweep` without values, for shape propagation."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    return (
        input.new_empty(input.shape[0], dtype=dtype),
        input.new_empty(input.shape if with_gradients else (0,), dtype=dtype),
        input.new_empty(weight.shape if with_parameters else (0,), dtype=dtype),
        input.new_empty(weight.shape[0] if with_parameters and bias is not None else 0, dtype=dtype),
        input.new_empty(input.shape[0] if with_gradients and log_extra is not None else 0, dtype=dtype),
    )


DIFFERENTIABLE = (0, 1, 3, 4)  # places of input, weight, bias and log_extra among the arguments


@torch.library.custom_op("resnet_bk::linear_cross_entropy_sum", mutates_args=())
def cross_entropy_sum(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    log_extra: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
    with_gradients: bool,
    with_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum of the losses (0-d) and its gradients, formed in the forward pass; those of weight and bias only with
    `with_parameters`, for a frozen head is as large as any."""
    options = (ignore_index, label_smoothing, matmul_dtype, backend, with_gradients, with_parameters)
    swept = sweep(input, weight, target, bias, log_extra, None, *options)
    return swept[0].sum(), *swept[1:]


@cross_entropy_sum.register_fake
def _(*inputs: Any) -> Any:
    input, weight, _, bias, log_extra, *_, with_gradients, with_parameters = inputs
    losses, *gradients = _empty(input, weight, bias, log_extra, with_gradients, with_parameters)
    return (losses.new_empty(()), *gradients)


@torch.library.custom_op("resnet_bk::scale", mutates_args=())
def _scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient * factor` in `dtype`. It has no derivative on purpose: a second derivative raises, and is not wrong."""
    return (gradient * factor).to(dtype)


@_scale.register_fake
def _(gradient, factor, dtype):  # type: ignore[no-untyped-def]
    return gradient.new_empty(gradient.shape, dtype=dtype)


def _sum_setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.dtypes = [None if inputs[place] is None else inputs[place].dtype for place in DIFFERENTIABLE]
    ctx.save_for_backward(*output[1:])
    # The gradients are outputs to PyTorch: it would fill zeros for their cotangents.
    ctx.set_materialize_grads(False)


def _sum_backward(ctx, grad_sum, *_):  # type: ignore[no-untyped-def]
    gradients = [None] * 11
    if grad_sum is None:
        return tuple(gradients)
    for place, gradient, dtype in zip(DIFFERENTIABLE, ctx.saved_tensors, ctx.dtypes, strict=True):
        if dtype is not None and ctx.needs_input_grad[place]:
            gradients[place] = _scale(gradient, grad_sum, dtype)
    return tuple(gradients)


cross_entropy_sum.register_autograd(_sum_backward, setup_context=_sum_setup)


@torch.library.custom_op("resnet_bk::linear_cross_entropy_tokens", mutates_args=())
def cross_entropy_tokens(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    log_extra: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """Losses [N]. Their cotangents differ from token to token, so the backward pass sweeps again."""
    options = (ignore_index, label_smoothing, matmul_dtype, backend, False, False)
    return sweep(input, weight, target, bias, log_extra, None, *options)[0]


@cross_entropy_tokens.register_fake
def _(*inputs: Any) -> Any:
    input, weight, _, bias, log_extra, *_ = inputs
    return _empty(input, weight, bias, log_extra, False, False)[0]


@torch.library.custom_op("resnet_bk::linear_cross_entropy_tokens_backward", mutates_args=())
def _tokens_backward(
    grad_losses: Tensor,
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    log_extra: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
    with_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options = (ignore_index, label_smoothing, matmul_dtype, backend, True, with_parameters)
    _, *gradients = sweep(input, weight, target, bias, log_extra, grad_losses, *options)
    leaves = (input, weight, bias, log_extra)
    grad_input, grad_weight, grad_bias, grad_extra = (
        gradient if leaf is None else gradient.to(leaf.dtype) for gradient, leaf in zip(gradients, leaves, strict=True)
    )
    return grad_input, grad_weight, grad_bias, grad_extra


@_tokens_backward.register_fake
def _(*inputs: Any) -> Any:
    _, input, weight, _, bias, log_extra, *_, with_parameters = inputs
    leaves = (input, weight, bias, log_extra)
    empty = _empty(input, weight, bias, log_extra, True, with_parameters)[1:]
    return tuple(x if leaf is None else x.to(leaf.dtype) for x, leaf in zip(empty, leaves, strict=True))


def _tokens_setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    tensors, ctx.options = inputs[:5], inputs[5:]
    ctx.given = [tensor is not None for tensor in tensors]
    ctx.save_for_backward(*(tensor for tensor in tensors if tensor is not None))


def _tokens_autograd(ctx, grad_losses):  # type: ignore[no-untyped-def]
    saved = iter(ctx.saved_tensors)
    tensors = [next(saved) if given else None for given in ctx.given]
    with_parameters = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
    found = _tokens_backward(grad_losses, *tensors, *ctx.options, with_parameters)
    gradients = [None] * 9
    for place, gradient in zip(DIFFERENTIABLE, found, strict=True):
        if ctx.needs_input_grad[place]:
            gradients[place] = gradient
    return tuple(gradients)


cross_entropy_tokens.register_autograd(_tokens_autograd, setup_context=_tokens_setup)
