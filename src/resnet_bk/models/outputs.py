"""What the models return.

Shape legend: B batch, T tokens, D hidden size, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from resnet_bk.models.cache import ResNetBKCache


@dataclass
class ResNetBKModelOutput(ModelOutput):
    """Output of `ResNetBKModel`.

    Attributes:
        last_hidden_state: after the last norm, [B, T, D].
        cache: state after the last token, where one was asked for; `past_key_values` is the same.
        hidden_states: the embeddings and the output of every block, [B, T, D] each (the last one normed), where asked
            for.
        aux_loss: load-balancing loss, a scalar, the mean over blocks; None for a dense model.
    """

    last_hidden_state: Tensor | None = None
    cache: ResNetBKCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None

    @property
    def past_key_values(self) -> ResNetBKCache | None:
        return self.cache


@dataclass
class ResNetBKCausalLMOutput(ModelOutput):
    """Output of `ResNetBKForCausalLM`.

    Attributes:
        loss: nats a predicted token, with the weighted load-balancing loss; None without labels.
        logits: [B, T, V], or fewer tokens with `logits_to_keep`; None where they were not computed.
        cache, hidden_states, aux_loss: as in `ResNetBKModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: ResNetBKCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None

    @property
    def past_key_values(self) -> ResNetBKCache | None:
        return self.cache
