"""Formulas for `torch.utils.flop_counter.FlopCounterMode`: the compiled kernels and the fused vocabulary head.

Those of numba and of Triton are counted alike. FlopCounterMode counts plain PyTorch (the other backends) by its matmuls
alone.

Shape legend: B batch, T sites, H chains, K key size, V value size; N tokens, D width, V words for the vocabulary head.
"""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

# Formulas are attached to operators, so these must be registered first.
import resnet_bk.ops.block_step.library
import resnet_bk.ops.linear_cross_entropy.library
import resnet_bk.ops.modulus_step.library
import resnet_bk.ops.pointer_step.library
import resnet_bk.ops.propagate.library
import resnet_bk.ops.propagate.triton_library
import resnet_bk.ops.propagate_modulus.library
import resnet_bk.ops.propagate_tokens.library
import resnet_bk.ops.propagate_vector.library
import resnet_bk.ops.propagate_vector.triton_library
import resnet_bk.ops.resolvent_diagonal.library
import resnet_bk.ops.resolvent_diagonal.triton_library
import resnet_bk.ops.row_product.library
import resnet_bk.ops.surface_green.library
import resnet_bk.ops.surface_green.triton_library  # noqa: F401
from resnet_bk.ops import work

Shape = tuple[int, ...]
OPS = torch.ops.resnet_bk


@register_flop_formula([OPS.surface_green, OPS.surface_green_triton])
def surface_green(potential: Shape, *args: Any, **kwargs: Any) -> int:
    return work.GREEN_FORWARD * prod(potential)


@register_flop_formula([OPS.surface_green_backward, OPS.surface_green_triton_backward])
def surface_green_backward(green_bar: Shape, *args: Any, **kwargs: Any) -> int:
    return work.GREEN_BACKWARD * prod(green_bar)


@register_flop_formula([OPS.propagate_vector, OPS.propagate_vector_triton])
def propagate_vector(source: Shape, *args: Any, **kwargs: Any) -> int:
    return work.VECTOR_FORWARD * prod(source)


@register_flop_formula([OPS.propagate_vector_backward, OPS.propagate_vector_triton_backward])
def propagate_vector_backward(psi_bar: Any, green_bar: Any, source: Shape, *args: Any, **kwargs: Any) -> int:
    return work.VECTOR_BACKWARD * prod(source)


@register_flop_formula([OPS.resolvent_diagonal, OPS.resolvent_diagonal_triton])
def resolvent_diagonal(potential: Shape, *args: Any, **kwargs: Any) -> int:
    return work.DIAGONAL_FORWARD * prod(potential)


@register_flop_formula([OPS.resolvent_diagonal_backward, OPS.resolvent_diagonal_triton_backward])
def resolvent_diagonal_backward(diagonal_bar: Shape, *args: Any, **kwargs: Any) -> int:
    return work.DIAGONAL_BACKWARD * prod(diagonal_bar)


@register_flop_formula([OPS.propagate, OPS.propagate_triton])
def propagate(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return prod(query[:3]) * work.matrix_forward(query[3], value[3])


@register_flop_formula([OPS.propagate_backward, OPS.propagate_triton_backward])
def propagate_backward(
    output_bar: Any, green_bar: Any, memory_bar: Any, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any
) -> int:
    return prod(query[:3]) * work.matrix_backward(query[3], value[3])


@register_flop_formula(OPS.carry_matrix)
def carry_matrix(
    query: Shape, key: Shape, value: Shape, gain: Shape, decay: Shape, erase: Shape, *args: Any, **kwargs: Any
) -> int:
    return prod(query[:3]) * work.modulus_forward(query[3], value[3], erasing=prod(erase) > 0)


@register_flop_formula(OPS.carry_matrix_backward)
def carry_matrix_backward(
    output_bar: Any,
    memory_bar: Any,
    query: Shape,
    key: Shape,
    value: Shape,
    gain: Shape,
    decay: Shape,
    erase: Shape,
    *args: Any,
    **kwargs: Any,
) -> int:
    return work.modulus_backward(query, value[3], erasing=prod(erase) > 0)


@register_flop_formula(OPS.modulus_step)
def modulus_step(projected: Shape, tail: Shape, taps: Shape, *args: Any, **kwargs: Any) -> int:
    """Filter, norm and gate count here, and do not where they are plain PyTorch. `args` begin with the bias."""
    _, heads, keys, values = args[4]
    return projected[0] * heads * work.modulus_step(keys, values, taps[1], erasing=args[-1])


@register_flop_formula(OPS.block_step)
def block_step(hidden: Shape, mixer_norm: Shape, in_proj: Shape, taps: Shape, *args: Any, **kwargs: Any) -> int:
    """As in `modulus_step`; `args` begin with the bias, `args[8]` and `args[12]` are the output norms, `args[11]` is
    down_proj and `args[15]` S."""
    batch, heads, keys, values = args[15]
    output_norms = sum(prod(args[place]) > 0 for place in (8, 12))
    sizes = (hidden[1], heads, keys, values, taps[1], args[11][1])
    return batch * work.block_step(*sizes, erasing=args[-1], output_norms=output_norms)


@register_flop_formula(OPS.pointer_step)
def pointer_step(query: Shape, *args: Any, **kwargs: Any) -> int:
    """Softmaxes, gates and state count here, and do not where they are plain PyTorch. `args[6]` is S, `args[8]` n."""
    return query[0] * work.pointer_step(args[6][1], *args[8][1:])


@register_flop_formula(OPS.row_product)
def row_product(x: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * x[0] * prod(weight)


@register_flop_formula(OPS.propagate_tokens)
def propagate_tokens(query: Shape, *args: Any, **kwargs: Any) -> int:
    return prod(query[:3]) * work.tokens_forward(query[3])


@register_flop_formula(OPS.propagate_tokens_backward)
def propagate_tokens_backward(found_bar: Any, hits_bar: Any, query: Shape, *args: Any, **kwargs: Any) -> int:
    return prod(query[:3]) * work.tokens_backward(query[3])


def _head(input: Shape, weight: Shape, matmuls: int) -> int:
    """Matmuls of N x D x V; its elementwise part is left out, as FlopCounterMode does for the unfused head."""
    return matmuls * 2 * prod(input) * weight[0]


@register_flop_formula(OPS.linear_cross_entropy_sum)
def linear_cross_entropy_sum(input: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    """The gradients are formed in the forward pass where they are wanted: the last arguments are `with_gradients` and
    `with_parameters`."""
    return _head(input, weight, 1 + args[-2] + args[-1])


@register_flop_formula(OPS.linear_cross_entropy_tokens)
def linear_cross_entropy_tokens(input: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    return _head(input, weight, 1)


@register_flop_formula(OPS.linear_cross_entropy_tokens_backward)
def linear_cross_entropy_tokens_backward(
    loss_bar: Shape, input: Shape, weight: Shape, *args: Any, **kwargs: Any
) -> int:
    """The logits are formed again; the last argument is `with_parameters`."""
    return _head(input, weight, 2 + args[-1])
