"""How `generate` of `transformers` calls ResNet-BK: documents of the prompt, the cache, and what cannot be had."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin

from resnet_bk.models.cache import ResNetBKCache
from resnet_bk.models.checks import check_alone, check_cache, check_tensors
from resnet_bk.models.packing import check_numbers, document_starts, packed_documents, prompt_shape


class ResNetBKGenerationMixin(GenerationMixin):
    """Of `ResNetBKForCausalLM`, whose configuration and body it reads."""

    config: Any
    model: Any

    def generate(
        self,
        *args: Any,
        position_ids: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As in `transformers`. `document_ids`, or one of the three other names of `packed_documents`, cover the
        prompt; what is generated continues its last document.

        Raises:
            ValueError: see `packed_documents`; the mask does not fit prompt and cache; or what would leave the logits
                out, from which the next token is drawn.
        """
        if options.get("targets") is not None or options.get("return_logits") is False:
            name = "return_logits=False" if options.get("targets") is None else "targets"
            raise ValueError(
                f"{name} leaves out the logits that generate draws from; leave it out, or call the model itself"
            )
        documents = options.get("document_ids")
        names = {"position_ids": position_ids, "seq_idx": seq_idx, "cu_seq_lens_q": cu_seq_lens_q}
        check_tensors(document_ids=documents, **names)
        shape = prompt_shape(args, options)
        if documents is None and all(value is None for value in names.values()):
            return super().generate(*args, **options)
        if documents is not None:
            check_numbers("document_ids", documents, shape)
        mask, cache = options.get("attention_mask"), options.get("cache", options.get("past_key_values"))
        check_cache(cache, None, self.config, self.model.layers[0].mixer)
        before = _tokens_before(options, shape[1], 0 if cache is None else cache.get_seq_length())
        if before:
            new = packed_documents(
                documents,
                position_ids,
                seq_idx,
                cu_seq_lens_q,
                shape=shape,
                past_length=before,
                attention_mask=mask,
            )
            options["document_ids"] = None if new is None else F.pad(new, (before, 0))  # of the whole text
        elif position_ids is not None and seq_idx is None and documents is None:
            # Padding has positions too, and starts no document.
            check_numbers("position_ids", position_ids, shape)
            fits = isinstance(mask, Tensor) and tuple(mask.shape) == shape  # another is of a cache that is not there
            starts = document_starts(position_ids, mask if fits else None)
            if bool(starts.any()):  # else they only count
                options["document_ids"] = _as_counted_before(starts.cumsum(dim=1).expand(shape), cache)
        else:
            numbers = packed_documents(documents, position_ids, seq_idx, cu_seq_lens_q, shape=shape)
            counted = documents is None and seq_idx is None
            options["document_ids"] = _as_counted_before(numbers, cache) if counted else numbers
        return super().generate(*args, **options)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of the next call of `generate`; document_ids cover the prompt, generated tokens continue its last."""
        document_ids = kwargs.pop("document_ids", None)
        for name in ("tokenizer", "assistant_tokenizer"):  # `generate` of transformers hands on what it reads itself
            kwargs.pop(name, None)
        new_tokens = kwargs.get("next_sequence_length")
        cache = kwargs.get("cache")
        if new_tokens is not None and new_tokens <= 0 and cache is not None:
            seen = cache.get_seq_length()
            raise _nothing_new("input_ids" if inputs_embeds is None else "inputs_embeds", seen, seen + new_tokens)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        inputs.pop("position_ids", None)  # made by `generate` of transformers; those of a caller are documents by now
        if document_ids is not None:
            tokens = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
            past = cache.get_seq_length() if cache is not None else 0
            missing = past + tokens.shape[1] - document_ids.shape[1]
            if missing > 0:
                document_ids = torch.cat([document_ids, document_ids[:, -1:].expand(-1, missing)], dim=1)
            inputs["document_ids"] = document_ids[:, past : past + tokens.shape[1]].to(tokens.device)
        return inputs

    def _prefill(
        self, input_ids: Any, generation_config: Any, model_kwargs: dict[str, Any], is_first_iteration: bool = True
    ) -> Any:
        """The first call for a prompt. Where it is read in pieces, `generate` of transformers cuts off what a cache has
        seen, and reads all of it again if nothing is left; embeddings it reads whole for every piece of the tokens.
        """
        size, cache = generation_config.prefill_chunk_size, model_kwargs.get("cache")
        seen = 0 if cache is None else cache.get_seq_length()
        if size is not None and model_kwargs.get("inputs_embeds") is not None and (seen or input_ids.shape[1] > size):
            where = f"after the {seen} tokens of the cache" if seen else "beside input_ids"
            raise ValueError(
                f"prefill_chunk_size={size} with inputs_embeds {where}, which would be read more than once; leave it "
                "out"
            )
        mask, length = model_kwargs.get("attention_mask"), input_ids.shape[1]
        covered = getattr(generation_config, "_mask_length", -1) if mask is None else mask.shape[1]
        if size is not None and covered == length <= seen:  # the whole text, not what is new alone
            raise _nothing_new("input_ids", seen, length)
        of_any = cast(Any, super())  # whose type wants a whole model
        return of_any._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=is_first_iteration)

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> bool:
        reason = "the state of a recurrence does not say how to undo it"
        check_alone(generation_mode, generation_config, self.config, reason)
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r}: ResNet-BK has one kind of cache, of "
                "constant size; leave the argument out"
            )
        cache = model_kwargs.get("cache")
        if cache is not None and generation_config.use_cache is False and cache.get_seq_length():
            raise ValueError(
                f"use_cache=False with a cache of {cache.get_seq_length()} tokens: without one the whole text is read "
                "for every new token, and those would be read again; leave use_cache out, or the cache"
            )
        if cache is not None:
            check_cache(cache, None, self.config, self.model.layers[0].mixer)
            cache._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs["cache"] = ResNetBKCache(self.config)
        return cache is None


def _nothing_new(name: str, seen: int, length: int) -> ValueError:
    return ValueError(
        f"{name} must hold the {seen} tokens of the cache and at least one more, but has length {length}; pass "
        "the whole sequence, the cache knows what it has seen (an empty prompt needs a first token)"
    )


def _as_counted_before(numbers: Tensor | None, cache: ResNetBKCache | None) -> Tensor | None:
    """Numbers [B, T] of the documents of a whole text, counted here, so that they go on from those with which a cache
    was filled with its beginning: the call that filled it may have counted otherwise."""
    if numbers is None or cache is None or cache.last_document is None or not cache.get_seq_length():
        return numbers
    seen, last = cache.get_seq_length(), cache.last_document.to(numbers.device)
    if seen > numbers.shape[1] or len(last) % len(numbers):
        return numbers  # of another text or batch, which is refused later
    beams = len(last) // len(numbers)  # a row of the prompt each
    return numbers + (last[::beams] - numbers[:, seen - 1]).unsqueeze(1)


def _tokens_before(options: Mapping[str, Any], length: int, seen: int) -> int:
    """How many of the `seen` tokens of a cache the prompt, of `length` tokens, lacks: behind one the prompt may be the
    new tokens alone, and then the mask covers those before as well. 0 where the prompt is the whole text.

    Raises:
        ValueError: the mask covers more than the prompt, and something else than cache and prompt together.
    """
    mask = options.get("attention_mask")
    before = mask.shape[1] - length if isinstance(mask, Tensor) and mask.ndim == 2 else 0
    if before <= 0 or not seen:
        return 0
    if before != seen or options.get("inputs_embeds") is not None:
        raise ValueError(
            f"attention_mask has {before + length} columns for a prompt of {length} tokens after the {seen} of "
            "the cache; with document_ids and the like pass the new tokens alone and a mask of both together, or "
            "the whole text (embeddings always) and a mask of that"
        )
    return before
