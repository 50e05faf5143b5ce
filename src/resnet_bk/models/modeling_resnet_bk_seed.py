"""The earlier system as a Hugging Face language model, and its causal form.

With `green="two_sided"` the model is not causal: its logits at t depend on token t + 1, the one that they are to
predict, so its loss is no language-model loss and its text is not drawn from the model that was trained. It is here to
reproduce the earlier report. With `green="surface"` it is the same model with a causal Green's function.

Shape legend: B batch, T tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from resnet_bk.layers import Boundaries, find_boundaries
from resnet_bk.layers.head import head_loss
from resnet_bk.layers.seed_block import SeedBlock
from resnet_bk.layers.seed_moe import SeedMoE
from resnet_bk.models.checks import (
    check_alone,
    check_config,
    check_labels,
    check_logits_to_keep,
    check_outputs,
    check_precision,
    check_tensors,
    check_tokens,
    items_in_batch,
)
from resnet_bk.models.configuration_resnet_bk_seed import ResNetBKSeedConfig
from resnet_bk.models.outputs import wants_dict
from resnet_bk.models.packing import check_numbers, prompt_shape
from resnet_bk.models.targets import of_all_labels, shifted_targets


class ResNetBKSeedPreTrainedModel(PreTrainedModel):
    """Initialisation and what `transformers` needs to know about the architecture."""

    config_class = ResNetBKSeedConfig
    config: Any
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SeedBlock"]  # noqa: RUF012, the base class declares an instance variable

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SeedMoE):
            module.reset_parameters(self.config.initializer_range)
        elif isinstance(module, SeedBlock):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class ResNetBKSeedModel(ResNetBKSeedPreTrainedModel):
    """Token and position embeddings, blocks and the last norm: hidden states without a head."""

    def __init__(self, config: ResNetBKSeedConfig) -> None:
        check_config(config, ResNetBKSeedConfig)
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(SeedBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        document_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Hidden states of B rows of T tokens.

        Args:
            input_ids: word indices, int64 [B, T]; this or inputs_embeds.
            attention_mask: 1 for a token, 0 for padding, [B, T]. Padding, left or right, changes nothing for the
                tokens: the chain is cut there and positions count from the first token.
            inputs_embeds: embeddings of the words, [B, T, D]; the positions are added.
            use_cache: must not be true: there is no cache.
            document_ids: integers [B, T]; a document ends where the number changes. No token sees another document, and
                positions count from the start of its own.
            output_hidden_states: return the embeddings and the output of every block too.
            output_attentions: must not be true, there is no attention.
            return_dict: false for a tuple.

        Raises:
            ValueError: inputs that do not fit together, more tokens than positions, use_cache=True.
        """
        batch, length = check_tokens(input_ids, inputs_embeds, self.config)
        check_tensors(attention_mask=attention_mask, document_ids=document_ids)
        check_outputs(output_attentions, self.config)
        check_no_cache(use_cache)
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids must have at most max_position_embeddings={self.config.max_position_embeddings} tokens a "
                f"row, but got {length}; cut the text, or train a model with more positions"
            )
        boundaries = find_boundaries(attention_mask, document_ids, shape=(batch, length))
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = hidden + self.embed_positions(_positions(boundaries, length, hidden.device))
        if inputs_embeds is not None:
            check_precision(hidden, self.norm.weight.dtype)  # the sum: narrower ones have become as wide

        hidden_states: list[Tensor] = []
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        for layer in self.layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden = layer(hidden, boundaries)
        hidden = self.norm(hidden)
        output = BaseModelOutput(
            last_hidden_state=hidden, hidden_states=(*hidden_states, hidden) if output_hidden_states else None
        )
        return output if wants_dict(return_dict, self.config) else output.to_tuple()


class ResNetBKSeedForCausalLM(ResNetBKSeedPreTrainedModel, GenerationMixin):
    """The earlier system with its head over the vocabulary, with bias. Causal only if `config.causal` says so."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    # The loss may be divided by the tokens of several batches: `num_items_in_batch`.
    accepts_loss_kwargs = True

    def __init__(self, config: ResNetBKSeedConfig) -> None:
        super().__init__(config)
        self.model = ResNetBKSeedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        document_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_logits: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Logits, and the loss where there are labels.

        Args:
            labels: word indices, int64 [B, T], most often input_ids themselves: the shift by one is done here. -100,
                padding and the first token of a packed document are not predicted.
            logits_to_keep: compute the logits of the last so many tokens only (0: of all), or of these positions.
            return_logits: compute the logits. By default they are left out where nothing reads them: in training with
                labels.
            num_items_in_batch: as in `ResNetBKForCausalLM.forward`.
            input_ids, attention_mask, inputs_embeds, use_cache, document_ids, output_hidden_states, output_attentions,
            return_dict: as in `ResNetBKSeedModel.forward`.

        Raises:
            ValueError: inputs that do not fit together.
        """
        items = items_in_batch(num_items_in_batch, None)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            document_ids=document_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        hidden = output.last_hidden_state
        loss = None
        if labels is not None:
            check_labels(labels, (hidden.shape[0], hidden.shape[1]), self.config)
            targets = shifted_targets(labels, attention_mask, document_ids)
            reduction = "mean" if items is None else "sum"
            loss = head_loss(hidden, self.lm_head, targets, reduction=reduction)
            if items is not None:
                loss = of_all_labels(loss, labels, targets) / items
        logits = None
        if return_logits if return_logits is not None else labels is None or not self.training:
            check_logits_to_keep(logits_to_keep, hidden.shape[1])
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, kept])
        result = CausalLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return result if wants_dict(return_dict, self.config) else result.to_tuple()

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> bool:
        """No cache: every step of `generate` reads the whole text again.

        Raises:
            ValueError: drafts, a kind of cache or guidance are asked for, the text would outgrow the positions, the
                prompt is padded on the right. (`generate` itself refuses a cache and a prompt of embeddings.)
        """
        check_alone(generation_mode, generation_config, self.config, "it has no cache")
        kind = generation_config.cache_implementation
        if kind is not None:
            raise ValueError(f"cache_implementation={kind!r}: this model has no cache; leave the argument out")
        scale = generation_config.guidance_scale
        if scale not in (None, 1):
            raise ValueError(
                f"guidance_scale={scale}: guidance of transformers reads the text without its prompt by a cache, which "
                "this model has not; leave the argument out"
            )
        positions = self.config.max_position_embeddings
        if max_cache_length > positions:
            raise ValueError(
                f"generate() would read {max_cache_length} tokens, but the model has "
                f"max_position_embeddings={positions}; lower max_new_tokens or cut the prompt"
            )
        mask = model_kwargs.get("attention_mask")
        if mask is not None and not bool(mask[:, -1].all()):
            raise ValueError(
                "attention_mask has padding after tokens, where generation goes on; pad on the left "
                "(tokenizer.padding_side = 'left')"
            )
        generation_config.use_cache = False
        return False

    def generate(self, *args: Any, **options: Any) -> Any:
        """As in `transformers`. `document_ids` cover the prompt; what is generated continues its last document."""
        documents, shape = options.get("document_ids"), prompt_shape(args, options)
        check_tensors(document_ids=documents)
        if documents is not None:
            check_numbers("document_ids", documents, shape)
        return super().generate(*args, **options)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Inputs of the next call of `generate`; document_ids cover the prompt, generated tokens continue its last."""
        document_ids = kwargs.pop("document_ids", None)
        for name in ("tokenizer", "assistant_tokenizer"):  # `generate` of transformers hands on what it reads itself
            kwargs.pop(name, None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if document_ids is not None:
            missing = input_ids.shape[1] - document_ids.shape[1]
            whole = torch.cat([document_ids, document_ids[:, -1:].expand(-1, missing)], dim=1)
            inputs["document_ids"] = whole.to(inputs["input_ids"].device)  # that of the model by now
        return inputs


def check_no_cache(use_cache: bool | None) -> None:
    """No cache was asked for.

    Raises:
        ValueError: one was.
    """
    if use_cache:
        raise ValueError(
            "use_cache must not be true: this model has no cache; leave it out, generate() reads the whole text again "
            "at every step"
        )


def _positions(boundaries: Boundaries | None, length: int, device: torch.device) -> Tensor:
    """Row of the table for every token, counted from where its chain starts; int64 [1, T] or [B, T]."""
    index = torch.arange(length, device=device)[None]
    if boundaries is None:
        return index
    starts = torch.where(boundaries.keep.squeeze(-1) == 0, index, 0)
    return index - starts.cummax(dim=1).values
