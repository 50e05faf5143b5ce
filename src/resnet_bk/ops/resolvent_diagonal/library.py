"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H chains. The registered functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch, work


@torch.library.custom_op("resnet_bk::resolvent_diagonal", mutates_args=(), device_types="cpu")
def _resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """G_tt, L and R, complex [B, T, H], from real [B, T, H]."""
    from resnet_bk.ops.kernels import launch_sweep
    from resnet_bk.ops.resolvent_diagonal import cpu

    dispatch.note("resolvent_diagonal", "numba")
    outputs = _empty_outputs(potential)
    tensors = (potential, hopping, absorption, *outputs)
    launch_sweep(cpu.forward, work.DIAGONAL_FORWARD, potential.shape, tensors)
    return outputs


def _empty_outputs(potential: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    diagonal = potential.new_empty(potential.shape, dtype=potential.dtype.to_complex())
    left, right = (potential.new_empty(potential.shape, dtype=torch.complex128) for _ in range(2))
    return diagonal, left, right


@_resolvent_diagonal.register_fake
def _(potential: Tensor, hopping: Tensor, absorption: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(potential)


@torch.library.custom_op("resnet_bk::resolvent_diagonal_backward", mutates_args=(), device_types="cpu")
def resolvent_diagonal_backward(
    diagonal_bar: Tensor, left: Tensor, right: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of potential, hopping and absorption from the one of G_tt."""
    from resnet_bk.ops.kernels import launch_sweep
    from resnet_bk.ops.resolvent_diagonal import cpu

    bars = _empty_bars(hopping)
    denominators = hopping.new_empty(hopping.shape, dtype=left.dtype)
    tensors = (diagonal_bar, left, right, potential, hopping, absorption, denominators, *bars)
    launch_sweep(cpu.backward, work.DIAGONAL_BACKWARD, hopping.shape, tensors)
    return bars


def _empty_bars(hopping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return hopping.new_empty(hopping.shape), hopping.new_empty(hopping.shape), hopping.new_empty(hopping.shape)


@resolvent_diagonal_backward.register_fake
def _(
    diagonal_bar: Tensor, left: Tensor, right: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_bars(hopping)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    # L and R are kept for the adjoint and not handed out: they have no cotangent.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:], *inputs)


def _backward(ctx: Any, diagonal_bar: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if diagonal_bar is None:
        return None, None, None
    return resolvent_diagonal_backward(diagonal_bar, *ctx.saved_tensors)


_resolvent_diagonal.register_autograd(_backward, setup_context=_setup)


def resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> Tensor:
    """G_tt [B, T, H] complex from real [B, T, H]; hopping[:, 0] has no use."""
    return _resolvent_diagonal(potential, hopping, absorption)[0]
