"""Queries and keys of unit length."""

import torch
from torch import Tensor

from resnet_bk.ops.dispatch import full_precision, runs_compiled
from resnet_bk.ops.unit_query_key import library
from resnet_bk.ops.unit_query_key.unit_length import unit_length

__all__ = ["unit_length", "unit_query_key"]


def unit_query_key(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """q, k = unit(unit(x) + bias), or unit(x) without a bias; unit(0) is 0.

    Differentiable once. One compiled kernel on a CPU; `unit_length` elsewhere, for a few tokens without a gradient and
    for forward-mode derivatives, which it has where no gradient is recorded.

    Args:
        x: [B, T, 2, H, K], queries before keys.
        bias: [2 H K], or None.

    Returns:
        Query and key, [B, T, H, K]; float32 for half precision input.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if runs_compiled(x, bias, few=False):
        if x.dtype == torch.float16:
            x = x.float()
        beside = x.new_empty(0, dtype=dtype) if bias is None else bias.view(x.shape[2:]).to(dtype)
        return library.unit_query_key(x, beside)
    both = unit_length(x)
    if bias is not None:
        with full_precision(x.device):
            both = unit_length(both + bias.view(x.shape[2:]).to(dtype))
    query, key = both.unbind(2)
    return query, key
