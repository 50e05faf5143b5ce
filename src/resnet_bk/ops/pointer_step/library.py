"""Registers the CPU kernel with PyTorch, so that FlopCounterMode and fake tensors know it.

As `resnet_bk.ops.modulus_step.library` does, and for its reason. Shape legend: B batch, H heads, K kinds of context, V
words.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import checks, dispatch, work

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _pointer_step(
    query: Tensor,
    key: Tensor,
    write: Tensor,
    gates: Tensor,
    sites: Tensor,
    log_smoothing: Tensor,
    green: Tensor,
    words: Tensor,
    scale: Tensor,
    total: Tensor,
    tokens: Tensor,
    absorption_min: float,
) -> Outputs:
    """copied, rest, L', scale' and n' of `resnet_bk.ops.pointer_step.pointer_step`; `words` is written to."""
    from resnet_bk.ops.kernels import flat, launch
    from resnet_bk.ops.pointer_step import cpu

    batch, vocab, _ = words.shape
    numbers = flat(tokens)
    if numbers.size != batch:
        raise ValueError(
            f"tokens must be [{batch}], one for each row, but got {tuple(tokens.shape)}; pass the last of each row"
        )
    checks.in_vocabulary(tokens, vocab)
    dispatch.note("surface_green", "numba")
    outputs = _empty_outputs(query, green, words, scale, total)
    heads, keys = total.shape[1:]
    operations = batch * work.pointer_step(vocab, heads, keys)
    inputs = (query, key, write, gates, sites, log_smoothing, green, words, scale, total)
    sizes = (vocab, heads, keys)
    launch(cpu.forward, batch, operations, *map(flat, inputs), numbers, *map(flat, outputs), *sizes, absorption_min)
    torch.autograd.graph.increment_version(words)  # so that a graph that holds them does not go on with others
    return outputs


def _empty_outputs(query: Tensor, green: Tensor, words: Tensor, scale: Tensor, total: Tensor) -> Outputs:
    return (
        query.new_empty(words.shape[:2]),
        query.new_empty(query.shape[0]),
        green.new_empty(green.shape),
        scale.new_empty(scale.shape),
        total.new_empty(total.shape),
    )


_NAME = "resnet_bk::pointer_step"
torch.library.define(_NAME, torch.library.infer_schema(_pointer_step, mutates_args=("words",)))
torch.library.impl(_NAME, "cpu", _pointer_step)
pointer_step = torch.ops.resnet_bk.pointer_step.default


@torch.library.register_fake(_NAME)
def _(*inputs: Any) -> Outputs:
    query, green, words, scale, total = inputs[0], *inputs[6:10]
    return _empty_outputs(query, green, words, scale, total)
