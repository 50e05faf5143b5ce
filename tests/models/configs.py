"""The table of configurations over which every invariant of the models is tested."""

from itertools import product
from typing import Any

import torch

from resnet_bk.layers import HaltingUnit, SiteGate
from resnet_bk.layers.registry import MIXERS
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM

VOCAB_SIZE = 61


def _grid() -> dict[str, dict[str, Any]]:
    """Every state with every pair of convolution, gate and feed-forward, with tied and untied embeddings in turn."""
    grid = {}
    choices = product(("vector", "matrix"), (0, 4), ("none", "silu"))
    for index, (state, conv, gate) in enumerate(choices):
        # Of each state half of all triples, which have every pair once.
        experts = 4 if (bool(conv) == (gate == "silu")) == (state == "vector") else 0
        tied = index % 3 == 2
        name = "-".join(
            [
                state,
                "conv" if conv else "noconv",
                "nogate" if gate == "none" else "gate",
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
    grid["modulus-noconv-nogate"] = {"state": "modulus", "conv_size": 0, "output_gate": "none"}
    grid["modulus-conv-silu"] = {
        "state": "modulus",
        "output_gate": "silu",
        "query_key_bias": 0,
        "tie_word_embeddings": True,
    }
    grid["modulus-as-it-is"] = {"state": "modulus"}
    grid["modulus-induction"] = {"state": "modulus", "induction_heads": 1}
    grid["matrix-bias-affine"] = {
        "state": "matrix",
        "query_key_bias": 1.0,
        "output_gate": "affine",
        "induction_heads": 1,
    }
    grid["modulus-moe-wide-keys"] = {"state": "modulus", "num_experts": 4, "key_dim": 12, "value_dim": 5}
    grid["delta-noconv-moe"] = {"state": "delta", "conv_size": 0, "num_experts": 4, "key_dim": 12, "value_dim": 5}
    grid["delta-as-it-is"] = {"state": "delta"}
    grid["modulus-bent"] = {"state": "modulus", "site_gain": 6.0, "induction_heads": 1}
    grid["modulus-first-values"] = {"state": "modulus", "value_residual": True, "num_hidden_layers": 3}
    grid["modulus-sandwich"] = {"state": "modulus", "sandwich_norm": True, "embedding_multiplier": 4.0}
    grid["delta-silu"] = {"state": "delta", "output_gate": "silu", "query_key_bias": 0, "induction_heads": 2}
    # Another gradient of the same chains.
    grid["diagonal-vector"] = {"state": "vector", "gradient": "diagonal"}
    grid["diagonal-delta"] = {"state": "delta", "gradient": "diagonal"}
    grid["autograd-modulus"] = {"state": "modulus", "gradient": "autograd"}
    return grid | POINTING | SWITCHED


# With words copied from the past. The logits are then log-probabilities.
POINTING: dict[str, dict[str, Any]] = {
    "pointer-modulus": {"state": "modulus", "pointer_heads": 3, "pointer_key_dim": 4, "tie_word_embeddings": True},
    "pointer-one-head": {"state": "vector", "pointer_heads": 1, "pointer_key_dim": 2, "num_experts": 4},
    "pointer-switched": {
        "state": "matrix", "pointer_heads": 2, "sparse_bk": 0.5, "adaptive_computation": True, "halting_threshold": 0.8,
        "num_hidden_layers": 6, "multi_scale": [1, 1, 2, 4, 1, 1],
    },
}  # fmt: skip


# The switches that skip work, alone and together, with both states and with experts. Three blocks or more, so that
# tokens can stop before the last one; a threshold and gates (see `build`) at which about half of them do.
ADAPTIVE = {"adaptive_computation": True, "halting_threshold": 0.8, "num_hidden_layers": 4}
SWITCHED: dict[str, dict[str, Any]] = {
    "adaptive-matrix": {"state": "matrix", **ADAPTIVE},
    "adaptive-first-values": {"state": "matrix", "value_residual": True, **ADAPTIVE},
    "adaptive-vector-moe": {"state": "vector", "num_experts": 4, **ADAPTIVE},
    "scales-matrix": {"state": "matrix", "num_hidden_layers": 3, "multi_scale": [1, 2, 1]},
    "scales-nested-vector": {"state": "vector", "num_hidden_layers": 5, "multi_scale": [1, 2, 4, 2, 1]},
    "scales-ending-coarse-moe": {"state": "matrix", "num_hidden_layers": 2, "multi_scale": [1, 3], "num_experts": 4},
    "scales-jump": {"state": "matrix", "conv_size": 0, "num_hidden_layers": 4, "multi_scale": [3, 6, 1, 2]},
    "sparse-matrix": {"state": "matrix", "sparse_bk": 0.5},
    "sparse-by-block": {"state": "matrix", "num_hidden_layers": 3, "sparse_bk": [1, 0.5, 0.7]},
    "sparse-vector-moe": {"state": "vector", "sparse_bk": 0.5, "num_experts": 4},
    "sparse-modulus": {"state": "modulus", "sparse_bk": 0.5},
    "all-modulus": {
        "state": "modulus", "sparse_bk": 0.5, **ADAPTIVE, "num_hidden_layers": 6, "multi_scale": [1, 1, 2, 4, 1, 1],
    },
    "all-delta": {
        "state": "delta", "sparse_bk": 0.5, **ADAPTIVE, "num_hidden_layers": 6, "multi_scale": [1, 1, 2, 4, 1, 1],
    },
    "all-sandwich": {
        "state": "modulus", "sandwich_norm": True, "embedding_multiplier": 4.0, "sparse_bk": 0.5, **ADAPTIVE,
    },
    "sparse-noconv": {"state": "vector", "sparse_bk": 0.5, "conv_size": 0},
    "all-matrix": {
        "state": "matrix", "sparse_bk": 0.5, **ADAPTIVE, "num_hidden_layers": 6, "multi_scale": [1, 1, 2, 4, 1, 1],
    },
    "all-vector-moe": {
        "state": "vector", "sparse_bk": 0.5, "num_experts": 4, **ADAPTIVE, "num_hidden_layers": 5,
        "multi_scale": [1, 1, 2, 1, 1],
    },
    "all-diagonal-matrix": {
        "state": "matrix", "gradient": "diagonal", "sparse_bk": 0.5, **ADAPTIVE, "multi_scale": [1, 2, 1, 1],
    },
    "all-autograd-vector": {
        "state": "vector", "gradient": "autograd", "sparse_bk": 0.5, **ADAPTIVE, "multi_scale": [1, 2, 1, 1],
    },
}  # fmt: skip

# Rows that are filled up are seen under this switch alone: a mixer that overlooks them would pass without it.
_missing = set(MIXERS) - {fields["state"] for fields in SWITCHED.values() if "sparse_bk" in fields}
assert not _missing, f"SWITCHED has no configuration with sparse_bk of state {_missing}"

GRID = _grid()
DENSE = [name for name, fields in GRID.items() if not fields.get("num_experts")]
# Whose tokens are never regrouped, so that what may not change does not change in a single bit.
SKIPPING = [name for name in GRID if name in SWITCHED or name == "pointer-switched"]
BITWISE = [name for name in DENSE if name not in SKIPPING]
# One of each kind, for what goes token by token and takes long: every state, experts, each switch, all, the pointer.
KINDS = (
    "vector-conv-gate-moe-untied",
    "matrix-conv-gate-dense-untied",
    "modulus-as-it-is",
    "delta-as-it-is",
    "delta-silu",
    "adaptive-matrix",
    "scales-jump",
    "sparse-modulus",
    "all-modulus",
    "pointer-modulus",
    "pointer-switched",
)
_missing = set(MIXERS) - {GRID[name]["state"] for name in KINDS}
assert not _missing, f"KINDS has no configuration of state {_missing}"


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
    model = ResNetBKForCausalLM(ResNetBKConfig(**fields)).to(dtype).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SiteGate):
                module.bias.zero_()
            if isinstance(module, HaltingUnit):
                module.bias.fill_(-1.0)
    return model


def of_embeddings(model: ResNetBKForCausalLM, ids: torch.Tensor, embeddings: torch.Tensor, **options: Any) -> Any:
    """The model's output for `embeddings` [B, T, D] in the place of those of the tokens `ids` [B, T]."""
    if model.pointer is None:
        return model(inputs_embeds=embeddings, **options)
    handle = model.model.embed_tokens.register_forward_hook(lambda *_: embeddings)
    try:
        return model(ids, **options)
    finally:
        handle.remove()


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random word indices, int64 [batch, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (batch, length), generator=generator)
