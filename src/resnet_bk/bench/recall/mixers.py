"""Language models without feed-forward networks: the recall task asks what the sequence mixers can do by themselves."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from resnet_bk.bench.peers import build_model

# Where the decoder layers of a `transformers` model keep their feed-forward network.
FEED_FORWARD_NAMES = ("mlp", "feed_forward")


class Nothing(nn.Module):
    """Adds nothing to the residual stream."""

    def forward(self, hidden: Tensor, *_: Any) -> Tensor:
        """Zeros like [B, T, D]."""
        return torch.zeros_like(hidden)


def without_feed_forward(config: PreTrainedConfig, seed: int) -> Any:
    """The model of a configuration, its feed-forward networks taken out; Mamba-2 has none.

    Raises:
        ValueError: the model keeps them under an unknown name, or has a pointer, which is no mixer.
    """
    if getattr(config, "pointer_heads", 0):
        raise ValueError(
            f"pointer_heads={config.pointer_heads}: recall asks what the sequence mixers can do, and not the pointer "
            "beside the head; set it to 0"
        )
    model = build_model(config, seed)
    layers = [module for module in model.modules() if any(hasattr(module, name) for name in FEED_FORWARD_NAMES)]
    if not layers and config.model_type not in ("mamba", "mamba2"):
        raise ValueError(
            f"{config.model_type}: none of its layers has {' or '.join(FEED_FORWARD_NAMES)}, so the feed-forward "
            "networks cannot be taken out; compare another model"
        )
    for layer in layers:
        for name in FEED_FORWARD_NAMES:
            if isinstance(getattr(layer, name, None), nn.Module):
                setattr(layer, name, Nothing())
    return model
