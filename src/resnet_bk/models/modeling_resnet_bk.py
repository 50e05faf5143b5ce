"""ResNet-BK as a Hugging Face causal language model.

Shape legend: B batch, T tokens of this call, P tokens already in the cache, N tokens with logits, D hidden size, V
vocabulary.
"""

from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from resnet_bk.layers import (
    Boundaries,
    ChainProjection,
    KindsOfContext,
    Pointer,
    PointerGates,
    QueryKey,
    QueryKeyValue,
    ResNetBKBlock,
    ShortConvolution,
    SparseMoE,
    ValueResidual,
)
from resnet_bk.layers.head import head_logits, head_loss
from resnet_bk.layers.pointer_mixture import Pointed, mixed_logits, mixed_loss, pointed_share
from resnet_bk.layers.pointer_state import PointerState
from resnet_bk.layers.token_score import TokenScore
from resnet_bk.models.cache import ResNetBKCache
from resnet_bk.models.call import Call, read_call
from resnet_bk.models.checks import (
    check_config,
    check_logits_to_keep,
    check_outputs,
    check_precision,
    check_targets,
    check_unpadded,
    items_in_batch,
    one_cache,
    warn_of_what_a_head_adds,
)
from resnet_bk.models.configuration_resnet_bk import ResNetBKConfig
from resnet_bk.models.generation import ResNetBKGenerationMixin
from resnet_bk.models.mixed_precision import mixed_precision
from resnet_bk.models.outputs import ResNetBKCausalLMOutput, ResNetBKModelOutput, wants_dict
from resnet_bk.models.stack import BlockStack
from resnet_bk.models.targets import TargetLosses, count_labels, of_all_labels, shifted_targets
from resnet_bk.ops.linear_cross_entropy import IGNORED


class ResNetBKPreTrainedModel(PreTrainedModel):
    """Initialisation and what `transformers` needs to know about the architecture."""

    config_class = ResNetBKConfig
    config: ResNetBKConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # Blocks hand one another states and boundaries, which no hook moves: under a head a device_map keeps them together.
    _no_split_modules = ["ResNetBKModel", "ResNetBKBlock"]  # noqa: RUF012, the base class declares an instance variable
    _skip_keys_device_placement = ["cache", "past_key_values"]  # noqa: RUF012
    # Energies and their projection run in float32, and so do the pointer and what gates and halting are decided by;
    # they stay so in a model of half precision: here where one is loaded, by `KeepsFloat32` where one is made so.
    _keep_in_fp32_modules_strict = ["chain", "pointer", "site_gate", "halting"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ChainProjection | PointerGates | QueryKeyValue | SparseMoE | TokenScore):
            module.reset_parameters(self.config.initializer_range)
        elif isinstance(module, ShortConvolution | QueryKey | KindsOfContext | ValueResidual):
            module.reset_parameters()
        else:
            super()._init_weights(module)
            if isinstance(module, Pointer):  # after its layers
                module.reset_parameters()


class ResNetBKModel(ResNetBKPreTrainedModel):
    """Embedding, blocks and the last norm: hidden states without a head."""

    def __init__(self, config: ResNetBKConfig) -> None:
        check_config(config, ResNetBKConfig)
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            ResNetBKBlock(config, gated=share < 1, first=block == 0) for block, share in enumerate(config.site_shares())
        )
        self.stack = BlockStack(config)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.under_head = False  # whether it is the body of a `ResNetBKForCausalLM`
        self.post_init()

    def set_progress(self, share: float) -> None:
        """How much of the training is done, 0 to 1, for schedules of the configuration; 1 unless somebody says so.

        Raises:
            ValueError: another number, or none.
        """
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 1:
            raise ValueError(f"share={share!r} must be a number from 0 to 1; take steps done / steps in all")
        self.stack.progress = float(share)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: ResNetBKCache | None = None,
        cache: ResNetBKCache | None = None,
        use_cache: bool | None = None,
        document_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        position_ids: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: Tensor | int | None = None,
        max_length_k: Tensor | int | None = None,
        *,
        _call: Call | None = None,
    ) -> ResNetBKModelOutput | tuple[Any, ...]:
        """Hidden states of B rows of T tokens.

        Args:
            input_ids: word indices, int64 [B, T]; this or inputs_embeds.
            attention_mask: 1 for a token, 0 for padding, [B, T] or [B, P + T]. Padding on the left changes nothing for
                the tokens, padding on the right neither; what is returned for the padding itself has no meaning.
            inputs_embeds: embeddings, [B, T, D], before config.embedding_multiplier.
            past_key_values: cache of the P tokens before; it is brought up to date in place, unless use_cache is False.
            cache: the same argument, by the name that `transformers` has begun to use; give one of the two.
            use_cache: return a cache. By default there is one where a cache was passed, and where config.use_cache says
                so outside training, except for rows padded on the right: the state after padding is of no use.
            document_ids: integers [B, T]; a document ends where the number changes, and no token sees another document.
                With a cache, the first token continues the last document if it has its number.
            output_hidden_states: return what goes into every block too, the embeddings first.
            output_attentions: must not be true, there is no attention.
            return_dict: false for a tuple.
            position_ids, seq_idx, cu_seq_lens_q: what packing collators give in the place of document_ids:
                `packed_documents` has the rules. A position means nothing else here.
            cu_seq_lens_k, max_length_q, max_length_k: what they give beside cu_seq_lens_q for flash-attention kernels,
                and follows from it; not read.
            _call: what a head found when it looked at these arguments.

        Raises:
            ValueError: inputs that do not fit together; rows padded on the right, of which a cache is to be kept.
        """
        headless = _call is None and self.under_head
        cache = one_cache(past_key_values, cache)
        given = input_ids if inputs_embeds is None else inputs_embeds
        # A device_map may have moved the arguments since a head looked at them.
        if _call is None or given is None or _call.device != given.device:
            _call = read_call(
                self.config,
                self.layers[0].mixer,
                input_ids,
                inputs_embeds,
                cache,
                attention_mask=attention_mask,
                document_ids=document_ids,
                position_ids=position_ids,
                seq_idx=seq_idx,
                cu_seq_lens_q=cu_seq_lens_q,
            )
        check_outputs(output_attentions, self.config)
        boundaries, document_ids = _call.boundaries, _call.document_ids
        padded_right = boundaries is not None and boundaries.padded_right
        if use_cache is None:
            use_cache = cache is not None or (self.config.use_cache and not self.training and not padded_right)
        if padded_right and use_cache:
            raise ValueError(
                "attention_mask has padding after tokens, and the cache would keep the state after it; pad on the left "
                "(tokenizer.padding_side = 'left'), or pass use_cache=False"
            )

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        with mixed_precision(self.config, hidden.device):
            if inputs_embeds is not None:
                check_precision(inputs_embeds, self.norm.weight.dtype)
            if self.config.embedding_multiplier != 1:
                hidden = hidden * self.config.embedding_multiplier
            passed = self.stack.run(
                self.layers,
                hidden,
                boundaries,
                cache.states() if cache is not None else [None] * len(self.layers),
                cache.scales if cache is not None else [],
                keep_hidden=bool(output_hidden_states),
            )
            hidden = self.norm(passed.hidden)
        if headless and self.training and torch.is_grad_enabled():
            warn_of_what_a_head_adds(self.config, passed.aux_loss)

        if use_cache:
            states, scales = passed.states, passed.scales
            if boundaries is not None and boundaries.begun is not None:
                states = [state.only(boundaries.begun) for state in states]
                scales = [scale.only(boundaries.begun) for scale in scales]
            cache = ResNetBKCache(self.config) if cache is None else cache
            last_document = None if document_ids is None else document_ids[:, -1].clone()
            cache.update_states(states, _call.shape[1], last_document, scales)
        output = ResNetBKModelOutput(
            last_hidden_state=hidden,
            cache=cache if use_cache else None,
            hidden_states=(*passed.hidden_states, hidden) if output_hidden_states else None,
            aux_loss=passed.aux_loss,
            measures=passed.measures or None,
        )
        return output if wants_dict(return_dict, self.config) else output.to_tuple()


class ResNetBKForCausalLM(TargetLosses, ResNetBKPreTrainedModel, ResNetBKGenerationMixin):
    """ResNet-BK with a linear head over the vocabulary, without bias, and a pointer where the configuration has one.

    With a pointer the logits are logarithms of probabilities, and token embeddings cannot stand for tokens.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    # The loss may be divided by the tokens of several batches: `num_items_in_batch`.
    accepts_loss_kwargs = True

    def __init__(self, config: ResNetBKConfig) -> None:
        super().__init__(config)
        self.model = ResNetBKModel(config)
        self.model.under_head = True
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.pointer = Pointer.from_config(config) if config.pointer_heads else None
        self.post_init()

    def set_progress(self, share: float) -> None:
        """As in `ResNetBKModel`."""
        self.model.set_progress(share)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in `transformers`; caches that a pointer has filled are of no use afterwards."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        if self.pointer is not None:
            self.pointer.vocab_size = self.config.vocab_size
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: ResNetBKCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        document_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_logits: bool | None = None,
        cache: ResNetBKCache | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        position_ids: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: Tensor | int | None = None,
        max_length_k: Tensor | int | None = None,
        targets: Tensor | None = None,
        reduction: str = "mean",
    ) -> ResNetBKCausalLMOutput | tuple[Any, ...]:
        """Logits, and the loss where there are labels or targets.

        Args:
            labels: word indices, int64 [B, T], most often input_ids themselves: the shift by one is done here. -100,
                padding and the first token of a packed document are not predicted. The loss never holds the logits of a
                batch (`resnet_bk.layers.head`), unless something else stands in the place of the head; in evaluation
                they are computed beside it. With labels there is a cache only where one is passed or asked for:
                replicas of `DataParallel` cannot gather one.
            targets: what each token predicts, int64 [B, T], -100 where nothing, in the place of labels: nothing is
                shifted, and the last token of a segment can predict the first of the next. Those of padding must be
                -100. `loss` is theirs alone, without `aux_loss`, and logits come only where return_logits asks.
            reduction: of the losses of targets: "mean", "sum" or "none" ([B, T]).
            logits_to_keep: compute the logits of the last so many tokens only (0: of all), or of these positions.
            return_logits: compute the logits. By default they are left out where nothing reads them: in training with
                labels, and beside targets.
            num_items_in_batch: for gradients accumulated over batches, how many labels other than -100 all of them have
                together, the first of each row left out, as `Trainer` counts them. This batch's mean loss, and what a
                switch adds to it, are weighted by its share of these labels, also where padding or documents take some
                away. Not with targets.
            input_ids, attention_mask, inputs_embeds, past_key_values, cache, use_cache, document_ids,
            output_hidden_states, output_attentions, return_dict, position_ids, seq_idx, cu_seq_lens_q, cu_seq_lens_k,
            max_length_q, max_length_k: as in `ResNetBKModel.forward`.

        Raises:
            ValueError: inputs that do not fit together.
        """
        cache = one_cache(past_key_values, cache)
        call = read_call(
            self.config,
            self.model.layers[0].mixer,
            input_ids,
            inputs_embeds,
            cache,
            attention_mask=attention_mask,
            document_ids=document_ids,
            position_ids=position_ids,
            seq_idx=seq_idx,
            cu_seq_lens_q=cu_seq_lens_q,
        )
        check_targets(labels, targets, reduction, call.shape, self.config)
        check_unpadded(targets, call.boundaries)
        check_logits_to_keep(logits_to_keep, call.shape[1])
        items = items_in_batch(num_items_in_batch, targets)
        of_labels = None if labels is None else shifted_targets(labels, attention_mask, call.document_ids)
        if labels is not None or targets is not None:
            use_cache = use_cache if use_cache is not None else cache is not None
        self._check_pointer(input_ids, cache)  # before the call brings the cache up to date
        boundaries = call.boundaries
        past = None if cache is None else cache.pointer
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=use_cache,
            document_ids=call.document_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            _call=call,
        )
        hidden = output.last_hidden_state
        wants_logits = return_logits if return_logits is not None else self._logits_are_read(labels, targets)
        loss = None
        if targets is not None:
            loss = self._loss(output, input_ids, targets, boundaries, past, reduction, last=not wants_logits)
        elif of_labels is not None:
            reduction = "mean" if items is None else "sum"
            loss = self._loss(output, input_ids, of_labels, boundaries, past, reduction, last=not wants_logits)
            auxiliary = output.aux_loss
            if items is not None:
                assert labels is not None
                loss = of_all_labels(loss, labels, of_labels) / items
                if auxiliary is not None:  # a mean over this batch
                    auxiliary = auxiliary * count_labels(labels) / items
            if auxiliary is not None:
                loss = loss + auxiliary
        logits = None
        if wants_logits:
            logits = self._logits(output, input_ids, boundaries, past, logits_to_keep)
        elif loss is None and self.pointer is not None and output.cache is not None:
            nothing = torch.empty(0, dtype=torch.int64, device=hidden.device)
            self._point(output, input_ids, boundaries, past, at=nothing, last=True)
        result = ResNetBKCausalLMOutput(
            loss=loss,
            logits=logits,
            cache=output.cache,
            hidden_states=output.hidden_states,
            aux_loss=output.aux_loss,
            measures=output.measures,
        )
        return result if wants_dict(return_dict, self.config) else result.to_tuple()

    def _logits_are_read(self, labels: Tensor | None, targets: Tensor | None) -> bool:
        """Where the call does not say: not beside targets, nor beside labels in training."""
        return targets is None and (labels is None or not self.training)

    def _loss(
        self,
        output: ResNetBKModelOutput,
        input_ids: Tensor | None,
        targets: Tensor,
        boundaries: Boundaries | None,
        past: PointerState | None,
        reduction: str,
        *,
        last: bool,
    ) -> Tensor:
        """Cross-entropy of `targets`; `last`: nobody asks the pointer after this."""
        hidden = output.last_hidden_state
        assert hidden is not None
        pointed = None
        if self.pointer is not None:
            pointed = self._point(output, input_ids, boundaries, past, targets=targets, last=last)
        with mixed_precision(self.config, hidden.device):
            if pointed is not None:
                return mixed_loss(hidden, self.lm_head, targets, pointed, reduction=reduction)
            return head_loss(hidden, self.lm_head, targets, reduction=reduction)

    def _logits(
        self,
        output: ResNetBKModelOutput,
        input_ids: Tensor | None,
        boundaries: Boundaries | None,
        past: PointerState | None,
        logits_to_keep: int | Tensor,
    ) -> Tensor:
        """[B, N, V]."""
        hidden = output.last_hidden_state
        assert hidden is not None
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        with mixed_precision(self.config, hidden.device):
            logits = head_logits(hidden[:, kept], self.lm_head)
        if self.pointer is None:
            return logits
        places = torch.arange(hidden.shape[1], device=hidden.device)[kept]
        if isinstance(logits_to_keep, int):
            return mixed_logits(logits, self._point(output, input_ids, boundaries, past, at=places, last=True))
        at, order = places.unique(return_inverse=True)  # the pointer goes through them in the order of the text
        pointed = self._point(output, input_ids, boundaries, past, at=at, last=True)
        return mixed_logits(logits, pointed._replace(copied=pointed.copied[:, order], rest=pointed.rest[:, order]))

    def _point(
        self,
        output: ResNetBKModelOutput,
        input_ids: Tensor | None,
        boundaries: Boundaries | None,
        past: PointerState | None,
        *,
        last: bool,
        targets: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Pointed:
        """What the pointer proposes after its state `past`; if it is asked the last time in this call, the cache that
        is returned, if one is, gets its state."""
        assert self.pointer is not None
        cache = output.cache
        pointed: Pointed = self.pointer(
            output.last_hidden_state,
            input_ids,
            boundaries,
            past,
            targets=targets,
            at=at,
            keep_state=last and cache is not None,
        )
        if targets is not None:
            output.measures = (output.measures or {}) | {"pointed": pointed_share(pointed, targets != IGNORED)}
        if last and cache is not None:
            begun = None if boundaries is None else boundaries.begun
            cache.update_pointer(pointed.state if begun is None else pointed.state.only(begun))
        return pointed

    def _check_pointer(self, input_ids: Tensor | None, cache: ResNetBKCache | None) -> None:
        """Raises ValueError where a pointer lacks tokens, or has not seen all that the cache has."""
        if self.pointer is None:
            return
        if input_ids is None:
            raise ValueError(
                f"input_ids must be given where pointer_heads={self.config.pointer_heads}, for a pointer copies tokens "
                "(pass input_ids in the place of inputs_embeds, or build the model with pointer_heads=0)"
            )
        if cache is None:
            return
        if cache.get_seq_length() != cache.pointer_tokens:
            raise ValueError(
                f"cache (past_key_values) has seen {cache.get_seq_length()} tokens and its pointer "
                f"{cache.pointer_tokens}; fill it through ResNetBKForCausalLM alone"
            )
        if cache.pointer is not None:
            self.pointer.check_state(cache.pointer)
