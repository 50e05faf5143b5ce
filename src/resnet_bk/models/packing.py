"""The documents of a packed row, by the names that collators give them.

Shape legend: B batch, T tokens of this call, P tokens already in the cache.

`DataCollatorWithFlattening` of transformers lays examples end to end and says where they start by `position_ids` that
start anew, or by `seq_idx`, the number of the example of every token, which is what `document_ids` is here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_documents(
    document_ids: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    *,
    shape: tuple[int, int],
    past_length: int = 0,
) -> Tensor | None:
    """The number of its document for every token, by whichever of the three is given.

    Args:
        document_ids: integers [B, T]; a document ends where the number changes.
        position_ids: integers [B, T], or [1, T] for all rows; a document starts where one is not its predecessor and 1.
            Their values mean nothing else. With `seq_idx` they are not read.
        seq_idx: another name of document_ids.
        shape: (B, T).
        past_length: P.

    Returns:
        Integers [B, T]; None where none is given, or where positions follow one another after a cache.

    Raises:
        ValueError: document_ids and another of them; positions of another shape, or that start anew after a cache.
    """
    given = {"position_ids": position_ids, "seq_idx": seq_idx}
    names = [name for name, value in given.items() if value is not None]
    if document_ids is not None and names:
        raise ValueError(
            f"{names[0]} and document_ids both say where documents end, but both were given; pass one of the two"
        )
    if seq_idx is not None or position_ids is None:
        return document_ids if seq_idx is None else seq_idx
    batch, length = shape
    if position_ids.ndim != 2 or position_ids.shape[0] not in (1, batch) or position_ids.shape[1] != length:
        raise ValueError(
            f"position_ids must have shape {shape}, one a token, but got {tuple(position_ids.shape)}; they say where "
            "packed documents start and nothing else, so they may be left out where there are none"
        )
    starts = document_starts(position_ids.expand(batch, -1))
    if not past_length:
        return starts.cumsum(dim=1)
    if bool(starts.any()) or bool((position_ids[:, 0] == 0).any()):
        raise ValueError(
            f"position_ids start anew after the {past_length} tokens of past_key_values; pass document_ids, in the "
            "calls before as well"
        )
    return None


def document_starts(position_ids: Tensor) -> Tensor:
    """True where a position does not follow the one before, bool like `position_ids` [B, T]; never at the first."""
    return F.pad(position_ids[:, 1:] != position_ids[:, :-1] + 1, (1, 0))


def keeps_documents_apart(position_ids: Tensor, attention_mask: Tensor | None) -> bool:
    """Whether positions [B, T] start anew between two tokens, padding left out (`generate` makes positions for any
    prompt, and gives padding one and the same)."""
    starts = document_starts(position_ids)
    if attention_mask is not None and attention_mask.shape == position_ids.shape:
        real = attention_mask != 0
        starts = starts & real & F.pad(real, (1, 0))[:, :-1]
    return bool(torch.any(starts))
