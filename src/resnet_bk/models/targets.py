"""What the tokens of a row predict, and how many targets a loss is a mean of.

Shape legend: B batch, T tokens.
"""

from typing import Any

import torch
from torch import Tensor

from resnet_bk.ops.linear_cross_entropy import IGNORED


class TargetLosses:
    """A causal LM that takes targets in the place of labels."""

    def target_losses(
        self, input_ids: Tensor, targets: Tensor, *, reduction: str = "mean", cache: Any = None, use_cache: bool = False
    ) -> Any:
        """`forward` with targets, as every model has it that the training loop asks for losses.

        A model that is wrapped (`DistributedDataParallel`, `torch.compile`) is called itself, with targets.
        """
        call: Any = self
        options = {"reduction": reduction, "cache": cache, "use_cache": use_cache}
        return call(input_ids, targets=targets, **options, return_dict=True)


def shifted_targets(labels: Tensor, attention_mask: Tensor | None, document_ids: Tensor | None) -> Tensor:
    """What each token predicts, int64 [B, T]: the label of the next one, -100 where there is none to predict.

    There is none at the end of the row, at padding or before it, and at the end of a packed document.
    """
    targets = torch.full_like(labels, IGNORED, dtype=torch.int64)
    targets[:, :-1] = labels[:, 1:]
    if attention_mask is not None:
        mask = attention_mask[:, -labels.shape[1] :] != 0
        targets[:, :-1].masked_fill_(~(mask[:, :-1] & mask[:, 1:]), IGNORED)
    if document_ids is not None:
        targets[:, :-1].masked_fill_(document_ids[:, :-1] != document_ids[:, 1:], IGNORED)
    return targets


def count_labels(labels: Tensor) -> Tensor:
    """Labels [B, T] that a causal LM is to predict, as `Trainer` counts them; 0-d."""
    return (labels[:, 1:] != IGNORED).sum()


def of_all_labels(loss: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """A sum over targets [B, T] as one over `count_labels`, of which there are more where padding or documents take
    some away; 0-d. The loss comes first, so that its precision decides: whole numbers are divided in the default one.
    """
    return loss * count_labels(labels) / (targets != IGNORED).sum().clamp_min(1)
