"""Registers the CPU kernel with PyTorch, so that FlopCounterMode and fake tensors know it.

Not by `torch.library.custom_op`, as the kernels that have a gradient: what it puts around a call takes as long as three
tokens' work of this one.

Shape legend: B batch, H heads, K key size, V value size, W taps, C = 2 H K + H V channels. The registered function
expects checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch, work

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _modulus_step(
    projected: Tensor,
    tail: Tensor,
    taps: Tensor,
    bias: Tensor,
    write: Tensor,
    sites: Tensor,
    green: Tensor,
    memory: Tensor,
    weight: Tensor,
    gate: Tensor,
    further: Tensor,
    absorption_min: float,
    eps: float,
    erases: bool,
) -> Outputs:
    """As `resnet_bk.ops.modulus_step.modulus_step`; bias, gate and further are empty where there are none."""
    from resnet_bk.ops.kernels import flat, launch
    from resnet_bk.ops.modulus_step import cpu

    dispatch.note("surface_green", "numba")
    dispatch.note("propagate_modulus", "numba")
    outputs = _empty_outputs(projected, tail, green, memory)
    batch, heads, keys, values = memory.shape
    operations = batch * heads * work.modulus_step(keys, values, taps.shape[1], erasing=erases)
    arguments = (projected, tail, taps, bias, write, sites, green, memory, weight, gate, further, *outputs)
    sizes = (heads, keys, values, taps.shape[1])
    launch(cpu.forward, batch * heads, operations, *map(flat, arguments), *sizes, absorption_min, eps, erases)
    return outputs


def _empty_outputs(projected: Tensor, tail: Tensor, green: Tensor, memory: Tensor) -> Outputs:
    batch, heads, _, values = memory.shape
    return (
        projected.new_empty(batch, heads * values),
        projected.new_empty(tail.shape),
        green.new_empty(green.shape),
        memory.new_empty(memory.shape),
        projected.new_empty(batch, heads * values),
    )


_NAME = "resnet_bk::modulus_step"
torch.library.define(_NAME, torch.library.infer_schema(_modulus_step, mutates_args=()))
torch.library.impl(_NAME, "cpu", _modulus_step)
modulus_step = torch.ops.resnet_bk.modulus_step.default


@torch.library.register_fake(_NAME)
def _(*inputs: Any) -> Outputs:
    projected, tail, _, _, _, _, green, memory, *_ = inputs
    return _empty_outputs(projected, tail, green, memory)
