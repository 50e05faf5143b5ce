"""Registers the Triton kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H chains, N pieces. The registered functions expect checked inputs, float32 or half.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.triton_sizes import pieces

Backward = tuple[Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::resolvent_diagonal_triton", mutates_args=())
def _resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> tuple[Tensor, Tensor]:
    """G_tt complex [B, T, H] from real [B, T, H]; what each piece sees on its left and right."""
    from resnet_bk.ops.resolvent_diagonal import triton

    dispatch.note("resolvent_diagonal", "triton")
    return triton.forward(potential, hopping, absorption)


@_resolvent_diagonal.register_fake
def _(potential: Tensor, hopping: Tensor, absorption: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, chains = potential.shape
    return (
        potential.new_empty(potential.shape, dtype=torch.complex64),
        potential.new_empty((4, batch, pieces(*potential.shape), chains), dtype=torch.float64),
    )


@torch.library.custom_op("resnet_bk::resolvent_diagonal_triton_backward", mutates_args=())
def resolvent_diagonal_backward(
    diagonal_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, entering: Tensor
) -> Backward:
    """Cotangents of potential, hopping and absorption from the one of G_tt."""
    from resnet_bk.ops.resolvent_diagonal import triton

    a, b, eta = triton.backward(diagonal_bar, potential, hopping, absorption, entering)
    return a.to(potential.dtype), b.to(hopping.dtype), eta.to(absorption.dtype)


@resolvent_diagonal_backward.register_fake
def _(diagonal_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, entering: Tensor) -> Backward:
    return potential.new_empty(potential.shape), hopping.new_empty(hopping.shape), absorption.new_empty(hopping.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, diagonal_bar: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if diagonal_bar is None:
        return None, None, None
    return resolvent_diagonal_backward(diagonal_bar, *ctx.saved_tensors)


_resolvent_diagonal.register_autograd(_backward, setup_context=_setup)


def resolvent_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> Tensor:
    """G_tt [B, T, H] complex from real [B, T, H]; hopping[:, 0] has no use."""
    return _resolvent_diagonal(potential, hopping, absorption)[0]
