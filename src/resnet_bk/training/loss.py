"""Next-token loss of any causal language model, through one code path.

The head of a language model is usually a plain linear map of the last hidden state. Then the loss is computed by
`resnet_bk.ops.linear_cross_entropy`, which never holds all logits. Some models do more (soft-capped or scaled logits,
an auxiliary loss outside the base model); for them the model's own logits are used. `choose_head` finds out which. A
model with a method `target_losses` computes losses without logits itself.

Shape legend: B batch, T tokens, D width, V vocabulary.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.models.mixed_precision import is_mixed, mixed_precision
from resnet_bk.ops import linear_cross_entropy
from resnet_bk.training.carried import first_state
from resnet_bk.training.spec import CHOICES

Head = Literal["fused", "model"]
HEADS = get_args(Head)

# A float32 matmul over a few thousand terms agrees with another order of summation to about 1e-6 of the largest value;
# a soft cap or a scale moves logits of this size by percents.
HEAD_TOLERANCE = 1e-4
HEAD_LOGITS = 30.0  # size of the logits under test: a soft cap does not show on the small ones of a fresh model
# The same where the model's head runs in bfloat16, whose logits have 8 bits.
MIXED_TOLERANCE = 1e-2


class Loss(NamedTuple):
    """value: loss by reduction, in nats; auxiliary: what training adds to it, or None; state: to hand on, or None;
    measures: scalars that the model reports of this call, by name."""

    value: Tensor
    auxiliary: Tensor | None
    state: Any
    measures: dict[str, Tensor]


def causal_lm_loss(
    model: Any,
    input_ids: Tensor,
    targets: Tensor,
    head: Head,
    *,
    carry_state: bool = False,
    state: Any = None,
    reduction: str = "mean",
) -> Loss:
    """Cross-entropy of the words that come next.

    Args:
        model: a causal LM of `transformers`.
        input_ids: int64 [B, T].
        targets: int64 [B, T], the word after each input word; -100 takes no part.
        head: "fused" or "model", from `choose_head`.
        carry_state: start from `state` and return the state after the segment.
        state: what an earlier call returned for the same rows, or None for the start of a text.
        reduction: "mean", "sum" or "none" ([B, T]).

    Raises:
        ValueError: another head, or a state that is not to be carried.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} must be one of {', '.join(HEADS)}; choose_head(model, input_ids) finds it")
    if state is not None and not carry_state:
        raise ValueError("state was given without carry_state, and would not be read; set carry_state=True or leave it")
    options: dict[str, Any] = {"use_cache": carry_state}
    if carry_state:
        options["cache"] = first_state(model) if state is None else state
    own_losses = getattr(model, "target_losses", None)
    if head == "fused" and own_losses is not None:
        output = own_losses(input_ids, targets, reduction=reduction, **options)
        value = output.loss
    elif head == "fused":
        output = model.base_model(input_ids=input_ids, **options)
        layer = model.get_output_embeddings()
        with mixed_precision(model.config, input_ids.device):
            value = linear_cross_entropy(
                output.last_hidden_state, layer.weight, targets, getattr(layer, "bias", None), reduction=reduction
            )
    else:
        output = model(input_ids=input_ids, **options)
        value = F.cross_entropy(output.logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)
        if reduction == "none":
            value = value.view(targets.shape)
    auxiliary = getattr(output, "aux_loss", None)
    # Mixtures of experts of `transformers` return it without its weight.
    weight = getattr(output, "aux_loss_weight", getattr(model.config, "router_aux_loss_coef", 0.0))
    return Loss(
        value,
        None if auxiliary is None or not weight else weight * auxiliary,
        output.cache if carry_state else None,
        getattr(output, "measures", None) or {},
    )


def autocast_to(dtype: str, device: torch.device) -> torch.autocast:
    """Mixed precision where a run's dtype is "bfloat16", in training and evaluation alike.

    Raises:
        ValueError: it is neither that nor "float32".
    """
    if dtype not in CHOICES["dtype"]:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(CHOICES['dtype'])}; bfloat16 is by autocast")
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


@torch.no_grad()
def choose_head(model: Any, input_ids: Tensor) -> Head:
    """ "fused" if the model computes losses itself, or its logits are its head applied to the last hidden state, else
    "model".

    Looked at on a disturbed copy of the model whose logits are large: at the small logits of a fresh model a soft cap
    would not show. Losses that a model computes itself must be those of its logits, for the causality audit looks at
    logits.

    Args:
        model: a causal LM of `transformers`.
        input_ids: int64 [B, T]; a corner of it is enough.

    Raises:
        ValueError: a model whose own losses are not those of its logits, or with a pointer on a language model that
            does more.
    """
    ids = input_ids[:2, :32]
    if hasattr(model, "target_losses"):
        inner = getattr(model, "language_model", None)
        if inner is not None and choose_head(inner, input_ids) != "fused":
            raise ValueError(
                f"language_model: the logits of {inner.config.model_type} are more than its head applied to its last "
                "hidden state (a scale, a soft cap, an auxiliary loss), which a pointer would leave out; take another"
            )
        _check_own_losses(model, ids)
        return "fused"
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
        return "model"
    if model.base_model is model:
        raise ValueError(
            f"{type(model).__name__} has a head and names no base model before it; set base_model_prefix of the class "
            'to the attribute that holds it, for example "model"'
        )
    with _disturbed(model) as probe:
        hidden = probe.base_model(input_ids=ids, use_cache=False)
        head = probe.get_output_embeddings()
        logits = F.linear(hidden.last_hidden_state, head.weight, head.bias)
        head.weight.mul_(HEAD_LOGITS / logits.std())
        # Once more, for the input embedding may be the same matrix.
        hidden = probe.base_model(input_ids=ids, use_cache=False)
        with mixed_precision(probe.config, ids.device):
            logits = F.linear(hidden.last_hidden_state, head.weight, head.bias)
        output = probe(input_ids=ids, use_cache=False)
    has_aux = getattr(output, "aux_loss", None) is not None
    if has_aux and getattr(hidden, "aux_loss", None) is None:
        return "model"
    same = (output.logits.float() - logits.float()).abs().amax() <= HEAD_TOLERANCE * logits.abs().amax()
    return "fused" if same else "model"


@contextmanager
def _disturbed(model: Any) -> Iterator[Any]:
    """A copy of a model with noise on its weights; random numbers are left as they were."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        probe = copy.deepcopy(model).eval()
        for parameter in probe.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        yield probe


def _check_own_losses(model: Any, ids: Tensor) -> None:
    """Raises ValueError where the losses that a model computes of words [B, T] are not those of its logits."""
    targets = ids.roll(-1, 1)  # the last word predicts the first, which has been seen
    with _disturbed(model) as probe:
        losses = probe.target_losses(ids, targets, reduction="none").loss.float()
        logits = probe(input_ids=ids, use_cache=False).logits.float()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    gap = (losses - expected).abs().amax()
    allowed = MIXED_TOLERANCE if is_mixed(model.config) else HEAD_TOLERANCE
    if not gap <= allowed * logits.abs().amax():
        raise ValueError(
            f"{type(model).__name__}.target_losses: differs from the loss of the model's own logits by "
            f"{float(gap):.2g} nats, so that its perplexity would be of another model than the one that was audited; "
            "correct it, or set head: model to train on the logits"
        )
