"""What the models return.

Shape legend: B batch, T tokens, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers.utils import ModelOutput

from resnet_bk.models.cache import ResNetBKCache


@dataclass
class ResNetBKModelOutput(ModelOutput):
    """Output of `ResNetBKModel`.

    Attributes:
        last_hidden_state: after the last norm, [B, T, D].
        cache: state after the last token, where one was asked for; `past_key_values` is the same.
        hidden_states: what goes into every block, [B, T, D] (fewer tokens for a block at a coarser scale, perhaps
            none), and last_hidden_state, where asked for.
        aux_loss: what training adds to the loss, weighted by the configuration: load balancing of experts, ponder cost
            of adaptive computation, distance of the kept sites from their share; None where there is none of these.
        measures: the same things before any weight, and what they are about, by name, without gradient:
            "load_balancing"; "ponder" and "depth" (blocks a token passed); "sparsity" and "kept" (share of sites). Each
            is a scalar: "ponder" and "depth" the mean over tokens, the others over the blocks that have them.
    """

    # The weights of the configuration are in it already.
    aux_loss_weight: ClassVar[float] = 1.0
    attentions: ClassVar[None] = None  # some trainers ask for them

    last_hidden_state: Tensor | None = None
    cache: ResNetBKCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None
    measures: dict[str, Tensor] | None = None

    @property
    def past_key_values(self) -> ResNetBKCache | None:
        return self.cache


@dataclass
class ResNetBKCausalLMOutput(ModelOutput):
    """Output of `ResNetBKForCausalLM`.

    Attributes:
        loss: of labels, nats a predicted token, with `aux_loss`; of targets, without it and by the reduction, which may
            leave [B, T]; None without either.
        logits: [B, T, V], or fewer tokens with `logits_to_keep`; None where they were not computed. With a pointer
            logarithms of probabilities.
        cache, hidden_states, aux_loss: as in `ResNetBKModelOutput`.
        measures: as there, and "pointed", the share of the predictions in the loss that a pointer makes.
    """

    aux_loss_weight: ClassVar[float] = 1.0
    attentions: ClassVar[None] = None

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: ResNetBKCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None
    measures: dict[str, Tensor] | None = None

    @property
    def past_key_values(self) -> ResNetBKCache | None:
        return self.cache


def wants_dict(return_dict: bool | None, config: Any) -> bool:
    """Whether a call returns an object with names, and not a tuple: as it says itself, or else its configuration."""
    return bool(config.return_dict if return_dict is None else return_dict)
