"""Registers the CPU kernel with PyTorch, as `resnet_bk.ops.modulus_step.library` does and for its reason.

Shape legend: as in `resnet_bk.ops.block_step`. The registered function expects checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch, work

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _block_step(
    hidden: Tensor,
    mixer_norm: Tensor,
    in_proj: Tensor,
    taps: Tensor,
    bias: Tensor,
    write_proj: Tensor,
    site_proj: Tensor,
    site_bias: Tensor,
    read_norm: Tensor,
    gate_proj: Tensor,
    value_weight: Tensor,
    out_proj: Tensor,
    mixer_output_norm: Tensor,
    feed_forward_norm: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    feed_forward_output_norm: Tensor,
    tail: Tensor,
    green: Tensor,
    memory: Tensor,
    first_values: Tensor,
    write_scale: float,
    site_scale: float,
    absorption_min: float,
    mixer_eps: float,
    read_eps: float,
    mixer_output_eps: float,
    feed_forward_eps: float,
    feed_forward_output_eps: float,
    erases: bool,
) -> Outputs:
    """As `resnet_bk.ops.block_step.block_step`; what may be None there is empty here."""
    from resnet_bk.ops.block_step import cpu
    from resnet_bk.ops.kernels import flat, launch

    dispatch.note("surface_green", "numba")
    dispatch.note("propagate_modulus", "numba")
    weights = (mixer_norm, in_proj, taps, bias, write_proj, site_proj, site_bias, read_norm, gate_proj, value_weight)
    behind = (out_proj, mixer_output_norm)
    network = (feed_forward_norm, gate_up_proj, down_proj, feed_forward_output_norm)
    outputs = _empty_outputs(hidden, tail, green, memory)
    batch, heads, keys, values = memory.shape
    sizes = (heads, keys, values, taps.shape[1])
    output_norms = (mixer_output_norm.numel() > 0) + (feed_forward_output_norm.numel() > 0)
    operations = batch * work.block_step(
        hidden.shape[1], *sizes, down_proj.shape[1], erasing=erases, output_norms=output_norms
    )
    eps = (mixer_eps, read_eps, mixer_output_eps, feed_forward_eps, feed_forward_output_eps)
    scalars = (write_scale, site_scale, absorption_min, *eps, erases)
    arrays = map(flat, (hidden, *weights, *behind, *network, tail, green, memory, first_values, *outputs))
    launch(cpu.forward, batch, operations, *arrays, *sizes, *scalars)
    return outputs


def _empty_outputs(hidden: Tensor, tail: Tensor, green: Tensor, memory: Tensor) -> Outputs:
    like = (hidden, tail, green, memory)
    after = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in like]
    batch, heads, _, values = memory.shape
    return after[0], after[1], after[2], after[3], hidden.new_empty(batch, heads * values)


_NAME = "resnet_bk::block_step"
torch.library.define(_NAME, torch.library.infer_schema(_block_step, mutates_args=()))
torch.library.impl(_NAME, "cpu", _block_step)
block_step = torch.ops.resnet_bk.block_step.default


@torch.library.register_fake(_NAME)
def _(*inputs: Any) -> Outputs:
    hidden, tail, green, memory = inputs[0], *inputs[17:20]
    return _empty_outputs(hidden, tail, green, memory)
