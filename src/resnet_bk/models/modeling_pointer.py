"""A causal language model of `transformers` with the pointer of ResNet-BK beside its head.

It shows what the pointer alone is worth: a Transformer forgets what lies before its segment, and its pointer need not.

Shape legend: B batch, T tokens, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from resnet_bk.layers import ChainProjection, KindsOfContext, Pointer, PointerGates, PointerState
from resnet_bk.layers.pointer_mixture import mixed_logits, mixed_loss, pointed_share
from resnet_bk.models.cache import CarriedState
from resnet_bk.models.checks import check_config, check_targets, check_tensors, check_tokens, items_in_batch
from resnet_bk.models.configuration_pointer import PointerConfig
from resnet_bk.models.outputs import wants_dict
from resnet_bk.models.packing import check_numbers, packed_documents
from resnet_bk.models.plain_head import check_plain_head
from resnet_bk.models.targets import TargetLosses, shifted_targets
from resnet_bk.ops.linear_cross_entropy import IGNORED


class PointerCache(CarriedState):
    """The state of the pointer between calls, which a call that is to keep it brings up to date; that of the language
    model is not kept.

    Attributes:
        state: after the last token.
    """

    def __init__(self, state: PointerState) -> None:
        self.state = state

    @property
    def batch_size(self) -> int:
        return self.state.green.shape[0]

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        self.state = PointerState(*map(function, self.state))
        return self


@dataclass
class PointerOutput(ModelOutput):
    """What a call returns.

    Attributes:
        loss: nats a predicted token, or of each [B, T]; None without labels and targets.
        logits: [B, T, V]; None beside targets, and beside labels in training.
        cache: state after the last token, where one was asked for.
        measures: "pointed", the share of the predictions in the loss that the pointer makes.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Any = None
    measures: dict[str, Tensor] | None = None


class PointerForCausalLM(TargetLosses, PreTrainedModel, GenerationMixin):
    """Its logits are logarithms of probabilities. It does not generate, for it computes them without a cache; it has
    what `peft` and `trl` look for in a model that does.

    The logits of the language model must be its head applied to its last hidden state, without a scale, a soft cap or
    an auxiliary loss, which would be left out. Others are refused where the model is made or loaded on the CPU, and by
    `resnet_bk.training.loss.choose_head` before training.
    """

    config_class = PointerConfig
    config: PointerConfig
    base_model_prefix = "language_model"
    _keep_in_fp32_modules_strict = ["pointer"]  # noqa: RUF012
    # The loss may be divided by the tokens of several batches: `num_items_in_batch`.
    accepts_loss_kwargs = True

    def __init__(self, config: PointerConfig) -> None:
        check_config(config, PointerConfig)
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.inner)
        head = self.language_model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"language_model: {config.inner.model_type} has no linear head over the vocabulary; take another model"
            )
        self.supports_gradient_checkpointing = self.language_model.supports_gradient_checkpointing
        if head.out_features != config.vocab_size:
            raise ValueError(
                f"language_model: {config.inner.model_type} has a head over {head.out_features} words for a vocabulary "
                f"of {config.vocab_size}; take another model"
            )
        check_plain_head(self.language_model)
        # As wide as what the head reads, for some models (OPT) project the last hidden states first.
        self.pointer = Pointer.from_config(config, head.in_features)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As in `transformers`, which makes the model without values first: its head is checked once there are."""
        loaded: Any = super().from_pretrained(*args, **options)
        check_plain_head((loaded[0] if isinstance(loaded, tuple) else loaded).language_model)
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        # The language model has set its own.
        if isinstance(module, ChainProjection | KindsOfContext | PointerGates):
            module.reset_parameters()
        elif isinstance(module, Pointer):
            nn.init.normal_(module.write_proj.weight, std=0.02)
            nn.init.zeros_(module.write_proj.bias)
            module.reset_parameters()

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

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

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        reduction: str = "mean",
        cache: PointerCache | None = None,
        use_cache: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: Tensor | int | None = None,
        max_length_k: Tensor | int | None = None,
    ) -> PointerOutput | tuple[Any, ...]:
        """Logits of rows of text, or the loss of labels or targets.

        Args:
            input_ids: the tokens, int64 [B, T].
            attention_mask: must not mask a token: padding is not supported.
            labels: word indices, int64 [B, T], most often input_ids themselves: the shift by one is done here.
            targets: what each token predicts, int64 [B, T], -100 where nothing, in the place of labels.
            reduction: of the losses of targets: "mean", "sum" or "none" ([B, T]).
            cache: what the pointer has seen before; with targets. It is brought up to date where `use_cache` is true.
            use_cache: return it, or a new one, for the next call; with targets.
            num_items_in_batch: for gradients accumulated over batches, how many labels other than -100 all of them have
                together, the first of each row left out, as `Trainer` counts them; with labels, whose losses are
                summed and divided by it.
            return_dict: false for a tuple.
            document_ids, position_ids, seq_idx, cu_seq_lens_q: must not say that a row holds several documents:
                packing is not supported. A position means nothing else here, and the language model counts from 0.
            cu_seq_lens_k, max_length_q, max_length_k: what packing collators give beside cu_seq_lens_q; not read.

        Raises:
            ValueError: inputs that do not fit together, padding, packed documents, a cache without targets or of
                another model.
        """
        if input_ids is None:
            raise ValueError("input_ids must be given: the pointer points to tokens; pass int64 [batch, tokens]")
        shape = check_tokens(input_ids, None, self.config)
        check_targets(labels, targets, reduction, shape, self.config)
        items = items_in_batch(num_items_in_batch, targets)
        packing = {"document_ids": document_ids, "seq_idx": seq_idx, "position_ids": position_ids}
        check_tensors(attention_mask=attention_mask, cu_seq_lens_q=cu_seq_lens_q, **packing)
        if attention_mask is not None and tuple(attention_mask.shape) != shape:
            raise ValueError(
                f"attention_mask must have shape {shape}, but got {tuple(attention_mask.shape)}; pass the mask that "
                "the tokenizer returns with these input_ids, or none"
            )
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError(
                f"attention_mask masks {int((attention_mask == 0).sum())} tokens, but {self.config.model_type} reads "
                "no padding; give rows of one length, or take a model of type resnet_bk"
            )
        if document_ids is not None:
            check_numbers("document_ids", document_ids, shape)
        documents = packed_documents(document_ids, position_ids, seq_idx, cu_seq_lens_q, shape=shape)
        if documents is not None and bool((documents[:, 1:] != documents[:, :-1]).any()):
            given = next((name for name, value in packing.items() if value is not None), "cu_seq_lens_q")
            raise ValueError(
                f"{given} packs several documents into a row, but {self.config.model_type} reads a row as one text; "
                "give every document a row of its own, or take a model of type resnet_bk"
            )
        if targets is None and (use_cache or cache is not None):
            given = "cache was given" if cache is not None else f"use_cache={use_cache}"
            raise ValueError(
                f"{given}: this model keeps no cache for generation; leave it out, or pass targets, with which the "
                "pointer's state is handed on"
            )
        if cache is not None:
            self._check_cache(cache, shape[0])
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                cache.leave_inference_mode()
        hidden = self._hidden(input_ids)
        as_it_is = wants_dict(return_dict, self.config)
        if targets is None and labels is None:
            output = PointerOutput(logits=self._logits(hidden, input_ids))
            return output if as_it_is else output.to_tuple()
        predicted = targets if targets is not None else shifted_targets(cast(Tensor, labels), None, None)
        state = None if cache is None else cache.state
        pointed = self.pointer(hidden, input_ids, None, state, targets=predicted, keep_state=use_cache)
        logits = None
        if targets is None and not self.training:
            logits = self._logits(hidden, input_ids)
        reduction = reduction if items is None else "sum"
        loss = mixed_loss(hidden, self.get_output_embeddings(), predicted, pointed, reduction=reduction)
        if use_cache:
            cache = cache or PointerCache(pointed.state)
            cache.state = pointed.state  # its words were written over
        output = PointerOutput(
            loss=loss if items is None else loss / items,
            logits=logits,
            cache=cache if use_cache else None,
            measures={"pointed": pointed_share(pointed, predicted != IGNORED)},
        )
        return output if as_it_is else output.to_tuple()

    def _check_cache(self, cache: Any, batch: int) -> None:
        """Raises ValueError for a cache that is of another model or of another batch."""
        if not isinstance(cache, PointerCache):
            raise ValueError(
                f"cache must be a PointerCache, but got {type(cache).__name__}; pass what the call before returned, or "
                "None"
            )
        if cache.state.green.shape[0] != batch:
            raise ValueError(
                f"cache holds {cache.state.green.shape[0]} rows, but this batch has {batch}; pass what the call before "
                "returned for these rows, or None"
            )
        self.pointer.check_state(cache.state)

    def _logits(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        # Some language models (Mamba-2) leave the hidden states of a model of half precision in float32. What stands in
        # the place of the head, an adapter or a quantised one, may have no weight that says what it takes.
        head = self.get_output_embeddings()
        weight, dtype = getattr(head, "weight", None), self.language_model.dtype
        if isinstance(weight, Tensor) and weight.is_floating_point():
            dtype = weight.dtype
        logits = head(hidden.to(dtype))
        return mixed_logits(logits, self.pointer(hidden, input_ids, keep_state=False))

    def _hidden(self, input_ids: Tensor) -> Tensor:
        try:
            output = self.language_model.base_model(input_ids=input_ids, use_cache=False)
        except IndexError as error:  # of a table of positions
            most = getattr(self.config.inner, "max_position_embeddings", None)
            if most is None or input_ids.shape[1] <= most:
                raise
            raise ValueError(
                f"input_ids must have at most max_position_embeddings={most} tokens a row for "
                f"{self.config.inner.model_type}, but got {input_ids.shape[1]}; cut the text, or take a language model "
                "with more positions"
            ) from error
        hidden: Tensor = output.last_hidden_state
        return hidden
