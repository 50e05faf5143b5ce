"""Chunked sweep over tokens: cross-entropy of a linear head and its gradients, without the logits matrix.

Shape legend: N tokens, D width, V vocabulary, C tokens in a chunk.

Derivation. For one token with input x, target y and label smoothing e, with logits z = W x + b,

    loss = logsumexp(z) - (1 - e) z_y - e mean(z)
    d loss / d z_j = p_j - (1 - e) [j = y] - e / V,        p = softmax(z)

Only the first term needs all V logits. With E = exp(Z - max) [C, V] and s = E 1 [C], a chunk adds

    d x = (E W) / s         d W = E^T (x / s)         d b = E^T (1 / s)

so the softmax is never written out: two matmuls read E as it lies in cache. The other two terms are rank-one or
gathers (rows W_y, the mean row of W) and are added outside the matmuls. Everything is known in the forward pass, so the
backward pass of a mean or a sum only scales what is stored, and memory holds C x V logits instead of N x V.
"""

import torch
from torch import Tensor

# Tokens a chunk. On CPUs 64 rows of a 30,000-word vocabulary are 7.7 MB in float32: they stay in a shared last-level
# cache, and the matmuls are still large enough to run at full speed. Accelerators want larger matmuls.
CHUNK = {"cpu": 64}
DEFAULT_CHUNK = 1024


def _add_matmul(out: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, *, keep: bool) -> None:
    """out = left @ right, or out += left @ right if `keep`, with operands rounded to `dtype`."""
    if dtype == out.dtype:
        torch.addmm(out, left, right, beta=int(keep), out=out)
    elif keep:
        out += torch.mm(left.to(dtype), right.to(dtype))
    else:
        out.copy_(torch.mm(left.to(dtype), right.to(dtype)))


def sweep(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    token_scale: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    with_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of every token and the gradients of `sum(token_scale * losses)`.

    Args:
        input: [N, D].
        weight: [V, D].
        target: [N] int64; entries equal to `ignore_index` count as zero loss and zero gradient.
        bias: [V] or None.
        token_scale: [N] cotangent of the losses; None stands for ones.
        matmul_dtype: precision of the operands of the matmuls; sums are kept in float32 or better.
        with_gradients: False leaves the three gradients empty.

    Returns:
        losses [N], gradient of input [N, D], of weight [V, D], of bias [V] (empty where not asked for), all in the
        precision of accumulation: float64 for float64 input, else float32.
    """
    tokens, width = input.shape
    vocabulary = weight.shape[0]
    accumulate = torch.promote_types(input.dtype, torch.float32)
    chunk = CHUNK.get(input.device.type, DEFAULT_CHUNK)
    x_all = input.to(accumulate)
    operand = weight.to(matmul_dtype)
    bias_row = None if bias is None else bias.to(accumulate)
    losses = x_all.new_zeros(tokens)
    grad_input = x_all.new_zeros((tokens, width) if with_gradients else (0,))
    grad_weight = x_all.new_zeros((vocabulary, width) if with_gradients else (0,))
    grad_bias = x_all.new_zeros(vocabulary if with_gradients and bias is not None else 0)

    kept = target != ignore_index
    label = target.where(kept, torch.zeros_like(target))
    scale_all = kept.to(accumulate) if token_scale is None else token_scale.to(accumulate) * kept
    mean_row = weight.to(accumulate).mean(0) if label_smoothing else None
    mean_bias = bias_row.mean() if label_smoothing and bias_row is not None else None
    # One buffer for the logits of all chunks: a new one each time would be mapped and unmapped by the allocator.
    buffer = x_all.new_empty((min(chunk, tokens), vocabulary))

    for start in range(0, tokens, chunk):
        rows = slice(start, min(start + chunk, tokens))
        x, y, scale = x_all[rows], label[rows], scale_all[rows]
        logits = buffer[: x.shape[0]]
        _add_matmul(logits, x, operand.t(), matmul_dtype, keep=False)
        if bias_row is not None:
            logits += bias_row
        at_target = logits.gather(1, y[:, None])[:, 0]
        largest = logits.amax(1, keepdim=True)
        exponentials = logits.sub_(largest).exp_()
        total = exponentials.sum(1)
        loss = total.log() + largest[:, 0] - (1.0 - label_smoothing) * at_target
        if mean_row is not None:
            mean_logit = torch.mv(x, mean_row)
            loss -= label_smoothing * (mean_logit if mean_bias is None else mean_logit + mean_bias)
        losses[rows] = loss.where(kept[rows], torch.zeros_like(loss))
        if not with_gradients:
            continue
        inverse = scale / total
        _add_matmul(grad_input[rows], exponentials, operand, matmul_dtype, keep=False)
        grad_input[rows] *= inverse[:, None]
        _add_matmul(grad_weight, exponentials.t(), x * inverse[:, None], matmul_dtype, keep=True)
        if bias_row is not None:
            grad_bias += torch.mv(exponentials.t(), inverse)

    if with_gradients:
        on_target = (1.0 - label_smoothing) * scale_all
        grad_input -= weight[label].to(accumulate) * on_target[:, None]
        grad_weight.index_add_(0, label, x_all * on_target[:, None], alpha=-1)
        if bias_row is not None:
            grad_bias.index_add_(0, label, on_target, alpha=-1)
        if mean_row is not None:
            grad_input -= label_smoothing * scale_all[:, None] * mean_row
            grad_weight -= (label_smoothing / vocabulary) * torch.mv(x_all.t(), scale_all)
            if bias_row is not None:
                grad_bias -= (label_smoothing / vocabulary) * scale_all.sum()
    return losses, grad_input, grad_weight, grad_bias


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
    with_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the losses (0-d) and its gradients, formed in the forward pass."""
    losses, grad_input, grad_weight, grad_bias = sweep(
        input, weight, target, bias, None, ignore_index, label_smoothing, matmul_dtype, with_gradients
    )
    return losses.sum(), grad_input, grad_weight, grad_bias


@cross_entropy_sum.register_fake
def _(input, weight, target, bias, ignore_index, label_smoothing, matmul_dtype, with_gradients):  # type: ignore[no-untyped-def]
    losses, *gradients = _empty(input, weight, bias, with_gradients)
    return (losses.new_empty(()), *gradients)


@torch.library.custom_op("resnet_bk::scale", mutates_args=())
def _scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient * factor` in `dtype`. It has no derivative on purpose: a second derivative raises, and is not wrong."""
    return (gradient * factor).to(dtype, copy=True)


@_scale.register_fake
def _(gradient, factor, dtype):  # type: ignore[no-untyped-def]
    return gradient.new_empty(gradient.shape, dtype=dtype)


def _sum_setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    input, weight, _, bias, *_ = inputs
    ctx.dtypes = (input.dtype, weight.dtype, None if bias is None else bias.dtype)
    ctx.save_for_backward(*output[1:])


def _sum_backward(ctx, grad_sum, *_):  # type: ignore[no-untyped-def]
    gradients = [
        _scale(gradient, grad_sum, dtype) if dtype is not None and needed else None
        for gradient, dtype, needed in zip(
            ctx.saved_tensors, ctx.dtypes, (*ctx.needs_input_grad[:2], ctx.needs_input_grad[3]), strict=True
        )
    ]
    return gradients[0], gradients[1], None, gradients[2], None, None, None, None


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
) -> Tensor:
    """Losses [N]. Their cotangents differ from token to token, so the backward pass sweeps again."""
    return sweep(input, weight, target, bias, None, ignore_index, label_smoothing, matmul_dtype, False)[0]


@cross_entropy_tokens.register_fake
def _(input, weight, target, bias, ignore_index, label_smoothing, matmul_dtype):  # type: ignore[no-untyped-def]
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
) -> tuple[Tensor, Tensor, Tensor]:
    _, grad_input, grad_weight, grad_bias = sweep(
        input, weight, target, bias, grad_losses, ignore_index, label_smoothing, matmul_dtype, True
    )
    return (
        grad_input.to(input.dtype),
        grad_weight.to(weight.dtype),
        grad_bias if bias is None else grad_bias.to(bias.dtype),
    )


@_tokens_backward.register_fake
def _(grad_losses, input, weight, target, bias, ignore_index, label_smoothing, matmul_dtype):  # type: ignore[no-untyped-def]
    return (
        torch.empty_like(input),
        torch.empty_like(weight),
        input.new_empty(0) if bias is None else torch.empty_like(bias),
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
    return grad_input, grad_weight, None, grad_bias if ctx.has_bias else None, None, None, None


cross_entropy_tokens.register_autograd(_tokens_autograd, setup_context=_tokens_setup)
