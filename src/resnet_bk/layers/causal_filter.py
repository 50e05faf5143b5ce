"""Causal depthwise filter of a few taps, with a gradient that is quick on CPUs.

Shape legend: B batch, T tokens, P = K - 1 inputs before them or none, C channels, K taps.

With z the input behind P zeros, or behind the inputs that came before, y_t = sum over k of w_k z_{t+k} and

    d z_s = sum over k of w_k dy_{s-k}          d w_k = sum over rows and t of dy_t z_{t+k}

The first is the filter again, of dy with the taps turned round. For the second there is `resnet_bk.ops.tap_sums`.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from resnet_bk.ops.dispatch import autocast_enabled, carry_tangents, full_precision
from resnet_bk.ops.tap_sums import tap_sums


def causal_filter(x: Tensor, weight: Tensor, *, length: int) -> Tensor:
    """y [B, T, C] of x [B, T, C], or of [B, P + T, C] with the inputs before; weight [C, K].

    Under autocast x is expected in its dtype, and the taps are rounded to it; the sums of the taps' gradient are
    float32 or wider all the same.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and not carry_tangents(x, weight):
        return _CausalFilter.apply(x, weight, length)
    return _of_one(x, weight) if length == 1 and not torch.is_grad_enabled() else _filter(x, weight, length)


def _of_one(x: Tensor, weight: Tensor) -> Tensor:
    """y of a single token, for which a convolution spends its time on setting itself up."""
    if autocast_enabled(x.device):
        weight = weight.to(x.dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    taps = weight.t()[-x.shape[1] :]  # those of zeros in front are left out
    return (x.to(wide) * taps.to(wide)).sum(1, keepdim=True).to(x.dtype)


def _filter(x: Tensor, weight: Tensor, length: int) -> Tensor:
    """PyTorch's convolution, of [B, T, C] as a picture of height 1 stored channels last, so that nothing is copied."""
    taps = weight.shape[1]
    if autocast_enabled(x.device):
        weight = weight.to(x.dtype)
    padding: Any = 0 if x.shape[1] > length else (0, taps - 1)
    return _convolution(x, weight, padding)[:, :length]


def _convolution(x: Tensor, weight: Tensor, padding: Any) -> Tensor:
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight[:, None, None, :], padding=padding, groups=weight.shape[0])
    return y.squeeze(2).transpose(1, 2)


class _CausalFilter(torch.autograd.Function):
    """Both gradients have gradients too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _filter(x, weight, length)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        # A backward pass may be called under autocast too, which would round what was not rounded going forward.
        with full_precision(grad.device):
            return (
                _of_input(grad, weight, x.shape[1]) if of_x else None,
                tap_gradient(grad, x, weight.shape[1]) if of_weight else None,
                None,
            )


def _of_input(grad: Tensor, weight: Tensor, inputs: int) -> Tensor:
    taps = weight.shape[1]
    # The first P of them are of the inputs before, which may be none.
    whole = _convolution(grad, weight.flip(1).to(grad.dtype), (0, taps - 1))
    return whole if inputs > grad.shape[1] else whole[:, taps - 1 :]


@torch.library.custom_op("resnet_bk::tap_gradient", mutates_args=(), device_types="cpu")
def tap_gradient(grad: Tensor, x: Tensor, taps: int) -> Tensor:
    """d w [C, K] in float32 or wider, of d y [B, T, C] and x as in `causal_filter`."""
    return tap_sums(grad, x, taps)


@tap_gradient.register_fake
def _(grad: Tensor, x: Tensor, taps: int) -> Tensor:
    return grad.new_empty((grad.shape[2], taps), dtype=torch.promote_types(grad.dtype, torch.float32))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _of_tap_gradient(ctx: Any, bar: Tensor) -> tuple[Tensor, Tensor, None]:
    """It is linear in d y and in x, with what they are multiplied by in the filter and in the gradient of its input."""
    grad, x = ctx.saved_tensors
    with full_precision(grad.device):
        return _filter(x, bar.to(x.dtype), grad.shape[1]), _of_input(grad, bar, x.shape[1]), None


tap_gradient.register_autograd(_of_tap_gradient, setup_context=_keep)


@register_flop_formula(torch.ops.resnet_bk.tap_gradient)
def _work(gradient: tuple[int, ...], x: tuple[int, ...], taps: int, **kwargs: Any) -> int:
    """Two for each tap and number of the gradient."""
    return 2 * prod(gradient) * taps
