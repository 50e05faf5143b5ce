"""The normalizer of a linear head and its gradients in plain PyTorch, a chunk of tokens at a time.

Shape legend: N tokens, D width, V vocabulary, C tokens in a chunk.

With E = exp(Z - max) [C, V] and s = E 1 [C], a chunk adds

    logsumexp = log s + max        d x = (E W) / s         d W = E^T (x / s)         d b = E^T (1 / s)

so the softmax is never written out: two matmuls read E as it lies in cache, and memory holds C x V logits instead of
N x V.

PyTorch's matmuls of half types sum in float32 and round what they return: logits and the products of a chunk. (On CUDA
they may also round partial sums, unless `torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction` is off.) In
float16, whose numbers end at 65,504 and thin out below 6e-5, E W may be too large and x / s too small: for the products
with E one operand is scaled by a power of two, so that the largest possible sum and the operand itself lie just inside.
"""

import torch
from torch import Tensor

# Tokens a chunk. On CPUs 64 rows of a 30,000-word vocabulary are 7.7 MB in float32: they stay in a shared last-level
# cache, and the matmuls are still large enough to run at full speed. Accelerators want larger matmuls.
CHUNK = {"cpu": 64}
DEFAULT_CHUNK = 1024
LARGEST_HALF = 2.0**15  # of what a product in float16 may be


def _add_matmul(out: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, *, keep: bool) -> None:
    """out = left @ right, or out += left @ right if `keep`, with operands rounded to `dtype`."""
    if dtype == out.dtype:
        torch.addmm(out, left, right, beta=int(keep), out=out)
    elif keep:
        out += torch.mm(left.to(dtype), right.to(dtype))
    else:
        out.copy_(torch.mm(left.to(dtype), right.to(dtype)))


def _add_sums(out: Tensor, weights: Tensor, right: Tensor, dtype: torch.dtype, *, keep: bool) -> None:
    """The same for a `left` of numbers from 0 to 1, in the range of `dtype`."""
    if dtype != torch.float16:
        _add_matmul(out, weights, right, dtype, keep=keep)
        return
    right = right.to(out.dtype)
    # Sums below 1 give no more room: `right` itself must stay in range.
    largest = (weights.sum(1).amax().clamp_min(1) * right.abs().amax()).clamp_min(torch.finfo(out.dtype).tiny)
    factor = torch.exp2(torch.ceil(torch.log2(largest / LARGEST_HALF)))
    product = torch.mm(weights.to(dtype), (right / factor).to(dtype)).to(out.dtype) * factor
    out.copy_(out + product if keep else product)


def normalizers(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    label: Tensor,
    scale: Tensor,
    log_extra: Tensor | None,
    matmul_dtype: torch.dtype,
    with_gradients: bool,
    with_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logsumexp of every token's logits, one of these logits, and the gradients of `sum(scale * logsumexp)`, where the
    scale of a token with `log_extra` is multiplied by the softmax's share of its target first.

    Args:
        x: [N, D], in the precision of accumulation.
        weight: [V, D].
        bias: [V] or None.
        label: [N] int64, which logit; an index outside [0, V) raises.
        scale: [N], like `x`.
        log_extra: [N], like `x`: logarithm of what the label has beside its softmax; None for nothing.
        matmul_dtype: precision of the operands of the matmuls.
            Where they are rounded (another dtype than that of `x`), the gradients are without the share of the label.
        with_gradients: False leaves the three gradients empty.
        with_parameters: False leaves those of weight and bias empty; so it is without gradients.

    Returns:
        logsumexp [N], logit of the label [N] (rounded as the logits in logsumexp are: where one word has all the
        weight the two must cancel), gradient of x [N, D], of weight [V, D], of bias [V] (empty without), in the dtype
        of `x`.
    """
    tokens, width = x.shape
    vocabulary = weight.shape[0]
    chunk = CHUNK.get(x.device.type, DEFAULT_CHUNK)
    operand = weight.to(matmul_dtype)
    bias_row = None if bias is None else bias.to(x.dtype)
    normalizer, at_label = x.new_zeros(tokens), x.new_zeros(tokens)
    grad_input = x.new_zeros((tokens, width) if with_gradients else (0,))
    grad_weight = x.new_zeros((vocabulary, width) if with_parameters else (0,))
    grad_bias = x.new_zeros(vocabulary if with_parameters and bias is not None else 0)
    # One buffer for the logits of all chunks: a new one each time would be mapped and unmapped by the allocator.
    buffer = x.new_empty((min(chunk, tokens), vocabulary))

    for start in range(0, tokens, chunk):
        rows = slice(start, min(start + chunk, tokens))
        logits = buffer[: x[rows].shape[0]]
        _add_matmul(logits, x[rows], operand.t(), matmul_dtype, keep=False)
        if bias_row is not None:
            logits += bias_row
        at_label[rows] = logits.gather(1, label[rows, None])[:, 0]
        largest = logits.amax(1, keepdim=True)
        exponentials = logits.sub_(largest).exp_()
        total = exponentials.sum(1)
        normalizer[rows] = total.log() + largest[:, 0]
        if not with_gradients:
            continue
        if matmul_dtype != x.dtype:
            exponentials.scatter_(1, label[rows, None], 0.0)
        inverse = scale[rows] / total
        if log_extra is not None:
            inverse = inverse * torch.sigmoid(at_label[rows] - normalizer[rows] - log_extra[rows])
        _add_sums(grad_input[rows], exponentials, operand, matmul_dtype, keep=False)
        grad_input[rows] *= inverse[:, None]
        if not with_parameters:
            continue
        _add_sums(grad_weight, exponentials.t(), x[rows] * inverse[:, None], matmul_dtype, keep=True)
        if bias_row is not None:
            grad_bias += torch.mv(exponentials.t(), inverse)
    return normalizer, at_label, grad_input, grad_weight, grad_bias
