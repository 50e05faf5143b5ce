"""A linear head over the vocabulary: its loss, and its logits after one token.

Shape legend: B batch, T tokens, D hidden size, V vocabulary.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from resnet_bk.layers.plain import is_plain
from resnet_bk.ops.dispatch import beside_token, takes_token
from resnet_bk.ops.linear_cross_entropy import IGNORED, check_loss, linear_cross_entropy
from resnet_bk.ops.precision import at_least_float32
from resnet_bk.ops.row_product import row_product

MOST_ROWS = 4  # for `row_product`: with more, matmuls of PyTorch catch up


def head_logits(hidden: Tensor, head: nn.Module) -> Tensor:
    """The logits of `head` [D] -> [V] after N tokens, [B, N, D] to [B, N, V].

    A plain head reads a token of generation by `resnet_bk.ops.row_product` where it can.
    """
    if _is_for_rows(head, hidden):
        return row_product(hidden.squeeze(1), head.weight).unsqueeze(1)
    found: Tensor = head(hidden)
    return found


def _is_for_rows(head: nn.Module, hidden: Tensor) -> TypeGuard[nn.Linear]:
    """Whether `row_product` computes what `head` does to these tokens."""
    if not takes_token(hidden) or hidden.shape[1] != 1 or hidden.shape[0] > MOST_ROWS:
        return False
    if not is_plain(head, nn.Linear) or head.bias is not None or not isinstance(head.weight, nn.Parameter):
        return False
    return head.weight.shape[1] == hidden.shape[2] and beside_token(hidden, head.weight)


def head_loss(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    log_extra: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of targets [B, T] under the logits of `head`, in nats.

    A plain linear head goes through `resnet_bk.ops.linear_cross_entropy`, which never holds the logits of a batch. A
    head that does more when it is called (`is_plain`: an adapter on it, a quantised weight, a hook that fetches the
    weight from where a `device_map` has put it) is called, and costs the memory of its logits.

    Args:
        hidden: last hidden states, [B, T, D].
        head: [D] -> [V].
        targets: int64 [B, T], -100 for those that take no part.
        log_extra: [B, T], logarithm of what is added to the probability of each target.
        reduction: "mean", "sum" or "none" ([B, T]).

    Raises:
        ValueError: as in `linear_cross_entropy`; of a head that is called, targets outside the vocabulary and an
            unknown reduction.
    """
    if is_plain(head, nn.Linear):
        return linear_cross_entropy(hidden, head.weight, targets, head.bias, log_extra=log_extra, reduction=reduction)
    logits = at_least_float32(head(hidden))
    check_loss(targets, logits.shape[-1], IGNORED, reduction)
    targets = targets.to(logits.device)  # a `device_map` may have the head elsewhere
    kept = targets != IGNORED
    log_p = logits.log_softmax(-1).gather(-1, targets.masked_fill(~kept, 0).unsqueeze(-1)).squeeze(-1)
    if log_extra is not None:
        log_p = torch.logaddexp(log_p, log_extra.to(log_p))
    losses = torch.where(kept, -log_p, 0.0).to(hidden.device)
    if reduction == "none":
        return losses
    return losses.sum() / (kept.sum().to(losses.device) if reduction == "mean" else 1)
