"""Cross-entropy of a linear head and its gradients, without the logits matrix.

Shape legend: N tokens, D width, V vocabulary.

Derivation. For one token with input x, target y and label smoothing e, with logits z = W x + b,

    loss = logsumexp(z) - (1 - e) z_y - e mean(z)
    d loss / d z_j = p_j - (1 - e) [j = y] - e / V,        p = softmax(z)

Only the first term needs all V logits: `normalizers` of a backend gives it and its gradients, in the forward pass, so
that the backward pass of a mean or a sum only scales what is stored, and z_y with the same rounding. The gradients of
the other two terms are gathers (rows W_y) and rank-one (the mean row of W), and are added here.

With `log_extra` = u the target has e^u beside its softmax: loss = -log(p_y + e^u), and with r = p_y / (p_y + e^u)

    d loss / d z_j = r (p_j - [j = y]),        d loss / d u = r - 1

so that r multiplies the scale of the token.

Where the operands of the matmuls are rounded to half precision, the share of the label itself, p_y, is left out of the
matmuls and added with the second term, as p_y - 1 = expm1(z_y - logsumexp(z)) times the unrounded W_y and x. A token
that is predicted well has 1 - p_y << 1, and rounding p_y W_y would leave little of the difference (p_y - 1) W_y.
"""

from functools import partial

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.linear_cross_entropy import chunked, compiled
from resnet_bk.ops.precision import HALF

NORMALIZERS = {"numba": compiled.normalizers, "chunked": chunked.normalizers}


def _obstacle(accumulate: torch.dtype, matmul_dtype: torch.dtype, backend: str) -> str | None:
    """Why a backend cannot work in these precisions on this processor (`dispatch.choose`)."""
    multiplied = {torch.float32: True, torch.bfloat16: dispatch.cpu_has("avx512bf16")}.get(matmul_dtype, False)
    if backend != "numba" or (accumulate == torch.float32 and multiplied):
        return None
    return (
        "multiplies in float32 or, with AVX512-BF16, in bfloat16, but got "
        f"{matmul_dtype} on this processor; take 'chunked' or 'auto'"
    )


def spread_labels(target: Tensor, kept: Tensor, vocabulary: int) -> Tensor:
    """`target` [N] where `kept`; elsewhere any word, and not the same for all: on a GPU sums into one row wait for one
    another."""
    return target.where(kept, torch.arange(target.shape[0], device=target.device) % vocabulary)


def sweep(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    log_extra: Tensor | None,
    token_scale: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    matmul_dtype: torch.dtype,
    backend: str,
    with_gradients: bool,
    with_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses of every token and the gradients of `sum(token_scale * losses)`.

    Args:
        input: [N, D].
        weight: [V, D].
        target: [N] int64; entries equal to `ignore_index` count as zero loss and zero gradient.
        bias: [V] or None.
        log_extra: [N] logarithm of what the target has beside its softmax, or None; without label smoothing.
        token_scale: [N] cotangent of the losses; None stands for ones.
        matmul_dtype: precision of the operands of the matmuls; sums over tokens and words are float32 or better.
            Where PyTorch has no fast matmuls of a half type on a CPU, "auto" does not round: float32 is faster.
        backend: "auto", "numba" or "chunked". Chosen here, at run time, so that it is recorded in compiled graphs too.
        with_gradients: False leaves the four gradients empty.
        with_parameters: False leaves those of weight and bias empty; so it is without gradients.

    Returns:
        losses [N], gradient of input [N, D], of weight [V, D], of bias [V], of log_extra [N] (empty where not asked
        for), all in the precision of accumulation: float64 for float64 input, else float32.

    Raises:
        ValueError: `backend` is unknown, or cannot work in these precisions on this machine.
    """
    vocabulary = weight.shape[0]
    accumulate = torch.promote_types(input.dtype, torch.float32)
    on_cpu = input.device.type == "cpu"
    if backend == "auto" and on_cpu and matmul_dtype in HALF and not dispatch.cpu_multiplies(matmul_dtype):
        matmul_dtype = accumulate
    backend = dispatch.choose("linear_cross_entropy", backend, input, partial(_obstacle, accumulate, matmul_dtype))
    kept = target != ignore_index
    # On a CPU the number of kept tokens is known without a wait, and the others are not computed (those of graphs, and
    # of a batch in which none takes part: all others do not come here).
    if on_cpu and not bool(kept.all()):
        index = kept.nonzero()[:, 0]
        losses, grad_input, grad_weight, grad_bias, grad_extra = sweep(
            input[index],
            weight,
            target[index],
            bias,
            None if log_extra is None else log_extra[index],
            None if token_scale is None else token_scale[index],
            ignore_index,
            label_smoothing,
            matmul_dtype,
            backend,
            with_gradients,
            with_parameters,
        )
        all_losses = losses.new_zeros(target.shape).index_copy_(0, index, losses)
        if with_gradients:
            grad_input = grad_input.new_zeros(input.shape).index_copy_(0, index, grad_input)
        if with_gradients and log_extra is not None:
            grad_extra = grad_extra.new_zeros(target.shape).index_copy_(0, index, grad_extra)
        return all_losses, grad_input, grad_weight, grad_bias, grad_extra
    dispatch.note("linear_cross_entropy", backend)
    x = input.to(accumulate)
    label = spread_labels(target, kept, vocabulary)
    scale = kept.to(accumulate) if token_scale is None else token_scale.to(accumulate) * kept
    extra = None if log_extra is None else log_extra.to(accumulate)
    normalizer, at_label, grad_input, grad_weight, grad_bias = NORMALIZERS[backend](
        x, weight, bias, label, scale, extra, matmul_dtype, with_gradients, with_parameters
    )
    bias_row = None if bias is None else bias.to(accumulate)
    loss = normalizer - (1.0 - label_smoothing) * at_label
    mean_row = weight.to(accumulate).mean(0) if label_smoothing else None
    if mean_row is not None:
        mean_logit = torch.mv(x, mean_row)
        loss -= label_smoothing * (mean_logit if bias_row is None else mean_logit + bias_row.mean())
    grad_extra = x.new_empty(0)
    if extra is not None:
        log_odds = at_label - normalizer - extra
        loss = -torch.logaddexp(-loss, extra)
        if with_gradients:
            grad_extra = -torch.sigmoid(-log_odds) * scale
            scale = scale * torch.sigmoid(log_odds)
    losses = loss.where(kept, torch.zeros_like(loss))
    if with_gradients:
        # p_y - (1 - e), or its second part where the matmuls have the first.
        share = torch.expm1(at_label - normalizer) if matmul_dtype != accumulate else -1.0
        on_target = (share + label_smoothing) * scale
        grad_input += weight.index_select(0, label).to(accumulate) * on_target[:, None]
        if mean_row is not None:
            grad_input -= label_smoothing * scale[:, None] * mean_row
    if with_parameters:
        grad_weight.index_add_(0, label, x * on_target[:, None])
        if bias_row is not None:
            grad_bias.index_add_(0, label, on_target)
        if mean_row is not None:
            grad_weight -= (label_smoothing / vocabulary) * torch.mv(x.t(), scale)
            if bias_row is not None:
                grad_bias -= (label_smoothing / vocabulary) * scale.sum()
    return losses, grad_input, grad_weight, grad_bias, grad_extra
