"""One token of a modulus mixer, from its linear maps to its linear map, for generation.

Generation takes a token at a time, and each of the thirty operators between the maps of a mixer then costs more to call
than to compute. Here they are one kernel.
"""

from torch import Tensor

from resnet_bk.ops.checks import check_step
from resnet_bk.ops.modulus_step import library

__all__ = ["modulus_step"]


def modulus_step(
    projected: Tensor,
    tail: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    write: Tensor,
    sites: Tensor,
    green: Tensor,
    memory: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    further: Tensor | None = None,
    *,
    absorption_min: float,
    eps: float,
    erases: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """What a token reads, and the state behind it; without a derivative. With x_j its projection and those before it,
    unit vectors as in `unit_query_key`, and L', S' the state L, S behind the token,

        (q, k, u) = SiLU(sum over j of taps_j x_j)       q, k = unit(unit(q) + bias_q), unit(unit(k) + bias_k)
        v = u + further
        a, b, eta = sites_a, softplus(sites_b), softplus(sites_eta) + absorption_min       w = sigmoid(write)
        L' = 1 / (a - i eta - b^2 L)
        S' = |L'| (w k v^T + b (1 - e k k^T) S)          e = w if `erases`, else 0
        y = q^T S'          output = weight y / (mean of y^2 + eps)^(1/2) (1 + gate)

    as `propagate_modulus` and `gated_norm` have it. L is computed in float64; results differ from those of the single
    operators by the rounding of the rest. All inputs must be float32 or all float64 (L complex of that precision) and
    of the shapes below; those of the state are not checked again.

    Args:
        projected: x of the token, [B, C] with the channels (q, k, v), C = 2 H K + H V.
        tail: x of the W - 1 tokens before, the oldest first, [B, W - 1, C].
        taps: [C, W], that of the token itself last.
        bias: [2 H K], or None; then q = unit(q), k = unit(k).
        write: [B, H].
        sites: [B, 3 H], potentials before hoppings before absorptions.
        green: L, complex [B, H].
        memory: S, [B, H, K, V].
        weight: [V].
        gate, further: [B, H V], or None.
        absorption_min, eps, erases: as above.

    Returns:
        output [B, H V], the tail behind the token, (L', S'), and v [B, H V], in the precision of the inputs; they share
        no memory with the state before.

    Raises:
        ValueError: projections or parameters of other shapes.
    """
    batch, heads, keys, values = memory.shape
    channels = heads * (2 * keys + values)
    check_step(
        memory,
        projected=(projected, (batch, channels)),
        taps=(taps, (channels, tail.shape[1] + 1)),
        bias=(bias, (2 * heads * keys,)),
        write=(write, (batch, heads)),
        sites=(sites, (batch, 3 * heads)),
        weight=(weight, (values,)),
        gate=(gate, (batch, heads * values)),
        further=(further, (batch, heads * values)),
    )
    nothing = projected.new_empty(0)
    bias, gate, further = (nothing if x is None else x for x in (bias, gate, further))
    output, tail, green, memory, own = library.modulus_step(
        *(projected, tail, taps, bias, write, sites, green, memory, weight, gate, further),
        *(absorption_min, eps, erases),
    )
    return output, tail, (green, memory), own
