"""CPU kernel of one token of a modulus mixer, for generation.

Shape legend: B batch, H heads, K key size, V value size, W taps, C = 2 H K + H V channels (queries, keys, values).
Arrays are flat: projected [B, C], tail and tail_after [B, W - 1, C], taps [C, W], bias [2, H, K] or empty, write
[B, H], sites [B, 3, H], green and green_after [B, H] as pairs, memory and memory_after [B, H, K, V], weight [V], gate
and further [B, H, V] or empty, output and own [B, H, V].
"""

from math import sqrt
from typing import Any

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.one_token import next_green, sigmoid, softplus
from resnet_bk.ops.simd import scratch
from resnet_bk.ops.unit_query_key.sizes import EPSILON


@register_jitable
def _filtered(
    projected: Floats,
    tail: Floats,
    taps: Floats,
    after: Floats,
    row: int,
    first: int,
    count: int,
    window: int,
    y: Floats,
) -> None:
    """SiLU of the filters of channels first, ..., first + count - 1 into y, and their new tail."""
    channels = taps.size // window
    old = row * (window - 1) * channels
    for i in range(count):
        c = first + i
        new = projected[row * channels + c]
        total = taps[c * window + window - 1] * new
        for lag in range(window - 1):
            before = tail[old + lag * channels + c]
            total += taps[c * window + lag] * before
            if lag > 0:
                after[old + (lag - 1) * channels + c] = before
        if window > 1:
            after[old + (window - 2) * channels + c] = new
        y[i] = total * sigmoid(total)


@register_jitable
def _to_unit_length(x: Floats, count: int) -> None:
    total = 0.0
    for i in range(count):
        total += x[i] * x[i]
    r = 1 / sqrt(total + EPSILON)
    for i in range(count):
        x[i] *= r


@register_jitable
def mix_head(
    task: int,
    projected: Floats,
    tail: Floats,
    taps: Floats,
    bias: Floats,
    write: Floats,
    sites: Floats,
    green: Floats,
    memory: Floats,
    weight: Floats,
    gate: Floats,
    further: Floats,
    output: Floats,
    tail_after: Floats,
    green_after: Floats,
    memory_after: Floats,
    own: Floats,
    heads: int,
    keys: int,
    values: int,
    window: int,
    absorption_min: float,
    eps: float,
    erases: bool,
) -> None:
    """Head number `task` of all heads of all rows."""
    row, head = task // heads, task % heads
    q, k, v, y, factor = (
        scratch(memory, keys),
        scratch(memory, keys),
        scratch(memory, values),
        scratch(memory, values),
        scratch(memory, 4),
    )
    _filtered(projected, tail, taps, tail_after, row, head * keys, keys, window, q)
    _filtered(projected, tail, taps, tail_after, row, (heads + head) * keys, keys, window, k)
    _filtered(projected, tail, taps, tail_after, row, 2 * heads * keys + head * values, values, window, v)
    _to_unit_length(q, keys)
    _to_unit_length(k, keys)
    if bias.size > 0:
        for i in range(keys):
            q[i] += bias[head * keys + i]
            k[i] += bias[(heads + head) * keys + i]
        _to_unit_length(q, keys)
        _to_unit_length(k, keys)
    for j in range(values):
        if further.size > 0:
            v[j] += further[task * values + j]
        own[task * values + j] = v[j]

    # As everywhere, a site in the precision of the arrays and L = 1 / (a - i eta - b^2 L of the site before) in
    # float64.
    place = row * 3 * heads + head
    factor[0] = softplus(float(sites[place + heads]))
    factor[1] = softplus(float(sites[place + 2 * heads])) + absorption_min
    hopping = factor[0]
    real, imaginary, size = next_green(sites[place], hopping, factor[1], green[2 * task], green[2 * task + 1])
    green_after[2 * task], green_after[2 * task + 1] = real, imaginary

    kept = sigmoid(float(write[task]))
    # In the precision of the arrays, or every product below would be one in float64.
    factor[0], factor[1], factor[2], factor[3] = size * hopping, size * kept, size * hopping * kept, 0
    decay, gain, take = factor[0], factor[1], factor[2]
    start = task * keys * values
    for j in range(values):
        v[j] *= gain
        y[j] = 0
    if erases:
        for i in range(keys):
            part = take * k[i]
            for j in range(values):
                v[j] -= part * memory[start + i * values + j]
    for i in range(keys):
        along, read = k[i], q[i]
        for j in range(values):
            s = decay * memory[start + i * values + j] + along * v[j]
            memory_after[start + i * values + j] = s
            y[j] += read * s

    total = 0.0
    for j in range(values):
        total += y[j] * y[j]
    factor[3] = 1 / sqrt(total / values + eps)
    r = factor[3]
    for j in range(values):
        normed = r * y[j] * weight[j]
        output[task * values + j] = normed + normed * gate[task * values + j] if gate.size > 0 else normed


@kernel
def forward(begin: int, end: int, *of_heads: Any) -> None:
    """As `mix_head`, of heads `begin` to `end` - 1."""
    for task in range(begin, end):
        mix_head(task, *of_heads)
