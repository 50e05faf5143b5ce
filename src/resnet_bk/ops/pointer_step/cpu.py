"""CPU kernel of one token of a pointer, for generation.

Shape legend: B batch, H heads, K kinds of context, V words. Arrays are flat: query and key [B, H, K], write
and scale and scale_after [B, H], gates [B, 1 + H], sites [B, 3, H], log_smoothing [H], green and green_after [B, H] as
pairs, words [B, V, H, K], total and total_after [B, H, K], tokens and rest [B], copied [B, V].
"""

from math import exp, log

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, Integers, kernel
from resnet_bk.ops.one_token import next_green, product, sigmoid, softplus
from resnet_bk.ops.pointer_step.sizes import LARGEST_SCALE, SMALLEST
from resnet_bk.ops.simd import scratch


@register_jitable
def _softmax(x: Floats, first: int, count: int, y: Floats) -> None:
    """Of x[first : first + count] into y."""
    largest = x[first]
    for i in range(1, count):
        largest = max(largest, x[first + i])
    total = 0.0
    for i in range(count):
        y[i] = exp(x[first + i] - largest)
        total += y[i]
    for i in range(count):
        y[i] /= total


@kernel
def forward(
    begin: int,
    end: int,
    query: Floats,
    key: Floats,
    write: Floats,
    gates: Floats,
    sites: Floats,
    log_smoothing: Floats,
    green: Floats,
    words: Floats,
    scale: Floats,
    total: Floats,
    tokens: Integers,
    copied: Floats,
    rest: Floats,
    green_after: Floats,
    scale_after: Floats,
    total_after: Floats,
    vocab: int,
    heads: int,
    keys: int,
    absorption_min: float,
) -> None:
    for row in range(begin, end):
        q, k, g, decay, modulus, factor = (
            scratch(words, keys),
            scratch(words, keys),
            scratch(words, 1 + heads),
            scratch(words, heads),
            scratch(words, heads),
            scratch(words, heads * keys),
        )
        on_words = scratch(words, heads * keys)  # what multiplies a row of `words`: weight q exp(scale')
        due = False  # whether a head's scale is too large: all heads of the row are multiplied out
        for head in range(heads):
            task, place = row * heads + head, row * 3 * heads + head
            hopping = softplus(float(sites[place + heads]))
            absorption = softplus(float(sites[place + 2 * heads])) + absorption_min
            real, imaginary, size = next_green(sites[place], hopping, absorption, green[2 * task], green[2 * task + 1])
            green_after[2 * task], green_after[2 * task + 1] = real, imaginary
            modulus[head], decay[head] = size, max(size * hopping, SMALLEST)
            scale_after[task] = scale[task] + log(float(decay[head]))
            due = due or abs(scale_after[task]) > LARGEST_SCALE
        width = heads * keys
        start = row * vocab * width
        if due:
            for head in range(heads):
                for i in range(keys):
                    factor[head * keys + i] = exp(float(scale_after[row * heads + head]))
                scale_after[row * heads + head] = 0
            for v in range(vocab):
                for i in range(width):
                    words[start + v * width + i] *= factor[i]

        _softmax(gates, row * (1 + heads), 1 + heads, g)
        unclaimed = float(g[0])
        for head in range(heads):
            task = row * heads + head
            first = task * keys
            _softmax(query, first, keys, q)
            _softmax(key, first, keys, k)
            gain = float(modulus[head]) * sigmoid(float(write[task]))
            shrunk = exp(-float(scale_after[task]))
            column = start + tokens[row] * width + head * keys
            found = 0.0
            for i in range(keys):
                arriving = gain * k[i]
                words[column + i] += shrunk * arriving
                total_after[first + i] = decay[head] * total[first + i] + arriving
                found += q[i] * total_after[first + i]
            smoothing = exp(float(log_smoothing[head]))
            weight = g[1 + head] / (found + smoothing)
            unclaimed += weight * smoothing
            for i in range(keys):
                on_words[head * keys + i] = weight / shrunk * q[i]
        rest[row] = unclaimed
        product(words[start : start + vocab * width], 0, vocab, on_words, 0, width, copied, row * vocab)
