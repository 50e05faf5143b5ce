"""The gradient of the taps of a causal filter (`resnet_bk.layers.causal_filter`), on a CPU.

Shape legend: B batch, T tokens, P = K - 1 inputs before them or none, C channels, K taps.

PyTorch computes it with a kernel for large filters, which on one thread takes up to 20 times as long as the filter
itself (in bfloat16, 50 times).
"""

import torch
from torch import Tensor

from resnet_bk.ops import dispatch
from resnet_bk.ops.sizes import VECTOR_BYTES

AT_ONCE = 2**17  # numbers of dy that plain PyTorch multiplies while they are in cache


def tap_sums(grad: Tensor, x: Tensor, taps: int) -> Tensor:
    """d w_k = sum over rows and t of dy_t z_{t+k}, [C, K] in float32 or wider, with z the input behind P zeros.

    Args:
        grad: dy, [B, T, C].
        x: [B, T, C], or [B, P + T, C] with the inputs before.
        taps: K.
    """
    return _compiled(grad, x, taps) if dispatch.runs_compiled(grad, x) else in_pieces(grad, x, taps)


def _compiled(grad: Tensor, x: Tensor, taps: int) -> Tensor:
    from resnet_bk.ops.kernels import MEMORY_BOUND_OPERATIONS, flat_as_bits, launch
    from resnet_bk.ops.tap_sums import cpu

    dtype = torch.promote_types(torch.promote_types(grad.dtype, x.dtype), torch.float32)
    bits = (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,)  # what the kernel reads
    grad, x = (tensor if tensor.dtype in bits else tensor.to(dtype) for tensor in (grad, x))
    batch, length, channels = grad.shape
    sums = grad.new_empty((channels, taps), dtype=dtype)
    tasks = -(-channels // (cpu.BLOCK * VECTOR_BYTES // sums.itemsize))
    operations = MEMORY_BOUND_OPERATIONS * grad.numel()
    arguments = map(flat_as_bits, (grad, x, sums))
    launch(cpu.sums, tasks, operations, *arguments, batch, length, x.shape[1], channels, taps)
    return sums


def in_pieces(grad: Tensor, x: Tensor, taps: int) -> Tensor:
    """The same in plain PyTorch: K sums of products, over so many tokens at a time that what is read K times is in
    cache."""
    wide = torch.promote_types(torch.promote_types(grad.dtype, x.dtype), torch.float32)
    batch, length, channels = grad.shape
    in_front = 0 if x.shape[1] > length else taps - 1  # zeros of z that x does not have
    tokens = max(1, min(length, AT_ONCE // max(1, channels)))
    rows = max(1, AT_ONCE // max(1, channels * tokens))
    totals = [grad.new_zeros(channels, dtype=wide) for _ in range(taps)]
    for row in range(0, batch, rows):
        for start in range(0, length, tokens):
            stop = min(start + tokens, length)
            first = max(start - in_front, 0)
            of_y = grad[row : row + rows, start:stop].to(wide)
            z = x[row : row + rows, first : stop + taps - 1 - in_front].to(wide)
            for k in range(taps):
                place = start + k - in_front - first  # in z, of what tap k takes for the first token
                missing = min(max(-place, 0), stop - start)
                totals[k] += (of_y[:, missing:] * z[:, place + missing : place + stop - start]).sum((0, 1))
    return torch.stack(totals, 1)
