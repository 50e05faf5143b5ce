"""Checks of the arguments of a call. Each failure names the argument, its value, the rule and the way out.

Shape legend: B batch, T tokens, D hidden size.
"""

import math
import warnings
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from transformers.generation import GenerationMode

from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.mixer import StateShape
from resnet_bk.models.cache import ResNetBKCache
from resnet_bk.models.configuration_resnet_bk import ResNetBKConfig
from resnet_bk.ops.checks import has_values
from resnet_bk.ops.dispatch import autocast_enabled
from resnet_bk.ops.linear_cross_entropy import IGNORED, REDUCTIONS

CACHE = "cache (past_key_values)"  # both names of the argument


def check_config(config: Any, kind: type[Any]) -> None:
    """A configuration of this kind, whose fields fit together; they may have been set after construction.

    Raises:
        ValueError: one of another model, or fields that are wrong.
    """
    if not isinstance(config, kind):
        same_name = type(config).__name__ == kind.__name__  # a copy of the class, as `register_for_auto_class` makes
        copied = f" of {type(config).__module__} in the place of that of {kind.__module__}" if same_name else ""
        raise ValueError(
            f"config must be a {kind.__name__}, but got {type(config).__name__}{copied}; "
            "AutoModelForCausalLM.from_config finds the model of a configuration"
        )
    config.check()


def check_precision(inputs_embeds: Tensor, dtype: torch.dtype) -> None:
    """Raises ValueError for embeddings of another type than the weights, where no autocast makes them alike, which it
    does not of float64."""
    alike = autocast_enabled(inputs_embeds.device) and torch.float64 not in (inputs_embeds.dtype, dtype)
    if inputs_embeds.dtype != dtype and not alike:
        raise ValueError(
            f"inputs_embeds must be {dtype} as the model is, but got {inputs_embeds.dtype}; convert them with "
            f".to({dtype})"
        )


def check_tensors(**given: Any) -> None:
    """Arguments by name, each a tensor or None.

    Raises:
        ValueError: a list, an array or anything else.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, but got {type(value).__name__}; torch.as_tensor makes one")


def check_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None, config: Any) -> tuple[int, int]:
    """(B, T) of the one of the two that is given.

    Raises:
        ValueError: none or both are given; shapes, types or word indices that do not fit.
    """
    check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds)
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"input_ids or inputs_embeds must be given, but got {given}; pass one of the two")
    if inputs_embeds is not None:
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != config.hidden_size or not inputs_embeds.shape[1]:
            raise ValueError(
                f"inputs_embeds must be [batch, tokens, {config.hidden_size}] with at least one token, but got "
                f"{tuple(inputs_embeds.shape)}; the last dimension is hidden_size"
            )
        if not inputs_embeds.is_floating_point():
            raise ValueError(
                f"inputs_embeds must be embeddings, but got {inputs_embeds.dtype}; pass words as input_ids"
            )
        return inputs_embeds.shape[0], inputs_embeds.shape[1]
    assert input_ids is not None
    if input_ids.ndim != 2 or not input_ids.shape[1] or input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"input_ids must be int64 [batch, tokens] with at least one token, but got {input_ids.dtype} "
            f"{tuple(input_ids.shape)}; a single sequence needs [None], an empty prompt a first token"
        )
    if has_values(input_ids):  # else the embedding reports them
        low, high = input_ids.aminmax()
        if low < 0 or high >= config.vocab_size:
            wrong = int(low) if low < 0 else int(high)
            raise ValueError(
                f"input_ids must lie in [0, {config.vocab_size}), but got {wrong}; the tokenizer does not fit the "
                "model, or resize_token_embeddings is missing"
            )
    return input_ids.shape[0], input_ids.shape[1]


def check_labels(labels: Tensor, shape: tuple[int, int], config: Any) -> None:
    """A label a token, each a word or `IGNORED`.

    Raises:
        ValueError: labels of another shape, or of no word.
    """
    check_tensors(labels=labels)
    if tuple(labels.shape) != tuple(shape) or labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"labels must be int64 of shape {tuple(shape)}, one label a token, but got {labels.dtype} "
            f"{tuple(labels.shape)}; pass input_ids themselves, the shift by one is done inside"
        )
    _check_range("labels", labels, config)


def check_targets(
    labels: Tensor | None, targets: Tensor | None, reduction: str, shape: tuple[int, int], config: Any
) -> None:
    """Labels or targets or none of them, a word or `IGNORED` a token, and how the losses of targets are put together.

    Raises:
        ValueError: both are given, they are of another shape or of no word, or the reduction is unknown or of labels.
    """
    if labels is not None and targets is not None:
        raise ValueError(
            "labels and targets both say what is predicted; pass labels, which are shifted inside, or targets, which "
            "are not"
        )
    if reduction not in REDUCTIONS or (targets is None and reduction != "mean"):
        raise ValueError(
            f"reduction must be one of {', '.join(REDUCTIONS)}, and mean without targets, but got {reduction!r}; pass "
            "targets, or leave it out"
        )
    if labels is not None:
        check_labels(labels, shape, config)
    if targets is None:
        return
    check_tensors(targets=targets)
    if tuple(targets.shape) != tuple(shape) or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 of shape {tuple(shape)}, what each token predicts, but got {targets.dtype} "
            f"{tuple(targets.shape)}; pass the token after each, {IGNORED} where there is none, as .long()"
        )
    _check_range("targets", targets, config)


def check_unpadded(targets: Tensor | None, boundaries: Boundaries | None) -> None:
    """Padding predicts nothing.

    Raises:
        ValueError: a target stands at padding.
    """
    if targets is None or boundaries is None or boundaries.real is None or not has_values(targets):
        return
    wrong = int(((targets != IGNORED) & (boundaries.real.squeeze(-1) == 0)).sum())
    if wrong:
        raise ValueError(
            f"targets must be {IGNORED} at padding, but {wrong} of them are words; targets.masked_fill(mask == 0, "
            f"{IGNORED}) makes them so"
        )


def items_in_batch(count: Any, targets: Tensor | None) -> Any:
    """By how many labels a loss is divided, a number or a 0-d tensor; None by those of the batch. 1 where there are
    none, as in a step of `Trainer` in which every label is -100: its loss is then 0, and not 0 / 0.

    Args:
        count: `num_items_in_batch` of a call.
        targets: of the same call.

    Raises:
        ValueError: it is no finite number of at least 0, or there are targets beside it.
    """
    if count is None:
        return None
    if targets is not None:
        raise ValueError(
            f"num_items_in_batch={count} is of labels, but targets were given; pass reduction='sum' and divide by it"
        )
    if isinstance(count, Tensor):
        right = count.numel() == 1 and not count.is_complex() and count.dtype != torch.bool
        seen = right and has_values(count)
    else:
        right = seen = isinstance(count, Real) and not isinstance(count, bool)
    if not right or (seen and not 0 <= float(count) < math.inf):
        raise ValueError(
            f"num_items_in_batch={count!r} must be a finite number of at least 0, of the labels other than {IGNORED} "
            "that all batches of the step have together; leave it out for the mean over this batch"
        )
    return count.reshape(()).clamp_min(1) if isinstance(count, Tensor) else max(count, 1)


def check_logits_to_keep(kept: int | Tensor, length: int) -> None:
    """A number of last tokens, or places among the `length` tokens of a call: indices or a mask.

    Raises:
        ValueError: neither a number nor a tensor, a negative number, places of another shape or type, or beyond the
            call.
    """
    if not isinstance(kept, Tensor):
        if not isinstance(kept, int) or isinstance(kept, bool) or kept < 0:
            raise ValueError(
                f"logits_to_keep must be an int of at least 0, or a tensor of places, but got {kept!r}; a number "
                "counts from the end: 1 is the last token, 0 all"
            )
        return
    mask = kept.dtype == torch.bool  # not uint8, which PyTorch takes for one
    if kept.ndim != 1 or kept.dtype not in (torch.bool, torch.int32, torch.int64) or (mask and len(kept) != length):
        raise ValueError(
            f"logits_to_keep must be a number, places (int64) or a mask (bool) of [{length}], but got {kept.dtype} "
            f"{tuple(kept.shape)}; the same places are taken of every row"
        )
    if mask or not has_values(kept):
        return
    low, high = int(kept.min()), int(kept.max())
    if low < -length or high >= length:
        raise ValueError(
            f"logits_to_keep must lie in [{-length}, {length}), but got {low if low < -length else high}; places are "
            "counted from the first token of this call, without those of the cache"
        )


def _check_range(name: str, tokens: Tensor, config: Any) -> None:
    """Raises ValueError for one that is neither in the vocabulary nor `IGNORED`."""
    if not has_values(tokens):
        return
    kept = tokens[tokens != IGNORED]
    if kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < config.vocab_size:
        wrong = int(kept.min()) if kept.min() < 0 else int(kept.max())
        raise ValueError(
            f"{name} must be tokens in [0, {config.vocab_size}) or {IGNORED} where nothing is predicted, but got "
            f"{wrong}; set {IGNORED} there, or resize_token_embeddings for a larger tokenizer"
        )


def warn_of_what_a_head_adds(config: ResNetBKConfig, aux_loss: Tensor | None) -> None:
    """For trainers that take the body of a model and multiply by the weights of its head, as trl does: what such a loss
    lacks is said once."""
    lacking = ["the pointer"] * bool(config.pointer_heads) + ["aux_loss"] * (aux_loss is not None)
    if lacking and not torch.compiler.is_compiling():
        warnings.warn(
            f"ResNetBKModel was called in training past its head: a loss made from its hidden states lacks "
            f"{' and '.join(lacking)}; take the loss that ResNetBKForCausalLM returns, or a model without a pointer, "
            "experts and switches",
            stacklevel=3,
        )


def one_cache(past_key_values: Any, cache: Any) -> Any:
    """The one of the two names of the cache that was used.

    Raises:
        ValueError: both were.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError("past_key_values and cache are two names of one argument, but both were given; pass one")
    return past_key_values if cache is None else cache


def check_cache(cache: Any, batch: int | None, config: ResNetBKConfig, mixer: Any) -> None:
    """A cache of this model, whose first block has `mixer`, for this batch; or None.

    Raises:
        ValueError: a cache of another kind, depth, width, hierarchy of scales or batch size.
    """
    if cache is None:
        return
    if not isinstance(cache, ResNetBKCache):
        raise ValueError(
            f"{CACHE} must be a ResNetBKCache, but got {type(cache).__name__}; pass what an earlier call "
            "returned, ResNetBKCache(config), or None"
        )
    if len(cache.layers) != config.num_hidden_layers:
        raise ValueError(
            f"{CACHE} must hold {config.num_hidden_layers} blocks, but holds {len(cache.layers)}; it "
            "belongs to another model"
        )
    state = cache.layers[0].state
    if state is not None:
        tail, (green, carried) = state
        double = _is_double(mixer)
        if double is not None and double != (green.dtype == torch.complex128):
            raise ValueError(
                f"{CACHE} was filled by a model of another precision: its states are {green.dtype}, where this "
                f"model has {torch.complex128 if double else torch.complex64}; start with an empty cache"
            )
        of_tail = None if tail is None else (tail.shape[1], tail.shape[2])
        found = StateShape(of_tail, tuple(carried.shape[1:]), real=not carried.is_complex())
        expected = mixer.state_shape()
        if found != expected or any(scale.latest.shape[1] != config.hidden_size for scale in cache.scales):
            raise ValueError(
                f"{CACHE} holds a {_described(found)}, but this model has a {_described(expected)}, at "
                f"hidden_size={config.hidden_size}; it belongs to another model"
            )
        factors, wanted = [scale.pending.shape[1] + 1 for scale in cache.scales], config.shortening_factors()
        if factors != wanted:
            raise ValueError(
                f"{CACHE} was shortened by the factors {factors}, but multi_scale={config.multi_scale} of this "
                f"model shortens by {wanted}; it belongs to another model"
            )
    if batch is not None and cache.batch_size not in (-1, batch):
        ways, left = divmod(batch, max(cache.batch_size, 1))
        way_out = "select rows with cache.batch_select_indices"
        if ways > 1 and not left:  # beams, or several continuations of each prompt
            way_out = f"repeat each row with cache.batch_repeat_interleave({ways})"
        raise ValueError(
            f"{CACHE} holds {cache.batch_size} rows, but this batch has {batch}; {way_out}, or start with an "
            "empty cache"
        )


def check_alone(generation_mode: GenerationMode, generation_config: Any, config: Any, reason: str) -> None:
    """`generate` drafts no tokens to take some of them back, neither by this model nor for it.

    Args:
        generation_mode: of the call.
        generation_config: of the call.
        config: of the model.
        reason: why none can be taken back.

    Raises:
        ValueError: it does.
    """
    if generation_config.is_assistant:
        name, way_out = "assistant_model", "draft with another model, or leave the argument out"
    elif generation_mode == GenerationMode.ASSISTED_GENERATION:
        drafts = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
        name = next((draft for draft in drafts if getattr(generation_config, draft, None)), "assistant_model")
        way_out = "leave the argument out"
    else:
        return
    raise ValueError(
        f"{name} needs a model that can take tokens back, but {config.model_type} cannot: {reason}; {way_out}"
    )


def _is_double(mixer: Any) -> bool | None:
    """Whether a mixer computes in float64; None of one whose parameters do not say so, as where FSDP or a quantiser
    keeps them."""
    usual = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = next((parameter.dtype for parameter in mixer.parameters() if parameter.dtype in usual), None)
    return None if found is None else found == torch.float64


def _described(shape: StateShape) -> str:
    kind = "real" if shape.real else "complex"
    return f"{kind} state {shape.carried} and inputs of the convolution {shape.convolution}"


def check_outputs(output_attentions: bool | None, config: Any) -> None:
    """No attention maps were asked for, by the call or by the configuration.

    Raises:
        ValueError: they were.
    """
    if output_attentions or (output_attentions is None and config.output_attentions):
        raise ValueError(
            "output_attentions must not be true: ResNet-BK has no attention maps; ask for output_hidden_states, or "
            "read the chains of a layer with layer.mixer.chain"
        )
