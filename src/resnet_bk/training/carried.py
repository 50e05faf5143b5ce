"""States of models of `transformers` as they are handed from segment to segment, and from token to token.

ResNet-BK brings a cache that may be used under autograd. That of a linear-attention or state-space model of
`transformers` is made for generation: it is overwritten in place, also where the backward pass still needs what was
read from it. `CarriedStates` is the same cache without that. And some models ask it how many tokens it has seen, which
it does not know without a layer of attention; `ConstantStates` answers.

Shape legend: B batch, T tokens.
"""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from resnet_bk.models.cache import CarriedState
from resnet_bk.training.mode import evaluation_mode

# Reading a stream at once and reading it in two halves differ by the order of float32 sums; a cache that is passed
# over, in whole or in part, changes hidden states by a share of what starting anew does.
ROUNDING, OF_STARTING_ANEW = 1e-5, 1e-4


class ConstantStates(DynamicCache):
    """The states of a model all of whose layers have one of constant size.

    Args:
        config: of the model.

    Raises:
        ValueError: a layer keeps keys and values, or nothing is known of what it keeps.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        if not constant_state(config):
            raise ValueError(
                f"{config.model_type}: its cache grows with the text, or is unknown; carry_state is for models with a "
                "state of constant size"
            )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: what a state has seen is not counted, and positions mean nothing to such models."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """The call's own tokens, from 0: there are no keys of earlier ones."""
        return query_length, 0


class CarriedStates(CarriedState, ConstantStates):
    """The same for training, which hands them from segment to segment: nothing is overwritten."""

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """A copy: the state itself is overwritten in the same forward pass."""
        state = super().get_conv_state(layer_idx, state_idx)
        return None if state is None else state.clone()

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """A copy: the state itself is overwritten in the same forward pass."""
        state = super().get_recurrent_state(layer_idx, state_idx)
        return None if state is None else state.clone()

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        for layer in self.layers:
            assert isinstance(layer, LinearAttentionCacheLayerMixin)  # checked at construction
            for states in (layer.conv_states, layer.recurrent_states):
                for place, state in states.items():
                    states[place] = None if state is None else function(state)
        return self


def constant_state(config: PreTrainedConfig) -> bool:
    """Whether every layer of a model of `transformers` keeps a state of constant size, and nothing else."""
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(
        isinstance(layer, LinearAttentionCacheLayerMixin) and not isinstance(layer, CacheLayerMixin) for layer in layers
    )


def first_state(model: Any) -> CarriedStates | None:
    """What a model is given as the state before the first segment; None for a model that makes its own."""
    return CarriedStates(model.config) if constant_state(model.config) else None


@torch.no_grad()
def cache_problem(model: Any, words: Tensor, *, in_training: bool = False) -> str | None:
    """Why what a model keeps does not continue a text where several tokens follow; None if it does.

    Some caches of `transformers` serve token by token alone and are passed over otherwise; those of Mamba and its like
    hand on the inputs of the convolution, and start the state from zero.

    Args:
        model: a causal LM of `transformers`.
        words: some of its words, int64 [1, T], T at least 2.
        in_training: whether a training is to hand it on, which asks more of it.
    """
    half = words.shape[1] // 2
    precise = model if next(model.parameters()).dtype.itemsize > 2 else copy.deepcopy(model).float()
    base = precise.base_model

    def of_first_half() -> Any:
        first = first_state(precise)
        given = {} if first is None else {"cache": first}
        return getattr(base(input_ids=words[:, :half], use_cache=True, **given), "cache", None)

    def of_second_half(cache: Any) -> Tensor:
        return base(input_ids=words[:, half:], cache=cache, use_cache=True).last_hidden_state

    with evaluation_mode(precise):
        try:
            whole = base(input_ids=words, use_cache=False).last_hidden_state[:, half:]
            anew = base(input_ids=words[:, half:], use_cache=False).last_hidden_state
            cache = of_first_half()
            if cache is None:
                return "it returns no cache"
            if in_training:
                lacking = [name for name in ("detach", "to", "start_anew") if not hasattr(cache, name)]
                if lacking:
                    return f"its cache lacks {', '.join(lacking)}"
                cache = cache.detach()
                if cache is None:
                    return "its cache.detach() returns None, and not the cache"
            rest = of_second_half(cache)
            forgotten = anew
            if in_training:
                cache = of_first_half()
                cache.start_anew(torch.ones(1, dtype=torch.bool))
                forgotten = of_second_half(cache)
        except Exception as error:  # a model that somebody wrote may fail in any way
            return f"handing on a cache fails ({type(error).__name__}: {error})"

    def apart(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().amax()

    allowed = ROUNDING * whole.abs().amax() + OF_STARTING_ANEW * apart(anew, whole)
    if apart(rest, whole) > allowed:
        return "its cache does not continue a text with several tokens at once"
    if apart(forgotten, anew) > allowed:
        return "its cache.start_anew(rows) does not forget the rows of a bool mask in place"
    return None
