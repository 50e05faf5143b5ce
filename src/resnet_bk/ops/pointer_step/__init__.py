"""One token of a pointer, from its linear maps to the probabilities that it proposes, for generation.

As with `resnet_bk.ops.modulus_step`, the many operators that a token needs cost more to call than to compute.
"""

from torch import Tensor

from resnet_bk.ops.checks import check_step
from resnet_bk.ops.pointer_step import library

__all__ = ["pointer_step"]


def pointer_step(
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
    *,
    absorption_min: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """What a pointer's heads propose after a token x, and the state behind it; without a derivative. Before x the state
    is L, S and n, the sum of S over words, behind it L', S' and n':

        q, k = softmax(query), softmax(key), of each head       g = softmax(gates)
        a, b, eta = sites_a, softplus(sites_b), softplus(sites_eta) + absorption_min       w = sigmoid(write)
        L' = 1 / (a - i eta - b^2 L)
        S' = |L'| (w k e(x)^T + b S)          n' = |L'| (w k + b n)
        weight_h = g_h / (q . n' + s)         s = exp(log_smoothing)
        copied_v = sum over heads of weight_h (q^T S')_v          rest = g_0 + sum over heads of weight_h s

    as `resnet_bk.layers.pointer` has it. S is kept divided by exp(scale), `words` = S / exp(scale), so that a token
    writes a single column (what follows reads all); where |scale| would pass `sizes.LARGEST_SCALE`, all
    columns of the row are multiplied out. L is computed in float64. Inputs must all be float32 or all float64 (L
    complex of that precision), `words` contiguous, and of the shapes below; those of the state are not checked
    again.

    Shape legend: B batch, H heads, K kinds of context, V words.

    Args:
        query, key: logarithms up to a constant, [B, H K].
        write: [B, H].
        gates: [B, 1 + H].
        sites: [B, 3 H], potentials before hoppings before absorptions.
        log_smoothing: [H].
        green: L, complex [B, H].
        words: S / exp(scale), [B, V, H K]; written to.
        scale: [B, H].
        total: n, [B, H, K].
        tokens: int64 [B].
        absorption_min: as above.

    Returns:
        copied [B, V], rest [B], and (L', scale', n'), in the precision of the inputs.

    Raises:
        ValueError: projections of other shapes, another number of tokens, or one outside of the vocabulary; nothing is
            written.
    """
    batch, heads, keys = total.shape
    check_step(
        total,
        query=(query, (batch, heads * keys)),
        key=(key, (batch, heads * keys)),
        write=(write, (batch, heads)),
        gates=(gates, (batch, 1 + heads)),
        sites=(sites, (batch, 3 * heads)),
        log_smoothing=(log_smoothing, (heads,)),
    )
    copied, rest, green, scale, total = library.pointer_step(
        query, key, write, gates, sites, log_smoothing, green, words, scale, total, tokens, absorption_min
    )
    return copied, rest, (green, scale, total)
