"""The table of configurations over which every invariant of the models is tested."""

from itertools import product
from typing import Any

import torch

from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM

VOCAB_SIZE = 61


def _grid() -> dict[str, dict[str, Any]]:
    """State x convolution x gate x feed-forward, with tied and untied embeddings in turn."""
    grid = {}
    for index, (state, conv, gate, experts) in enumerate(product(("vector", "matrix"), (0, 4), (False, True), (0, 4))):
        tied = index % 3 == 0
        name = "-".join(
            [
                state,
                "conv" if conv else "noconv",
                "gate" if gate else "nogate",
                "moe" if experts else "dense",
                "tied" if tied else "untied",
            ]
        )
        grid[name] = {
            "state": state,
            "conv_size": conv,
            "output_gate": gate,
            "num_experts": experts,
            "tie_word_embeddings": tied,
        }
    # Shapes that differ from one another, where the grid above has many that are equal.
    grid["matrix-wide-values"] = {"state": "matrix", "key_dim": 4, "value_dim": 12, "conv_size": 3, "num_heads": 4}
    grid["vector-many-channels"] = {"state": "vector", "state_channels": 40, "conv_size": 2, "intermediate_size": 24}
    return grid


GRID = _grid()
DENSE = [name for name, fields in GRID.items() if not fields.get("num_experts")]


def build(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> ResNetBKForCausalLM:
    """The model of that name in the table, in eval mode, with weights large enough for every part to matter."""
    torch.manual_seed(seed)
    fields = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_heads": 2,
        "intermediate_size": 24,
        "initializer_range": 0.2,
        **GRID[name],
        **overrides,
    }
    return ResNetBKForCausalLM(ResNetBKConfig(**fields)).to(dtype).eval()


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random word indices, int64 [batch, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (batch, length), generator=generator)
