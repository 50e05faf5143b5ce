"""First-order linear recurrence along dimension 1 in plain PyTorch, in log2(T) steps and without a division.

    x_t = decay_t x_{t-1} + source_t

Shape legend: B batch, T steps, ... trailing dimensions (decay broadcasts against source in them).

Forward: Hillis and Steele's scan of the maps x -> decay x + source; a step joins each map with the one `reach` before
it. Products of decays are only ever multiplied, so a decay of 0 cuts exactly and an underflow is harmless.

Adjoint (bars are cotangents, dL/dRe + i dL/dIm): the same recurrence from the right with conjugate decays,

    xbar_t = given_t + conj(decay_{t+1}) xbar_{t+1}
    sourcebar_t = xbar_t        decaybar_t = conj(x_{t-1}) xbar_t        x_{-1}bar = conj(decay_0) xbar_0
"""

from typing import Any

import torch
from torch import Tensor


def scan(decay: Tensor, source: Tensor) -> Tensor:
    """x of the recurrence from x_{-1} = 0, outside autograd."""
    reach, steps = 1, source.shape[1]
    while reach < steps:
        source = torch.cat([source[:, :reach], source[:, reach:] + decay[:, reach:] * source[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return source


def reverse_scan(decay: Tensor, source: Tensor) -> Tensor:
    """x_t = decay_{t+1} x_{t+1} + source_t; the first decay has no use."""
    shifted = torch.cat([decay[:, 1:], decay[:, :1]], 1)  # the last one would meet x_T = 0
    return scan(shifted.flip(1), source.flip(1)).flip(1)


def before(x: Tensor, initial: Tensor) -> Tensor:
    """x_{t-1} for every t."""
    return torch.cat([initial.unsqueeze(1), x[:, :-1]], 1)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, source: Tensor, initial: Tensor) -> Tensor:
        first = source[:, :1] + decay[:, :1] * initial.unsqueeze(1)
        x = scan(decay, torch.cat([first, source[:, 1:]], 1))
        ctx.save_for_backward(decay, x, initial)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, x, initial = ctx.saved_tensors
        x_bar = reverse_scan(decay.conj(), grad)
        decay_bar = (before(x, initial).conj() * x_bar).sum_to_size(decay.shape)
        return decay_bar, x_bar, decay[:, 0].conj() * x_bar[:, 0]


def linear_scan(decay: Tensor, source: Tensor, initial: Tensor) -> Tensor:
    """x_t = decay_t x_{t-1} + source_t with x_{-1} = initial; differentiable in all three.

    Args:
        decay: complex or real [B, T, ...], broadcasts against `source`.
        source: of the same dtype, [B, T, ...].
        initial: of the same dtype, [B, ...], as `source` without its dimension 1.

    Returns:
        The shape and dtype of `source`.
    """
    return _LinearScan.apply(decay, source, initial)
