"""The state of a ResNet-BK model between calls, of constant size.

Shape legend: B batch (beams included).
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from transformers import Cache

from resnet_bk.layers.mixer import MixerState
from resnet_bk.layers.multi_scale import ScaleState
from resnet_bk.layers.pointer_state import PointerState
from resnet_bk.ops.checks import has_values


class CarriedState:
    """States that a training hands from segment to segment; `_apply` of the class says which they are."""

    @property
    def batch_size(self) -> int:
        """B, or -1 where it is not known."""
        return -1

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Replaces every tensor by `function` of it. Returns the cache itself."""
        raise NotImplementedError

    def detach(self) -> Self:
        """Cuts the graph: later losses send no gradient into earlier calls. Returns the cache itself."""
        return self._apply(torch.Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        """Moves every state to a device. Returns the cache itself."""
        return self._apply(lambda tensor: tensor.to(device))

    def start_anew(self, rows: Tensor) -> Self:
        """Forgets everything in `rows`, bool [B]. Returns the cache itself.

        In place: no graph may need what is forgotten, so after `backward` and `detach`.

        Raises:
            ValueError: something else than a mask of the rows.
        """
        check_rows(rows, self.batch_size)
        self.leave_inference_mode()
        return self._apply(lambda tensor: tensor.index_fill_(0, rows.nonzero().flatten().to(tensor.device), 0))

    def leave_inference_mode(self) -> None:
        """Copies states that were made under `torch.inference_mode`, and may neither be saved for a gradient nor
        written to outside of it."""
        if not torch.is_inference_mode_enabled():
            self._apply(lambda tensor: tensor.clone() if tensor.is_inference() else tensor)


class ResNetBKCacheLayer:
    """State of one block: tail of the short convolution, surface Green's function and propagator state."""

    supports_early_init = False

    def __init__(self) -> None:
        self.state: MixerState | None = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replaces every tensor of the state by `function` of it."""
        if self.state is not None:
            tail, (green, carried) = self.state
            self.state = MixerState(None if tail is None else function(tail), (function(green), function(carried)))

    def tensors(self) -> list[Tensor]:
        """The tensors of the state."""
        if self.state is None:
            return []
        return [*([] if self.state.convolution is None else [self.state.convolution]), *self.state.chain]

    def reset(self) -> None:
        self.state = None


class ResNetBKCache(CarriedState, Cache):
    """What `past_key_values` is for ResNet-BK: constant in size, whatever the number of tokens it has seen.

    A call of the model with a cache reads its states and replaces them by the states after the new tokens.

    Args:
        config: a `ResNetBKConfig`; only its number of blocks is read.

    Raises:
        ValueError: `config` has no number of blocks, as a model has none.

    Attributes:
        layers: a `ResNetBKCacheLayer` a block.
        scales: state of each shortening of a multi-scale model; empty for others, and before the first token.
        pointer: state of the pointer; None for a model without, and before the first token. Its words are
            overwritten by the next call.
        pointer_tokens: tokens that the pointer has seen.
        last_document: document of the last token, integers [B], where the tokens came with document_ids; else None.
    """

    layers: list[ResNetBKCacheLayer]  # type: ignore[assignment]

    def __init__(self, config: Any) -> None:
        blocks = getattr(config, "num_hidden_layers", None)
        if not isinstance(blocks, int):
            raise ValueError(
                f"config: must be a configuration with num_hidden_layers, but is a {type(config).__name__}; give that "
                "of the model, model.config"
            )
        super().__init__(layers=[ResNetBKCacheLayer() for _ in range(blocks)])  # type: ignore[misc]
        self.scales: list[ScaleState] = []
        self.pointer: PointerState | None = None
        self.pointer_tokens = 0
        self.last_document: Tensor | None = None
        self._seen_tokens = 0

    def __repr__(self) -> str:
        return f"ResNetBKCache(layers={len(self.layers)}, tokens={self._seen_tokens}, bytes={self.nbytes})"

    def states(self) -> list[MixerState | None]:
        """The state of each block, None before the first token."""
        return [layer.state for layer in self.layers]

    def update_states(
        self,
        states: list[MixerState],
        new_tokens: int,
        last_document: Tensor | None = None,
        scales: list[ScaleState] | None = None,
    ) -> None:
        """Takes the states after `new_tokens` more tokens; `last_document` None leaves the document as it is."""
        for layer, state in zip(self.layers, states, strict=True):
            layer.state = state
        self.scales = [] if scales is None else scales
        self._seen_tokens += new_tokens
        if last_document is not None:
            self.last_document = last_document

    def update_pointer(self, state: PointerState) -> None:
        """Takes the state of the pointer after all tokens seen."""
        self.pointer, self.pointer_tokens = state, self._seen_tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens seen, padding included."""
        return self._seen_tokens

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    @property
    def batch_size(self) -> int:
        """B, or -1 before the first token."""
        tensors = self.layers[0].tensors()
        return tensors[0].shape[0] if tensors else -1

    @property
    def nbytes(self) -> int:
        """Memory of all states, in bytes."""
        tensors = [tensor for layer in self.layers for tensor in layer.tensors()]
        tensors += [part for scale in self.scales for part in scale]
        return sum(tensor.nbytes for tensor in [*tensors, *(self.pointer or ())])

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return False

    @property
    def is_linear(self) -> list[bool]:
        # True would make generate() take every prompt for new tokens; the cache knows its length, so that a prompt may
        # repeat the tokens seen, as with any other cache.
        return [False] * len(self.layers)

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self._seen_tokens, self.last_document, self.scales = 0, None, []
        self.pointer, self.pointer_tokens = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Takes the rows `beam_idx`, int64 [B'], for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`, int64 [B'], in that order; repeats are allowed.

        Raises:
            ValueError: something else than numbers of rows, such as a mask.
        """
        check_row_numbers(indices, self.batch_size)
        self._apply(lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row `repeats` times, side by side.

        Raises:
            ValueError: repeats is no whole number of at least 1.
        """
        if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
            raise ValueError(
                f"repeats={repeats!r} must be a whole number of at least 1; to drop rows, use batch_select_indices"
            )
        self._apply(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, tokens_to_remove: int) -> None:
        """Not possible: the state of a recurrence does not say how to undo it.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"tokens_to_remove={tokens_to_remove}: a ResNetBKCache cannot forget single tokens, for its size does not "
            "grow with them; keep a copy.deepcopy(cache.detach()) of the point to go back to"
        )

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        for layer in self.layers:
            layer.apply(function)
        self.scales = [ScaleState(*map(function, scale)) for scale in self.scales]
        self.pointer = None if self.pointer is None else PointerState(*map(function, self.pointer))
        if self.last_document is not None:
            self.last_document = function(self.last_document)
        return self


def check_rows(rows: Tensor, batch: int) -> None:
    """A mask of the rows of a batch; -1 for one of unknown size.

    Raises:
        ValueError: something else, such as indices.
    """
    mask = isinstance(rows, Tensor) and rows.dtype == torch.bool and rows.ndim == 1
    if not mask or batch not in (-1, len(rows)):
        wanted = "[batch]" if batch == -1 else f"[{batch}]"
        got = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"rows must be bool {wanted}, true for a row, but got {got}; make a mask of indices with "
            "mask[indices] = True"
        )


def check_row_numbers(indices: Tensor, batch: int) -> None:
    """Numbers of rows of a batch; -1 for one of unknown size.

    Raises:
        ValueError: something else, such as a mask.
    """
    numbers = isinstance(indices, Tensor) and indices.dtype in (torch.int64, torch.int32) and indices.ndim == 1
    looked = numbers and batch != -1 and has_values(indices)
    if not numbers or (looked and bool(((indices < 0) | (indices >= batch)).any())):
        within = "" if batch == -1 else f", from 0 to {batch - 1}"
        if numbers:
            got = str(indices.tolist())
        else:
            got = f"{indices.dtype} {tuple(indices.shape)}" if isinstance(indices, Tensor) else type(indices).__name__
        raise ValueError(
            f"indices must be int64 [rows]{within}, the rows to keep, but got {got}; of a mask take "
            "mask.nonzero().flatten()"
        )
