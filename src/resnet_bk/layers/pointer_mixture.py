"""What the heads of a pointer propose, and its mixture with the softmax of the vocabulary (`resnet_bk.layers.pointer`).

Shape legend: B batch, T tokens, N places of which all words are wanted, D hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnet_bk.layers.head import head_loss
from resnet_bk.layers.pointer_state import PointerState
from resnet_bk.ops.linear_cross_entropy import IGNORED
from resnet_bk.ops.pointer_step.sizes import SMALLEST


class Pointed(NamedTuple):
    """What the heads propose.

    Attributes:
        copied: probability that they give: to the target of each token [B, T], or to every word [B, N, V].
        rest: share that is left to the vocabulary, [B, T] or [B, N].
        state: after the last token; of no use where it was not asked for.
    """

    copied: Tensor
    rest: Tensor
    state: PointerState


def mixed_loss(hidden: Tensor, head: nn.Module, targets: Tensor, pointed: Pointed, *, reduction: str) -> Tensor:
    """Cross-entropy of targets [B, T] under the mixture, of which `head` [D] -> [V] has the vocabulary's part.

    -log P = -log rest - log(p + copied / rest), with p the softmax of the head.

    Args:
        hidden: last hidden states, [B, T, D].
        head: of the model.
        targets: int64 [B, T], -100 where nothing is predicted.
        pointed: what the pointer proposes for these targets.
        reduction: "mean", "sum" or "none" ([B, T]).
    """
    log_rest = pointed.rest.log()
    log_extra = pointed.copied.clamp_min(SMALLEST).log() - log_rest
    loss = head_loss(hidden, head, targets, log_extra=log_extra, reduction=reduction)
    kept = targets != IGNORED
    log_rest = torch.where(kept, log_rest, 0.0)
    if reduction != "none":
        log_rest = log_rest.sum() / (kept.sum() if reduction == "mean" else 1)
    return loss - log_rest


def mixed_logits(logits: Tensor, pointed: Pointed) -> Tensor:
    """log P of every word, of which the vocabulary alone has `logits`; [B, N, V]."""
    vocabulary = pointed.rest.log().unsqueeze(-1) + logits.to(pointed.copied.dtype).log_softmax(-1)
    return torch.logaddexp(vocabulary, pointed.copied.clamp_min(SMALLEST).log()).to(logits.dtype)


def pointed_share(pointed: Pointed, kept: Tensor) -> Tensor:
    """Share of the prediction that the heads make, the mean over tokens `kept`, bool [B, T]; 0-d, 0 for none."""
    return ((1 - pointed.rest.detach()) * kept).sum() / kept.sum().clamp_min(1)
