"""Models and tokens small enough that a run takes about a second."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from resnet_bk.models import (
    PointerConfig,
    ResNetBKConfig,
    ResNetBKForCausalLM,
    ResNetBKSeedConfig,
    ResNetBKSeedForCausalLM,
)

VOCABULARY, LENGTH, BATCH = 61, 12, 3


class Tokens:
    """A stream over random tokens: row b is a contiguous stretch, batch i continues batch i-1."""

    steps_per_epoch = 5

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randint(VOCABULARY, (BATCH, self.steps_per_epoch * LENGTH + 1), generator=generator)
        self.position = 0

    @property
    def starts_epoch(self) -> bool:
        return (self.position - 1) % self.steps_per_epoch == 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        start = self.position % self.steps_per_epoch * LENGTH
        self.position += 1
        part = self.rows[:, start : start + LENGTH + 1]
        return part[:, :-1], part[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def tiny_gpt2(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return AutoModelForCausalLM.from_config(config)


def tiny_gpt2_pointer() -> Any:
    config = PointerConfig(language_model=tiny_gpt2().config, pointer_heads=2, pointer_key_dim=3)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def tiny_llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config)


def tiny_resnet_bk(**fields: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2}
    config = ResNetBKConfig(**shape | fields)
    return ResNetBKForCausalLM(config)


def tiny_seed(green: str) -> Any:
    torch.manual_seed(0)
    config = ResNetBKSeedConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, max_position_embeddings=LENGTH, green=green
    )
    return ResNetBKSeedForCausalLM(config)


def equal_weights(model: Any, other: Any) -> bool:
    """Bitwise."""
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
