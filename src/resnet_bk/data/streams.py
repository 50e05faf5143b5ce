"""Batches of contiguous tokens. Shapes: B batch_size, T sequence_length, N tokens."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

DIGESTED = 2**16  # tokens at each end by which a text is told from another
IGNORED = -100  # target that counts nowhere, as in torch.nn.functional.cross_entropy


class TokenStream:
    """Endless training batches of a stretch of tokens, the same in every epoch.

    The N tokens are laid out in B rows of equal length, row b a contiguous stretch. Batch i holds positions iT to
    iT + T - 1 of every row and so continues batch i - 1 row by row: state may be carried from batch to batch until
    `starts_epoch`. An epoch has `steps_per_epoch = ((N - 1) // B) // T` batches; fewer than B (T + 1) tokens at the
    ends of rows are left out.

    tokens: [N] integers, a memory map or an array; never copied as a whole.

    Raises ValueError for tokens of another shape or type, and where N is too small for one batch.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, sequence_length: int) -> None:
        _check_shape(batch_size, sequence_length)
        tokens = as_tokens(tokens)
        row = max(len(tokens) - 1, 0) // batch_size
        if row < sequence_length:
            raise ValueError(
                f"data has {len(tokens):,} tokens, too few for one batch of batch_size x sequence_length = "
                f"{batch_size} x {sequence_length}, which takes {batch_size * sequence_length + 1:,}; "
                f"give more text or a larger data_limit, or lower batch_size or sequence_length"
            )
        self.tokens = tokens
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.steps_per_epoch = row // sequence_length
        self._row_starts = row * np.arange(batch_size)
        self._batches = 0
        # Texts cut to one length differ at an end, and a text may be larger than memory.
        ends = (np.asarray(part, dtype=np.int64) for part in (tokens[:DIGESTED], tokens[-DIGESTED:]))
        self._digest = hashlib.sha256(b"".join(part.tobytes() for part in ends)).hexdigest()[:16]

    @property
    def starts_epoch(self) -> bool:
        """Whether the batch returned last is the first of its epoch, so that state from before it must be dropped."""
        return self._batches > 0 and (self._batches - 1) % self.steps_per_epoch == 0

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next input_ids and targets, int64 [B, T] each; targets are input_ids one position on."""
        place = self._batches % self.steps_per_epoch * self.sequence_length
        self._batches += 1
        window = _windows(self.tokens, self._row_starts + place, self.sequence_length + 1)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        """Place in the stream, and the shape and text that it belongs to."""
        return {**self._shape(), "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError where the stream had another shape or text, or the
        state does not say where."""
        here = self._shape()
        there = {key: state.get(key) for key in here} | {"text": state.get("text", here["text"])}
        if there != here:
            raise ValueError(f"the saved token stream is of shape {there}, this one of {here}; start a new run")
        batches = state.get("batches")
        if not isinstance(batches, int) or batches < 0:
            raise ValueError(
                f"the saved token stream has batches={batches!r}, and not how many it gave; start a new run"
            )
        self._batches = batches

    def _shape(self) -> dict[str, Any]:
        return {
            "tokens": len(self.tokens),
            "batch_size": self.batch_size,
            "sequence_length": self.sequence_length,
            "text": self._digest,
        }


def held_out_batches(
    tokens: np.ndarray, batch_size: int, sequence_length: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches that predict every token but the first exactly once: input_ids and targets, int64 [B, T] each.

    The N - 1 predictions are laid out in B contiguous rows of (nearly) equal length, and batch i continues batch i - 1
    row by row, so state may be carried through the whole pass. Positions beyond the end of a row have target -100
    and input 0.

    Raises ValueError, at the call, for tokens of another shape or type, and where there are fewer than two.
    """
    _check_shape(batch_size, sequence_length)
    tokens = as_tokens(tokens)
    _check_enough(tokens)
    return _held_out(tokens, batch_size, sequence_length)


def _held_out(tokens: np.ndarray, batch_size: int, sequence_length: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    predictions = len(tokens) - 1
    row = -(-predictions // batch_size)
    starts = np.minimum(row * np.arange(batch_size), predictions)
    stops = np.minimum(starts + row, predictions)
    for place in range(0, row, sequence_length):
        inputs = torch.zeros(batch_size, sequence_length, dtype=torch.long)
        targets = torch.full_like(inputs, IGNORED)
        for b, start in enumerate(starts + place):
            length = min(int(stops[b] - start), sequence_length)
            if length > 0:
                window = _windows(tokens, np.array([start]), length + 1)[0]
                inputs[b, :length], targets[b, :length] = window[:-1], window[1:]
        yield inputs, targets


def overlapping_batches(
    tokens: np.ndarray, batch_size: int, sequence_length: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches that predict every token but the first exactly once, with half a segment before it or more: input_ids and
    targets, int64 [B, T] each; the last batch may have fewer rows.

    Windows of T tokens overlap by half. A window's targets are those that the one before has not had: T // 2 of them,
    of the first window all. Windows do not continue each other, so no state may be carried.

    Raises ValueError, at the call, for tokens of another shape or type, where there are fewer than two, or windows too
    short to be halved.
    """
    _check_shape(batch_size, sequence_length)
    if sequence_length < 2:
        raise ValueError(f"sequence_length {sequence_length} cannot be halved; 2 is the least for overlapping windows")
    tokens = as_tokens(tokens)
    _check_enough(tokens)
    return _overlapping(tokens, batch_size, sequence_length)


def _overlapping(tokens: np.ndarray, batch_size: int, length: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    predictions, step = len(tokens) - 1, length // 2
    starts = [0, *range(step, predictions - length + step, step)]
    for first in range(0, len(starts), batch_size):
        part = starts[first : first + batch_size]
        inputs = torch.zeros(len(part), length, dtype=torch.long)
        targets = torch.full_like(inputs, IGNORED)
        for b, start in enumerate(part):
            window = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))
            new = 0 if start == 0 else length - step
            inputs[b, : len(window) - 1], targets[b, new : len(window) - 1] = window[:-1], window[1 + new :]
        yield inputs, targets


def _windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
    """tokens[start : start + length] for each start: int64 [len(starts), length]."""
    return torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]).astype(np.int64))


def as_tokens(tokens: Any) -> np.ndarray:
    """Tokens [N] as an array, without a copy of one; a list or a tensor of the CPU may be given too.

    Raises ValueError for other shapes and types.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"tokens must be integers [N], but got {array.dtype} {array.shape}; give the ids of a text, one behind the "
            "other"
        )
    return array


def _check_enough(tokens: np.ndarray) -> None:
    if len(tokens) < 2:
        raise ValueError(f"data has {len(tokens)} held-out tokens; 2 are the least to predict one, give more text")


def _check_shape(batch_size: int, sequence_length: int) -> None:
    for name, value in (("batch_size", batch_size), ("sequence_length", sequence_length)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} {value!r} must be a positive integer")
