"""Registers the Triton kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H chains, N pieces. The registered functions expect checked inputs, float32 or half.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.triton_sizes import pieces

Backward = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::surface_green_triton", mutates_args=())
def _surface_green(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """L [B, T, H] complex from real [B, T, H] and the complex state `initial` [B, H]; L before each piece."""
    from resnet_bk.ops.surface_green import triton

    dispatch.note("surface_green", "triton")
    return triton.forward(potential, hopping, absorption, initial)


@_surface_green.register_fake
def _(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, chains = potential.shape
    return (
        potential.new_empty(potential.shape, dtype=torch.complex64),
        potential.new_empty((2, batch, pieces(*potential.shape), chains), dtype=torch.float64),
    )


@torch.library.custom_op("resnet_bk::surface_green_triton_backward", mutates_args=())
def surface_green_backward(
    green_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, entering: Tensor
) -> Backward:
    """Cotangents of potential, hopping, absorption and initial from the one of L."""
    from resnet_bk.ops.surface_green import triton

    a, b, eta, initial = triton.backward(green_bar, potential, hopping, absorption, entering)
    return a.to(potential.dtype), b.to(hopping.dtype), eta.to(absorption.dtype), initial


@surface_green_backward.register_fake
def _(green_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, entering: Tensor) -> Backward:
    a, b, eta = (x.new_empty(x.shape) for x in (potential, hopping, absorption))
    return a, b, eta, entering.new_empty(potential.shape[::2], dtype=torch.complex64)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], output[1])


def _backward(ctx: Any, green_bar: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if green_bar is None:
        return (None,) * 4
    return surface_green_backward(green_bar, *ctx.saved_tensors)


_surface_green.register_autograd(_backward, setup_context=_setup)


def surface_green(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> Tensor:
    """L [B, T, H] complex from real [B, T, H] and the complex state `initial` [B, H]."""
    return _surface_green(potential, hopping, absorption, initial)[0]
