"""What is measured of a trained model: how much it recalls, and how much state it has to do so.

Shape legend: B batch, T tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from resnet_bk.bench.recall.task import NOT_ASKED, Recall, draw


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
    was_training = model.training
    model.eval()
    size = max(1, batch_tokens // kind.length)
    with torch.no_grad():
        for first in range(0, kind.examples, size):
            inputs, targets = draw(kind, min(size, kind.examples - first), vocabulary, generator)
            inputs, targets = inputs.to(device), targets.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
                hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
                at = targets != NOT_ASKED
                answers = head(hidden[at]).argmax(-1)
            right += int((answers == targets[at]).sum())
            asked += int(at.sum())
    model.train(was_training)
    return right / asked


def state_elements(config: Any) -> int | None:
    """Real numbers of the state that a layer carries from token to token, the few inputs of a short convolution left
    out; None where it grows with the text or is not known."""
    if config.model_type == "resnet_bk":
        if config.state == "vector":
            return 4 * int(config.state_channels)
        carried = config.key_dim * config.value_dim  # complex numbers in the matrix state, real ones in the others
        return int(config.num_heads * (2 + (2 * carried if config.state == "matrix" else carried)))
    if config.model_type == "mamba2":
        return int(config.num_heads * config.head_dim * config.state_size)
    if config.model_type in ("mamba", "falcon_mamba"):
        return int(config.intermediate_size * config.state_size)
    if hasattr(config, "linear_num_value_heads") and set(config.layer_types) == {"linear_attention"}:
        return int(config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim)
    return None
