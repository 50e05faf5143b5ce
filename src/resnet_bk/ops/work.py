"""Floating-point operations of the compiled kernels, counted by hand: for FlopCounterMode and to choose threads.

Counted as the kernels in `<operator>/cpu*.py` do them: a sum, a product or a division is 1, a fused multiply-add 2, a
change of sign 0. What a backward sweep computes again from checkpoints counts.
"""

from collections.abc import Sequence

from resnet_bk.ops.sizes import PROPAGATE_CHUNK

# Per site of a chain. Every 1/d: b^2 1, x and y 4, x^2 + y^2 3, the division 1, two products 2 = 11.
GREEN_FORWARD = 11
GREEN_BACKWARD = 32  # L again 11, g + carry 2, conj(L)^2 5, its product 6, bbar 5, carry 3
VECTOR_FORWARD = 20  # L 11, w 3, psi 6
VECTOR_BACKWARD = 61  # L and psi again 20, p 2, wbar 6, carry 2, dbar 5 + 6 + 8, bbar 9, carry 3
DIAGONAL_FORWARD = 32  # L 11, R 8, G 11, b^2 R 2
DIAGONAL_BACKWARD = 72  # sweep to the left: G again 16, D 11, E 13, bbar 5, carry 3; to the right 24


def tokens_forward(keys: int) -> int:
    """Per site and head. Each key: N 2, the column 2, q . N 2, q . M 2; the chain: R 2, decays 3, m 1."""
    return 8 * keys + 6


def tokens_backward(keys: int) -> int:
    """Per site and head.

    Each key: N and the column again 4, qbar 3, q . qbar 2; P 3, Q 3, kbar 2, k . kbar 2. The chain: R and decays again
    5, mbar 1, decays 5, the sum 1.
    """
    return 19 * keys + 12


def matrix_forward(keys: int, values: int) -> int:
    """Per site and head. Each entry of the state: S 10, y 4; each column: L v 2; the chain: L 11, tau 2."""
    return 14 * keys * values + 2 * values + 13


def matrix_backward(keys: int, values: int) -> int:
    """Per site and head.

    Each entry of the state: S again 10, Sbar 4, Wbar 6, qbar 3 + 1, kbar 1 + 1, vbar 2, y 4, C 8, carry 2. Each
    column: L v 2, summands of dbar and bbar 3 and their sums 3. The chain: tau 2, conj(L)^2 5, dbar 8, bbar 6, carry 3.
    """
    return 42 * keys * values + 8 * values + 24


def modulus_forward(keys: int, values: int, *, erasing: bool) -> int:
    """Per site and head, behind L.

    Each entry of the state: S 3, y 2; each column: gain v 1; the chain: decay 2. Erasing: each entry 2, each column 3.
    """
    return (7 if erasing else 5) * keys * values + (4 if erasing else 1) * values + 2


def modulus_step(keys: int, values: int, taps: int, *, erasing: bool) -> int:
    """Per head, of one token.

    Each channel: filter 2 W, SiLU 4; each key, of query and key: two unit lengths 6 and a bias 1; the site with L 30
    (an exponential, logarithm or root is 1); the state; each value: what is added 1, norm and gate 6. A bias, gate or
    further value that is not there counts as well.
    """
    channels = 2 * keys + values
    state = modulus_forward(keys, values, erasing=erasing)
    return channels * (2 * taps + 4) + 14 * keys + 30 + state + 7 * values


def block_step(
    width: int, heads: int, keys: int, values: int, taps: int, inner: int, *, erasing: bool, output_norms: int
) -> int:
    """Per row, of one token.

    Each weight of a matrix 2; each number of two norms, and of `output_norms` more, 4; sites and write gate 7 a head,
    values of the first block 1 each; residuals 2, SiLU and its product 5.
    """
    maps = heads * (2 * keys + 3 * values + 4) + 3 * inner
    of_heads = heads * (modulus_step(keys, values, taps, erasing=erasing) + 7 + values)
    return 2 * width * maps + (10 + 4 * output_norms) * width + of_heads + 5 * inner


def pointer_step(words: int, heads: int, keys: int) -> int:
    """Per row, of one token.

    Each word: the product with its row 2 H K; each kind of each head: two softmaxes 8, w k 1, its column 2, n 2, q . n
    2, weight q 1; each head: the site with L 30 (an exponential, logarithm or root is 1), decay, scale and w 9, its
    gate 4, weight and smoothing 6; the gate of the vocabulary 4. Multiplying out, of one token in hundreds, does not
    count.
    """
    return 2 * words * heads * keys + heads * (16 * keys + 49) + 4


def modulus_backward(query: Sequence[int], values: int, *, erasing: bool) -> int:
    """Of all heads of a query [B, T, H, K], behind L."""
    batch, sites, heads, keys = query
    of_head = sites * _erasing_backward(keys, values) if erasing else _adding_backward(sites, keys, values)
    return batch * heads * of_head


def _erasing_backward(keys: int, values: int) -> int:
    """Per site and head.

    Each entry of the state: r 2, S again 3, Sbar 2, qbar 1 + 1, kbar 1 + 1 + 2, vbar 2, carry 1 + 2, C 2. Each column:
    u 4 and 4 again, its cotangent 2, vbar 1, gainbar 3, r . ubar 1, C 2, erasebar 3; the chain: decay 4.
    """
    return 20 * keys * values + 20 * values + 4


def _adding_backward(sites: int, keys: int, values: int) -> int:
    """Per head. An entry of a product is 2 for each of its summands; what whole tiles compute beyond a triangle is left
    out.

    Each pair of sites of a chunk: A and D 2 K + 2 V, Qbar and Kbar 4 K, Ubar 2 V, P 5, Z and two products with P 3, F 2
    and decaybar 2. Each site: four products with the state 8 K V; u, vbar and gainbar 4 V; scaling of rows 4 K, Z with
    the state 4 K; p 3, F and decaybar of the state 4. Each chunk: sum(S * Sbar) and p_last Sbar 3 K V.
    """
    chunks, rest = divmod(sites, PROPAGATE_CHUNK)
    pairs = (chunks * PROPAGATE_CHUNK * (PROPAGATE_CHUNK + 1) + rest * (rest + 1)) // 2
    of_pairs = pairs * (6 * keys + 4 * values + 12)
    of_sites = sites * (8 * keys * values + 8 * keys + 4 * values + 7)
    return of_pairs + of_sites + (chunks + (rest > 0)) * 3 * keys * values
