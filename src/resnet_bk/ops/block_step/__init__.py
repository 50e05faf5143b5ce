"""One token of a residual block with a modulus mixer and a dense feed-forward network, for generation.

A token is read by every weight once, and a matrix that meets one vector takes as long as it takes to come from memory.
All else of a block, forty operators of PyTorch, costs more to call than to compute. Here it is one kernel.
"""

from typing import NamedTuple

from torch import Tensor

from resnet_bk.ops.block_step import library

__all__ = ["BlockSettings", "BlockWeights", "block_step"]


class BlockWeights(NamedTuple):
    """Parameters of a block.

    Shape legend: D hidden size, H heads, K key size, V value size, W taps, C = 2 H K + H V channels (queries, keys,
    values), I intermediate size.

    Attributes:
        mixer_norm: [D].
        in_proj: [C, D].
        taps: [C, W], that of the token itself last.
        bias: of queries and keys, [2 H K], or None.
        write_proj: [H, D].
        site_proj, site_bias: [3 H, D] and [3 H], potentials before hoppings before absorptions.
        read_norm: [V].
        gate_proj: [H V, D], or None.
        value_weight: of the first block's values, [H], or None.
        out_proj: [D, H V].
        mixer_output_norm: [D], or None.
        feed_forward_norm: [D].
        gate_up_proj: [2 I, D].
        down_proj: [D, I].
        feed_forward_output_norm: [D], or None.
    """

    mixer_norm: Tensor
    in_proj: Tensor
    taps: Tensor
    bias: Tensor | None
    write_proj: Tensor
    site_proj: Tensor
    site_bias: Tensor
    read_norm: Tensor
    gate_proj: Tensor | None
    value_weight: Tensor | None
    out_proj: Tensor
    mixer_output_norm: Tensor | None
    feed_forward_norm: Tensor
    gate_up_proj: Tensor
    down_proj: Tensor
    feed_forward_output_norm: Tensor | None


class BlockSettings(NamedTuple):
    """What a block has beside its parameters.

    Attributes:
        write_scale, site_scale: of what `write_proj` and `site_proj` give.
        absorption_min: floor of the absorption.
        mixer_eps, read_eps, mixer_output_eps, feed_forward_eps, feed_forward_output_eps: beside the mean squares of the
            norms.
        erases: as in `modulus_step`.
    """

    write_scale: float
    site_scale: float
    absorption_min: float
    mixer_eps: float
    read_eps: float
    mixer_output_eps: float
    feed_forward_eps: float
    feed_forward_output_eps: float
    erases: bool


def block_step(
    hidden: Tensor,
    weights: BlockWeights,
    settings: BlockSettings,
    tail: Tensor,
    green: Tensor,
    memory: Tensor,
    first_values: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """A token of each row behind the block, and the state behind it; without a derivative:

        n = norm(x)      m = x + out_proj modulus_step(in_proj n, write_scale write_proj n,
                                                       site_scale site_proj n + site_bias, gate_proj n,
                                                       value_weight first_values)
        x' = m + down_proj (SiLU(g) u)      (g, u) = gate_up_proj norm(m)

    with norm(x) = weight x / (mean of x^2 + eps)^(1/2) and `resnet_bk.ops.modulus_step` as it is; where there are
    output norms, what out_proj and down_proj give goes through them before it is added. Results differ from those of
    the single operators by the rounding of sums. Each row reads all weights anew: it is for a few rows, and runs on as
    many threads as there are rows at most. All inputs must be float32 or all float64 (`green` complex of that
    precision) and of the shapes below and of `BlockWeights`: they are not checked again.

    Shape legend: B batch, and that of `BlockWeights`.

    Args:
        hidden: x, [B, D].
        weights, settings: of the block.
        tail, green, memory: the state, as in `modulus_step`: [B, W - 1, C], complex [B, H], [B, H, K, V].
        first_values: of the first block, [B, H V], where there is a `value_weight`; None where there is none.

    Returns:
        x' [B, D], the tail behind the token, (L', S'), and the token's values v of `modulus_step`, [B, H V], in the
        precision of the inputs; they share no memory with the state before.
    """
    nothing = hidden.new_empty(0)
    given = (nothing if weight is None else weight for weight in weights)
    first = nothing if first_values is None else first_values
    after, tail, green, memory, own = library.block_step(hidden, *given, tail, green, memory, first, *settings)
    return after, tail, (green, memory), own
