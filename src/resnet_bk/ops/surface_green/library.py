"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H chains. The registered functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch, work
from resnet_bk.ops.sizes import SWEEP_CHUNK


@torch.library.custom_op("resnet_bk::surface_green", mutates_args=(), device_types="cpu")
def _surface_green(
    potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """L [B, T, H] complex from real [B, T, H] and the complex state `initial` [B, H]; if `keep`, checkpoints."""
    from resnet_bk.ops.kernels import launch_sweep
    from resnet_bk.ops.surface_green import cpu

    dispatch.note("surface_green", "numba")
    outputs = _empty_outputs(potential, keep)
    tensors = (potential, hopping, absorption, initial, *outputs)
    launch_sweep(cpu.forward, work.GREEN_FORWARD, potential.shape, tensors, keep)
    return outputs


def _empty_outputs(potential: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    batch, sites, chains = potential.shape
    chunks = (sites + SWEEP_CHUNK - 1) // SWEEP_CHUNK
    return (
        potential.new_empty(potential.shape, dtype=potential.dtype.to_complex()),
        potential.new_empty((batch, chunks, 2, chains) if keep else (0,), dtype=torch.float64),
    )


@_surface_green.register_fake
def _(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    return _empty_outputs(potential, keep)


@torch.library.custom_op("resnet_bk::surface_green_backward", mutates_args=(), device_types="cpu")
def surface_green_backward(
    green_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, checkpoints: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cotangents of potential, hopping, absorption and initial from the one of L."""
    from resnet_bk.ops.kernels import launch_sweep
    from resnet_bk.ops.surface_green import cpu

    checks.kept(checkpoints)
    bars = _empty_bars(hopping)
    tensors = (green_bar, potential, hopping, absorption, checkpoints, *bars)
    launch_sweep(cpu.backward, work.GREEN_BACKWARD, hopping.shape, tensors)
    return bars


def _empty_bars(hopping: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _, chains = hopping.shape
    a, b, eta = (hopping.new_empty(hopping.shape) for _ in range(3))
    return a, b, eta, hopping.new_empty((batch, chains), dtype=hopping.dtype.to_complex())


@surface_green_backward.register_fake
def _(
    green_bar: Tensor, potential: Tensor, hopping: Tensor, absorption: Tensor, checkpoints: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_bars(hopping)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    potential, hopping, absorption, *_ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(potential, hopping, absorption, output[1])


def _backward(ctx: Any, green_bar: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if green_bar is None:
        return (None,) * 5
    return (*surface_green_backward(green_bar, *ctx.saved_tensors), None)


_surface_green.register_autograd(_backward, setup_context=_setup)


def surface_green(potential: Tensor, hopping: Tensor, absorption: Tensor, initial: Tensor) -> Tensor:
    """L [B, T, H] complex from real [B, T, H] and the complex state `initial` [B, H]."""
    keep = dispatch.wants_gradient(potential, hopping, absorption, initial)
    return _surface_green(potential, hopping, absorption, initial, keep)[0]
