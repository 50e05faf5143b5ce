"""Registers the CPU kernels with PyTorch, so that autograd, fake tensors and torch.compile know them.

Shape legend: B batch, T sites, H heads, K key size. The registered functions expect checked inputs.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops import dispatch, work


def _numbered(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int]:
    """The words as numbers from 0, so that a kernel can lay them side by side, and how many there are."""
    words, numbers = torch.cat([tokens, targets], dim=1).unique(return_inverse=True)
    return *numbers.split([tokens.shape[1], targets.shape[1]], dim=1), len(words)


@torch.library.custom_op("resnet_bk::propagate_tokens", mutates_args=(), device_types="cpu")
def _propagate_tokens(
    query: Tensor, key: Tensor, log_transmission: Tensor, tokens: Tensor, targets: Tensor, document: Tensor
) -> tuple[Tensor, Tensor]:
    """n and m [B, T, H]; document is int64 [B, T], or empty for one chain a row."""
    from resnet_bk.ops.kernels import flat, launch
    from resnet_bk.ops.propagate_tokens import cpu

    dispatch.note("propagate_tokens", "numba")
    *numbers, words = _numbered(tokens, targets)
    found, hits = (query.new_empty(log_transmission.shape) for _ in range(2))
    arguments = map(flat, (query, key, log_transmission, *numbers, document, found, hits))
    operations = log_transmission.numel() * work.tokens_forward(query.shape[3])
    batch, sites, heads, keys = query.shape
    launch(cpu.forward, batch * heads, operations, *arguments, words, sites, heads, keys)
    return found, hits


@_propagate_tokens.register_fake
def _(
    query: Tensor, key: Tensor, log_transmission: Tensor, tokens: Tensor, targets: Tensor, document: Tensor
) -> tuple[Tensor, Tensor]:
    return query.new_empty(log_transmission.shape), query.new_empty(log_transmission.shape)


@torch.library.custom_op("resnet_bk::propagate_tokens_backward", mutates_args=(), device_types="cpu")
def propagate_tokens_backward(
    found_bar: Tensor,
    hits_bar: Tensor,
    query: Tensor,
    key: Tensor,
    log_transmission: Tensor,
    tokens: Tensor,
    targets: Tensor,
    document: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of query, key and log_transmission from those of n and m."""
    from resnet_bk.ops.kernels import flat, launch
    from resnet_bk.ops.propagate_tokens import cpu

    *numbers, words = _numbered(tokens, targets)
    bars = _empty_bars(query, log_transmission)
    arguments = map(flat, (found_bar, hits_bar, query, key, log_transmission, *numbers, document, *bars))
    operations = log_transmission.numel() * work.tokens_backward(query.shape[3])
    batch, sites, heads, keys = query.shape
    launch(cpu.backward, batch * heads, operations, *arguments, words, sites, heads, keys)
    return bars


def _empty_bars(query: Tensor, log_transmission: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(log_transmission.shape)


@propagate_tokens_backward.register_fake
def _(
    found_bar: Tensor, hits_bar: Tensor, query: Tensor, key: Tensor, log_transmission: Tensor, *words: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_bars(query, log_transmission)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, found_bar: Tensor, hits_bar: Tensor) -> tuple[Tensor | None, ...]:
    return (*propagate_tokens_backward(found_bar, hits_bar, *ctx.saved_tensors), None, None, None)


_propagate_tokens.register_autograd(_backward, setup_context=_setup)


def propagate_tokens(
    query: Tensor, key: Tensor, log_transmission: Tensor, tokens: Tensor, targets: Tensor, document: Tensor | None
) -> tuple[Tensor, Tensor]:
    """n and m, [B, T, H]."""
    cuts = tokens.new_empty(0) if document is None else document
    return _propagate_tokens(query, key, log_transmission, tokens, targets, cuts)
