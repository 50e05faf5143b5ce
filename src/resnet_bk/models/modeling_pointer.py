"""A causal language model of `transformers` with the pointer of ResNet-BK beside its head.

It shows what the pointer alone is worth: a Transformer forgets what lies before its segment, and its pointer need not.

Shape legend: B batch, T tokens, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import ModelOutput

from resnet_bk.layers import ChainProjection, KindsOfContext, Pointer, PointerState
from resnet_bk.layers.pointer import mixed_logits, mixed_loss, pointed_share
from resnet_bk.models.cache import check_rows
from resnet_bk.models.checks import IGNORED, check_config
from resnet_bk.models.configuration_pointer import PointerConfig


class PointerCache:
    """The state of the pointer between calls; that of the language model is not kept.

    Attributes:
        state: after the last token; the next call overwrites its words.
    """

    def __init__(self, state: PointerState) -> None:
        self.state = state

    def detach(self) -> Self:
        """Itself: no gradient goes through it."""
        return self

    def to(self, device: torch.device | str) -> Self:
        """Moves it to a device. Returns the cache itself."""
        self.state = PointerState(*(part.to(device) for part in self.state))
        return self

    def start_anew(self, rows: Tensor) -> Self:
        """Forgets everything in `rows`, bool [B]. Returns the cache itself.

        In place: no graph may need what is forgotten, so after `backward` and `detach`.

        Raises:
            ValueError: something else than a mask of the rows.
        """
        check_rows(rows, self.state.green.shape[0])
        for part in self.state:
            part.index_fill_(0, rows.nonzero().flatten().to(part.device), 0)
        return self


@dataclass
class PointerOutput(ModelOutput):
    """What `target_losses` returns.

    Attributes:
        loss: nats a predicted token, or of each [B, T].
        cache: state after the last token, where one was asked for.
        measures: "pointed", the share of the prediction that the pointer makes.
    """

    loss: Tensor | None = None
    cache: Any = None
    measures: dict[str, Tensor] | None = None


class PointerForCausalLM(PreTrainedModel):
    """Its logits are logarithms of probabilities. It does not generate: `forward` reads whole rows, without a cache.

    The logits of the language model must be its head applied to its last hidden state, without a scale, a soft cap or
    an auxiliary loss, which would be left out; `resnet_bk.training.loss.choose_head` refuses others before training.
    """

    config_class = PointerConfig
    config: PointerConfig
    base_model_prefix = "language_model"
    _keep_in_fp32_modules_strict = ["pointer"]  # noqa: RUF012

    def __init__(self, config: PointerConfig) -> None:
        check_config(config, PointerConfig)
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.inner)
        head = self.language_model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"language_model: {config.inner.model_type} has no linear head over the vocabulary; take another model"
            )
        self.pointer = Pointer.from_config(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # The language model has set its own.
        if isinstance(module, ChainProjection | KindsOfContext):
            module.reset_parameters()
        elif isinstance(module, Pointer):
            for layer in (module.write_proj, module.gate_proj):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
            module.reset_parameters()

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Of the language model, and of the pointer; states from before are of no use afterwards."""
        embeddings: nn.Embedding = self.language_model.resize_token_embeddings(*args, **kwargs)
        self.pointer.vocab_size = self.config.vocab_size
        return embeddings

    def generate(self, *_args: Any, **_options: Any) -> Tensor:
        """Not possible: the language model in it keeps no cache.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.config.model_type} with {self.config.inner.model_type}: generates no text, for the language model "
            "in it keeps no cache; take a model of type resnet_bk, or the language model alone"
        )

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutput:
        """Logits [B, T, V] of rows [B, T] of whole texts.

        Args:
            input_ids: the tokens, int64 [B, T].
            use_cache: must be False.

        Raises:
            ValueError: a cache is asked for.
        """
        if use_cache:
            raise ValueError(f"use_cache={use_cache}: this model keeps no cache for generation; leave it out")
        hidden = self._hidden(input_ids)
        return CausalLMOutput(
            logits=mixed_logits(self.get_output_embeddings()(hidden), self.pointer(hidden, input_ids))
        )

    def target_losses(
        self,
        input_ids: Tensor,
        targets: Tensor,
        *,
        reduction: str = "mean",
        cache: PointerCache | None = None,
        use_cache: bool = False,
    ) -> PointerOutput:
        """The loss of given words, without logits.

        Args:
            input_ids: the tokens, int64 [B, T].
            targets: what each of them predicts, int64 [B, T]; -100 where nothing.
            reduction: "mean", "sum" or "none" ([B, T]).
            cache: what the pointer has seen before.
            use_cache: return it for the next call.
        """
        hidden = self._hidden(input_ids)
        state = None if cache is None else cache.state
        pointed = self.pointer(hidden, input_ids, None, state, targets=targets, keep_state=use_cache)
        loss = mixed_loss(hidden, self.get_output_embeddings(), targets, pointed, reduction=reduction)
        return PointerOutput(
            loss=loss,
            cache=PointerCache(pointed.state) if use_cache else None,
            measures={"pointed": pointed_share(pointed, targets != IGNORED)},
        )

    def _hidden(self, input_ids: Tensor) -> Tensor:
        output = self.language_model.base_model(input_ids=input_ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden
