"""Causal LMs that `transformers` does not have, registered as those of a user would be."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig


AutoConfig.register(OwnConfig.model_type, OwnConfig, exist_ok=True)
AutoModelForCausalLM.register(OwnConfig, OwnForCausalLM, exist_ok=True)


class RecurrentConfig(PreTrainedConfig):
    model_type = "own_gru"
    attribute_map = {"vocab_size": "words"}  # noqa: RUF012

    def __init__(self, words=40, hidden_size=16, num_hidden_layers=1, intermediate_size=24, **further):
        self.words, self.hidden_size = words, hidden_size
        self.num_hidden_layers, self.intermediate_size = num_hidden_layers, intermediate_size
        super().__init__(**further)


class RecurrentState:
    """What a recurrent network carries: [layers, B, I]."""

    def __init__(self, state):
        self.state = state

    def detach(self):
        self.state = self.state.detach()
        return self

    def to(self, device):
        self.state = self.state.to(device)
        return self

    def start_anew(self, rows):
        self.state[:, rows] = 0
        return self


class RecurrentModel(PreTrainedModel):
    """A GRU, whose parameters grow with the square of its width."""

    config_class = RecurrentConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.GRU(config.hidden_size, config.intermediate_size, config.num_hidden_layers, batch_first=True)
        self.out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, cache=None, use_cache=False, **_):
        read, state = self.layers(self.words(input_ids), None if cache is None else cache.state)
        return CachedOutput(last_hidden_state=self.out(read), cache=RecurrentState(state) if use_cache else None)


class RecurrentForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = RecurrentConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.words

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, cache=None, use_cache=False, **_):
        read = self.model(input_ids, cache, use_cache)
        return CachedOutput(logits=self.lm_head(read.last_hidden_state), cache=read.cache)


@dataclass
class CachedOutput(ModelOutput):
    last_hidden_state: Tensor | None = None
    logits: Tensor | None = None
    cache: Any = None


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig, exist_ok=True)
AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM, exist_ok=True)


class ForgetfulConfig(RecurrentConfig):
    model_type = "own_forgetful_gru"

    def __init__(self, **fields):
        super().__init__(**fields)


class ForgetfulModel(RecurrentModel):
    config_class = ForgetfulConfig

    def forward(self, input_ids, *_, **__):
        return super().forward(input_ids)


class ForgetfulForCausalLM(RecurrentForCausalLM):
    """Passes over the cache that it is handed, and returns none."""

    config_class = ForgetfulConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = ForgetfulModel(config)
        self.post_init()

    def forward(self, input_ids, **_):
        return super().forward(input_ids)


AutoConfig.register(ForgetfulConfig.model_type, ForgetfulConfig, exist_ok=True)
AutoModelForCausalLM.register(ForgetfulConfig, ForgetfulForCausalLM, exist_ok=True)
