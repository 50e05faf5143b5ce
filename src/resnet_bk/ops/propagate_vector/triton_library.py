"""Registers the Triton kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H chains, N pieces. The registered functions expect checked inputs, float32 or half.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.triton_sizes import pieces

Forward = tuple[Tensor, Tensor, Tensor]
Backward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::propagate_vector_triton", mutates_args=())
def _propagate_vector(
    source: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, initial_green: Tensor, initial_psi: Tensor
) -> Forward:
    """psi [B, T, H] and the last L [B, H], complex, from real [B, T, H] and states [B, H]; L and psi before each
    piece."""
    from resnet_bk.ops.propagate_vector import triton

    dispatch.note("propagate_vector", "triton")
    return triton.forward(source, potential, hopping, absorption, initial_green, initial_psi)


@_propagate_vector.register_fake
def _(*inputs: Any) -> Forward:
    source = inputs[0]
    batch, _, chains = source.shape
    return (
        source.new_empty(source.shape, dtype=torch.complex64),
        source.new_empty((batch, chains), dtype=torch.complex64),
        source.new_empty((4, batch, pieces(*source.shape), chains), dtype=torch.float64),
    )


@torch.library.custom_op("resnet_bk::propagate_vector_triton_backward", mutates_args=())
def propagate_vector_backward(
    psi_bar: Tensor | None,
    green_bar: Tensor | None,
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    entering: Tensor,
) -> Backward:
    """Cotangents of the six inputs from those of psi and the last L; None stands for zeros."""
    from resnet_bk.ops.propagate_vector import triton

    if psi_bar is None:
        psi_bar = source.new_zeros(source.shape, dtype=torch.complex64)
    if green_bar is None:
        green_bar = source.new_zeros(source.shape[::2], dtype=torch.complex64)
    u, a, b, eta, *states = triton.backward(psi_bar, green_bar, source, potential, hopping, absorption, entering)
    u, a, b, eta = u.to(source.dtype), a.to(potential.dtype), b.to(hopping.dtype), eta.to(absorption.dtype)
    return u, a, b, eta, states[0], states[1]


@propagate_vector_backward.register_fake
def _(*inputs: Any) -> Backward:
    source, potential, hopping, absorption, _ = inputs[2:]
    u, a, b, eta = (x.new_empty(x.shape) for x in (source, potential, hopping, absorption))
    green, psi = (source.new_empty(source.shape[::2], dtype=torch.complex64) for _ in range(2))
    return u, a, b, eta, green, psi


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Forward) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], output[-1])


def _backward(ctx: Any, psi_bar: Tensor | None, green_bar: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if psi_bar is None and green_bar is None:
        return (None,) * 6
    return propagate_vector_backward(psi_bar, green_bar, *ctx.saved_tensors)


_propagate_vector.register_autograd(_backward, setup_context=_setup)


def propagate_vector(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """psi [B, T, H] and the last L [B, H], complex, from the inputs of `reference.propagate_vector`."""
    psi, green, _ = _propagate_vector(*inputs)
    return psi, green
