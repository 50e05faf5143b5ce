"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H chains. The registered functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch, work
from resnet_bk.ops.sizes import SWEEP_CHUNK

Forward = tuple[Tensor, Tensor, Tensor]
Backward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("resnet_bk::propagate_vector", mutates_args=(), device_types="cpu")
def _propagate_vector(
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    initial_green: Tensor,
    initial_psi: Tensor,
    keep: bool,
) -> Forward:
    """psi [B, T, H] and the last L [B, H], complex, from real [B, T, H] and states [B, H]; if `keep`, checkpoints."""
    from resnet_bk.ops.kernels import launch_sweep
    from resnet_bk.ops.propagate_vector import cpu

    dispatch.note("propagate_vector", "numba")
    outputs = _empty_outputs(source, keep)
    tensors = (source, potential, hopping, absorption, initial_green, initial_psi, *outputs)
    launch_sweep(cpu.forward, work.VECTOR_FORWARD, source.shape, tensors, keep)
    return outputs


def _empty_outputs(source: Tensor, keep: bool) -> Forward:
    batch, sites, chains = source.shape
    chunks, dtype = (sites + SWEEP_CHUNK - 1) // SWEEP_CHUNK, source.dtype.to_complex()
    return (
        source.new_empty(source.shape, dtype=dtype),
        source.new_empty((batch, chains), dtype=dtype),
        source.new_empty((batch, chunks, 4, chains) if keep else (0,), dtype=torch.float64),
    )


@_propagate_vector.register_fake
def _(*inputs: Any) -> Forward:
    source, *_, keep = inputs
    return _empty_outputs(source, keep)


@torch.library.custom_op("resnet_bk::propagate_vector_backward", mutates_args=(), device_types="cpu")
def propagate_vector_backward(
    psi_bar: Tensor | None,
    green_bar: Tensor | None,
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    checkpoints: Tensor,
) -> Backward:
    """Cotangents of the six inputs from those of psi and the last L; None stands for zeros."""
    from resnet_bk.ops.kernels import launch_sweep
    from resnet_bk.ops.propagate_vector import cpu

    checks.kept(checkpoints)
    bars = _empty_bars(source)
    if psi_bar is None:
        psi_bar = torch.zeros_like(source, dtype=source.dtype.to_complex())
    if green_bar is None:
        green_bar = torch.zeros_like(bars[-1])
    tensors = (psi_bar, green_bar, source, potential, hopping, absorption, checkpoints, *bars)
    launch_sweep(cpu.backward, work.VECTOR_BACKWARD, source.shape, tensors)
    return bars


def _empty_bars(source: Tensor) -> Backward:
    batch, _, chains = source.shape
    u, a, b, eta = (source.new_empty(source.shape) for _ in range(4))
    green, psi = (source.new_empty((batch, chains), dtype=source.dtype.to_complex()) for _ in range(2))
    return u, a, b, eta, green, psi


@propagate_vector_backward.register_fake
def _(*inputs: Any) -> Backward:
    source = inputs[2]
    return _empty_bars(source)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Forward) -> None:
    source, potential, hopping, absorption, *_ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(source, potential, hopping, absorption, output[-1])


def _backward(ctx: Any, psi_bar: Tensor | None, green_bar: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if psi_bar is None and green_bar is None:
        return (None,) * 7
    return (*propagate_vector_backward(psi_bar, green_bar, *ctx.saved_tensors), None)


_propagate_vector.register_autograd(_backward, setup_context=_setup)


def propagate_vector(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """psi [B, T, H] and the last L [B, H], complex, from the inputs of `reference.propagate_vector`."""
    psi, green, _ = _propagate_vector(*inputs, dispatch.wants_gradient(*inputs))
    return psi, green
