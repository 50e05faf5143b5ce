"""The normalizer of a linear head and its gradients by the kernels in `cpu.py`, `cpu_bfloat16.py` and `cpu_amx.py`.

Shape legend: N tokens, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.amx import has_amx
from resnet_bk.ops.linear_cross_entropy.sizes import AMX_TOKENS, BLOCK, TOKENS
from resnet_bk.ops.sizes import SQUARE, TILE_ROWS, VECTOR_BYTES

LANES = VECTOR_BYTES // torch.float32.itemsize


def _padded(tensor: Tensor, *multiples: int) -> Tensor:
    """A contiguous float tensor whose sizes are multiples of these, filled up with zeros; a view where it is one."""
    missing = [-size % multiple for size, multiple in zip(tensor.shape, multiples, strict=True)]
    if any(missing):
        tensor = F.pad(tensor, [pad for amount in reversed(missing) for pad in (0, amount)])
    return tensor.contiguous()


def _pairs(tensor: Tensor) -> Tensor:
    """Neighbours along the last dimension, rounded to bfloat16, as one int32 each."""
    return tensor.to(torch.bfloat16).view(torch.int32)


def normalizers(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    label: Tensor,
    scale: Tensor,
    log_extra: Tensor | None,
    matmul_dtype: torch.dtype,
    with_gradients: bool,
    with_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `chunked.normalizers`; float32 on the CPU, matmul_dtype float32 or bfloat16."""
    from resnet_bk.ops.kernels import MEMORY_BOUND_OPERATIONS, flat, launch
    from resnet_bk.ops.linear_cross_entropy import cpu, cpu_amx, cpu_bfloat16
    from resnet_bk.ops.linear_cross_entropy.steps import LOWEST

    (tokens, width), vocabulary = x.shape, weight.shape[0]
    on_amx = matmul_dtype == torch.bfloat16 and has_amx()
    # The kernels round operands and nothing else.
    at_label = (x.to(matmul_dtype).float() * weight.index_select(0, label).to(matmul_dtype).float()).sum(1)
    if bias is not None:
        at_label += bias.float().index_select(0, label)
    if on_amx:
        chunk, side, row = min(AMX_TOKENS, max(1, -(-tokens // SQUARE)) * SQUARE), SQUARE, SQUARE
    else:
        chunk, side, row = TOKENS, TILE_ROWS, LANES
    rows, words = _padded(x.detach(), chunk, row), _padded(weight.detach(), side, row)
    offsets = x.new_zeros(vocabulary) if bias is None else bias.detach().float()
    # A word that is not there has no weight in the softmax.
    offsets = F.pad(offsets, (0, words.shape[0] - vocabulary), value=-torch.inf).contiguous()
    extra = torch.full_like(scale, LOWEST) if log_extra is None else (log_extra - at_label).clamp_min(LOWEST)
    # The kernels overwrite it.
    scale = _padded(scale, chunk).clone()
    (padded_tokens, columns), padded_words = rows.shape, words.shape[0]
    blocks = -(-padded_words // BLOCK)
    grad_input = rows.new_empty(rows.shape if with_gradients else (0,))
    grad_weight = rows.new_zeros(words.shape if with_parameters else (0,))
    grad_bias = rows.new_zeros(padded_words if with_parameters and bias is not None else 0)
    weights: tuple[Tensor, ...]
    labels: tuple[Tensor, ...] = ()
    if matmul_dtype == torch.float32:
        kernels, of_rows, weights = cpu, rows, (words.float(),)
        room = rows.new_empty(padded_words * chunk)
    else:
        kernels, of_rows, rounded = cpu_amx if on_amx else cpu_bfloat16, _pairs(rows), words.to(torch.bfloat16)
        if on_amx:
            summed = _padded(rounded, BLOCK, row).view(blocks, BLOCK, columns).transpose(1, 2).contiguous()
        else:
            summed = rounded.view(-1, 2, columns).transpose(1, 2).contiguous()
        # Tokens that fill up a chunk have scale 0, whatever their label.
        weights, labels = (_pairs(rounded), _pairs(summed)), (_padded(label, chunk),)
        room = rows.new_empty(padded_words * chunk // 2, dtype=torch.int32)
    transposed = of_rows.new_empty(of_rows.shape[1], chunk)

    maxima, totals = rows.new_empty(2, padded_tokens)
    block_largest, block_total, factor = (flat(rows.new_empty(blocks * chunk)) for _ in range(3))
    partial = flat(rows.new_empty(blocks * columns * chunk if with_gradients else 0))
    read = (*map(flat, (offsets, room)), block_largest, block_total, partial)
    between = (*map(flat, (maxima, totals, scale, _padded(extra, chunk))), block_largest, block_total, factor)
    written = (flat(rows), factor, partial, *map(flat, (room, grad_input, grad_weight, grad_bias)))
    sizes = (*((chunk,) if on_amx else ()), columns, padded_words)
    operations = 2 * (1 + with_gradients) * chunk * padded_words * columns
    for first in range(0, padded_tokens, chunk):
        transposed.copy_(of_rows[first : first + chunk].T)
        of_chunk = map(flat, (transposed, *weights, *(part[first : first + chunk] for part in labels)))
        launch(kernels.first_walk, blocks, operations, *of_chunk, *read, *sizes, with_gradients)
        launch(cpu.combine, chunk // LANES, MEMORY_BOUND_OPERATIONS * blocks * chunk, first, *between, blocks, chunk)
        if with_gradients:
            # Shared out as before: what a thread left in its cache is of its own blocks.
            options = (with_parameters, bias is not None)
            launch(kernels.second_walk, blocks, operations, first, *written, *sizes, *options)
    normalizer = (totals.log() + maxima)[:tokens]
    if with_gradients:
        grad_input = grad_input[:tokens, :width].contiguous()
    if with_parameters:
        grad_weight = grad_weight[:vocabulary, :width].contiguous()
    grad_bias = grad_bias[:vocabulary].clone() if grad_bias.numel() else grad_bias
    return normalizer, at_label, grad_input, grad_weight, grad_bias
