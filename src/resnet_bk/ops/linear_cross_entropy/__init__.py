"""Cross-entropy of a linear head, fused so that the full logits matrix never exists."""

import math
from numbers import Real

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.checks import has_values
from resnet_bk.ops.linear_cross_entropy.library import cross_entropy_sum, cross_entropy_tokens

__all__ = ["linear_cross_entropy"]

REDUCTIONS = ("mean", "sum", "none")
IGNORED = -100  # a target that takes no part in a loss, as in torch.nn.functional.cross_entropy


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    log_extra: Tensor | None = None,
    ignore_index: int = IGNORED,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Equal to `F.cross_entropy(F.linear(input, weight, bias), target, ...)` in memory linear in tokens + vocabulary.

    Under autocast the matmuls take the autocast dtype and everything else stays in float32, the matmuls too where
    `backend` is "auto" and PyTorch has no fast ones of that dtype on the processor. The first derivative is supported;
    a second one raises.

    Args:
        input: hidden states, float [..., D].
        weight: float [V, D]; may be the embedding matrix itself (tied weights).
        target: int64 [...], word indices in [0, V) or `ignore_index`.
        bias: float [V] or None.
        log_extra: float [...] or None: logarithm of a probability that the target has beside its softmax p_y, from
            another model for example; the loss is then -log(p_y + exp(log_extra)). Differentiable; -inf is nothing.
        ignore_index: target value of tokens that take no part; on the CPU they cost nothing either.
        label_smoothing: in [0, 1]; the share of the target's probability spread evenly over the vocabulary.
        reduction: "mean" over tokens that take part (NaN if there are none, as in PyTorch), "sum" or "none".
        backend: "numba" (compiled kernels: CPUs with AVX2 and FMA; in bfloat16 with AVX512-BF16, on AMX where it is),
            "chunked" (plain PyTorch on any device) or "auto", which takes the first of them that can run.

    Returns:
        Loss in nats, 0-d, or [...] for "none"; float64 for float64 input, else float32.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, targets outside the vocabulary (looked for on a CPU, and
            not while a graph is traced), an unknown reduction or backend, forward-mode differentiation.
    """
    _check(input, weight, target, bias, log_extra, ignore_index, label_smoothing, reduction)
    dispatch.no_tangents("linear_cross_entropy", "take F.cross_entropy of the logits", input, weight, bias, log_extra)
    matmul_dtype = input.dtype
    if dispatch.autocast_enabled(input.device) and input.dtype != torch.float64:
        matmul_dtype = torch.get_autocast_dtype(input.device.type)
    flat_input, flat_target = input.reshape(-1, input.shape[-1]), target.reshape(-1)
    flat_extra = None if log_extra is None else log_extra.reshape(-1)
    part = _taking_part(flat_target, ignore_index)
    if part is not None:  # here, so that they are neither saved nor counted; in graphs the sweep leaves them out
        flat_input, flat_target = flat_input.index_select(0, part), flat_target.index_select(0, part)
        flat_extra = None if flat_extra is None else flat_extra.index_select(0, part)
    # Autocast would otherwise round the operands of the sums inside.
    with dispatch.full_precision(input.device):
        if reduction == "none":
            losses = cross_entropy_tokens(
                flat_input, weight, flat_target, bias, flat_extra, ignore_index, label_smoothing, matmul_dtype, backend
            )
            if part is not None:
                losses = losses.new_zeros(target.numel()).index_copy(0, part, losses)
            return losses.view(target.shape)
        with_parameters = dispatch.wants_gradient(weight, bias)
        with_gradients = with_parameters or dispatch.wants_gradient(input, log_extra)
        total, *_ = cross_entropy_sum(
            flat_input,
            weight,
            flat_target,
            bias,
            flat_extra,
            ignore_index,
            label_smoothing,
            matmul_dtype,
            backend,
            with_gradients,
            with_parameters,
        )
        if reduction == "sum":
            return total
        count = (flat_target != ignore_index).sum()
        # No token at all: NaN, as in PyTorch, whose gradients are 0 there and no NaN.
        return torch.where(count > 0, total / count.clamp(min=1), math.nan)


def _taking_part(target: Tensor, ignore_index: int) -> Tensor | None:
    """Places of the tokens [N] that take part; None for all, or where it is not looked: on devices whose program would
    have to wait for the answer, in graphs, whose shapes must not depend on values, and if there are none."""
    if not has_values(target):
        return None
    part = (target != ignore_index).nonzero().squeeze(1)
    return part if 0 < part.numel() < target.numel() else None


def _check(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    log_extra: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    named = {"input": input, "weight": weight, "target": target, "bias": bias, "log_extra": log_extra}
    for name, given in named.items():
        if not isinstance(given, Tensor) and (given is not None or name not in ("bias", "log_extra")):
            raise ValueError(f"{name} must be a tensor, but got {type(given).__name__}; wrap it in torch.tensor")
    if not input.is_floating_point() or not weight.is_floating_point():
        raise ValueError(
            f"input and weight must be floating point, but got {input.dtype} and {weight.dtype}; "
            "convert them, for example with .float()"
        )
    if torch.float64 in (input.dtype, weight.dtype) and input.dtype != weight.dtype:
        raise ValueError(
            f"input and weight must both be float64 or neither, but got {input.dtype} and {weight.dtype}; "
            "convert one of them"
        )
    if weight.ndim != 2 or input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"weight must be [V, D] with D the last dimension of input, but got weight {tuple(weight.shape)} "
            f"and input {tuple(input.shape)}; pass the weight of nn.Linear(D, V)"
        )
    if not weight.numel():
        raise ValueError(
            f"weight must have at least one word and one column, but got {tuple(weight.shape)}; skip the call"
        )
    if target.shape != input.shape[:-1]:
        raise ValueError(
            f"target must have the shape of input without its last dimension, {tuple(input.shape[:-1])}, "
            f"but got {tuple(target.shape)}; shift or flatten both alike"
        )
    if target.dtype != torch.int64:
        raise ValueError(f"target must be int64 word indices, but got {target.dtype}; convert it with .long()")
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_floating_point()):
        raise ValueError(
            f"bias must be floating point of shape ({weight.shape[0]},), one value a word, but got {bias.dtype} "
            f"{tuple(bias.shape)}; pass the bias of nn.Linear(D, V) or None"
        )
    if log_extra is not None and (log_extra.shape != target.shape or not log_extra.is_floating_point()):
        raise ValueError(
            f"log_extra must be floating point of the shape of target, {tuple(target.shape)}, but got "
            f"{log_extra.dtype} {tuple(log_extra.shape)}; give every target a logarithm, -inf for nothing"
        )
    if log_extra is not None and label_smoothing:
        raise ValueError(
            f"label_smoothing must be 0 where log_extra is given, but got {label_smoothing}; it would smooth the "
            "softmax alone"
        )
    tensors = (input, weight, target, bias, log_extra)
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ValueError(
            f"input, weight, target, bias and log_extra must share a device, but got {sorted(devices)}; move them"
        )
    if not isinstance(label_smoothing, Real) or not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1], but got {label_smoothing!r}; 0 turns it off")
    check_loss(target, weight.shape[0], ignore_index, reduction)


def check_loss(target: Tensor, words: int, ignore_index: int, reduction: str) -> None:
    """
    Raises:
        ValueError: targets that are none of so many words (looked for on a CPU, and not while a graph is traced), or an
            unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, but got {reduction!r}; mean is usual")
    if has_values(target):  # elsewhere the gathers inside report a bad index
        wrong = target[(target != ignore_index) & ((target < 0) | (target >= words))]
        if wrong.numel():
            raise ValueError(
                f"target must hold indices in [0, {words}) or ignore_index={ignore_index}, "
                f"but got {wrong[0].item()}; check the tokenizer against the size of the head"
            )
