"""What is measured of a trained model: how much it recalls, and how much state it has to do so.

Shape legend: B batch, T tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from resnet_bk.bench.inspection import generation_state
from resnet_bk.bench.recall.task import NOT_ASKED, Recall, draw
from resnet_bk.training.loss import autocast_to
from resnet_bk.training.mode import evaluation_mode


def accuracies(
    model: Any, kinds: Sequence[Recall], vocabulary: int, seed: int, *, batch_tokens: int, dtype: str
) -> list[float]:
    """`accuracy` on every kind, each with examples of its own."""
    return [
        accuracy(model, kind, vocabulary, seed + place, batch_tokens=batch_tokens, dtype=dtype)
        for place, kind in enumerate(kinds)
    ]


def accuracy(
    model: Any, kind: Recall, vocabulary: int, seed: int, *, batch_tokens: int, dtype: str = "float32"
) -> float:
    """Share of the questions of `kind.examples` fresh examples that the model answers by its likeliest word."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    head = model.get_output_embeddings()
    right = asked = 0
    size = max(1, batch_tokens // kind.length)
    with evaluation_mode(model), torch.no_grad():
        for first in range(0, kind.examples, size):
            inputs, targets = draw(kind, min(size, kind.examples - first), vocabulary, generator)
            inputs, targets = inputs.to(device), targets.to(device)
            with autocast_to(dtype, device):
                hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
            at = targets != NOT_ASKED
            answers = head(hidden[at].float()).argmax(-1)  # in bfloat16 too many logits are equal
            right += int((answers == targets[at]).sum())
            asked += int(at.sum())
    return right / asked


def state_numbers(model: Any) -> int | None:
    """Real numbers that a model carries from token to token, over all layers and with the inputs that its short
    convolutions keep: measured, as the memory of its state in its own precision. None where that grows with the text,
    or where the model keeps nothing."""
    state = generation_state(model)
    if state is None or state["bytes_per_token"]:
        return None
    size: int = state["constant_bytes"]
    return size // next(model.parameters()).itemsize
