"""CPU kernel of one token of a block, for generation.

Shape legend: B batch, D hidden size, H heads, K key size, V value size, W taps, C = 2 H K + H V channels (queries,
keys, values), I intermediate size. Arrays are flat: hidden and hidden_after [B, D], mixer_norm and feed_forward_norm
[D], mixer_output_norm and feed_forward_output_norm [D] or empty, in_proj [C, D], write_proj [H, D], site_proj [3 H, D],
site_bias [3 H], gate_proj [H V, D] or empty, value_weight [H] and first_values [B, H, V] or both empty, out_proj
[D, H V], gate_up_proj [2 I, D], down_proj [D, I]; the others as in `resnet_bk.ops.modulus_step.cpu`.
"""

from math import sqrt

from numba.extending import register_jitable

from resnet_bk.ops.kernels import Floats, kernel
from resnet_bk.ops.modulus_step.cpu import mix_head
from resnet_bk.ops.one_token import product, sigmoid
from resnet_bk.ops.simd import scratch


@register_jitable
def _normed(x: Floats, first: int, weight: Floats, eps: float, y: Floats) -> None:
    """x[first : first + D], divided by its root mean square and times `weight`, into y, which may be x
    itself."""
    total = 0.0
    for i in range(weight.size):
        total += x[first + i] * x[first + i]
    r = 1 / sqrt(total / weight.size + eps)
    for i in range(weight.size):
        y[i] = r * x[first + i] * weight[i]


@kernel
def forward(
    begin: int,
    end: int,
    hidden: Floats,
    mixer_norm: Floats,
    in_proj: Floats,
    taps: Floats,
    bias: Floats,
    write_proj: Floats,
    site_proj: Floats,
    site_bias: Floats,
    read_norm: Floats,
    gate_proj: Floats,
    value_weight: Floats,
    out_proj: Floats,
    mixer_output_norm: Floats,
    feed_forward_norm: Floats,
    gate_up_proj: Floats,
    down_proj: Floats,
    feed_forward_output_norm: Floats,
    tail: Floats,
    green: Floats,
    memory: Floats,
    first_values: Floats,
    hidden_after: Floats,
    tail_after: Floats,
    green_after: Floats,
    memory_after: Floats,
    own: Floats,
    heads: int,
    keys: int,
    values: int,
    window: int,
    write_scale: float,
    site_scale: float,
    absorption_min: float,
    mixer_eps: float,
    read_eps: float,
    mixer_output_eps: float,
    feed_forward_eps: float,
    feed_forward_output_eps: float,
    erases: bool,
) -> None:
    width, channels, read = mixer_norm.size, heads * (2 * keys + values), heads * values
    inner = down_proj.size // width
    normed, update = scratch(hidden, width), scratch(hidden, width)
    projected, output, gate = scratch(hidden, channels), scratch(hidden, read), scratch(hidden, read)
    write, sites = scratch(hidden, heads), scratch(hidden, 3 * heads)
    gate_up, activated = scratch(hidden, 2 * inner), scratch(hidden, inner)
    further = scratch(hidden, read)
    if gate_proj.size == 0:
        gate = gate[:0]
    if value_weight.size == 0:
        further = further[:0]
    for row in range(begin, end):
        first = row * width
        _normed(hidden, first, mixer_norm, mixer_eps, normed)
        product(in_proj, 0, in_proj.size // width, normed, 0, width, projected, 0)
        product(write_proj, 0, write_proj.size // width, normed, 0, width, write, 0)
        product(site_proj, 0, site_proj.size // width, normed, 0, width, sites, 0)
        product(gate_proj, 0, gate_proj.size // width, normed, 0, width, gate, 0)
        for i in range(heads):
            write[i] *= write_scale
        for i in range(3 * heads):
            sites[i] = site_scale * sites[i] + site_bias[i]
        for i in range(further.size):
            further[i] = value_weight[i // values] * first_values[row * read + i]
        tail_size, memory_size = (window - 1) * channels, heads * keys * values
        for head in range(heads):
            mix_head(
                head,
                projected,
                tail[row * tail_size : (row + 1) * tail_size],
                taps,
                bias,
                write,
                sites,
                green[row * 2 * heads : (row + 1) * 2 * heads],
                memory[row * memory_size : (row + 1) * memory_size],
                read_norm,
                gate,
                further,
                output,
                tail_after[row * tail_size : (row + 1) * tail_size],
                green_after[row * 2 * heads : (row + 1) * 2 * heads],
                memory_after[row * memory_size : (row + 1) * memory_size],
                own[row * read : (row + 1) * read],
                heads,
                keys,
                values,
                window,
                absorption_min,
                read_eps,
                erases,
            )
        product(out_proj, 0, out_proj.size // read, output, 0, read, update, 0)
        if mixer_output_norm.size > 0:
            _normed(update, 0, mixer_output_norm, mixer_output_eps, update)
        for i in range(width):
            hidden_after[first + i] = hidden[first + i] + update[i]
        _normed(hidden_after, first, feed_forward_norm, feed_forward_eps, normed)
        product(gate_up_proj, 0, gate_up_proj.size // width, normed, 0, width, gate_up, 0)
        for i in range(inner):
            activated[i] = gate_up[i] * sigmoid(gate_up[i]) * gate_up[inner + i]
        product(down_proj, 0, down_proj.size // inner, activated, 0, inner, update, 0)
        if feed_forward_output_norm.size > 0:
            _normed(update, 0, feed_forward_output_norm, feed_forward_output_eps, update)
        for i in range(width):
            hidden_after[first + i] += update[i]
