"""The documents of a packed row, by the names that collators give them.

Shape legend: B batch, T tokens of this call, P tokens already in the cache.

`DataCollatorWithFlattening` of transformers lays examples end to end and says where they start by `position_ids` that
start anew, by `seq_idx`, the number of the example of every token, which is what `document_ids` is here, or by
`cu_seq_lens_q`, where in the row each begins and the last ends, which flash-attention kernels take.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_bk.ops.checks import has_values


def packed_documents(
    document_ids: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    *,
    shape: tuple[int, int],
    past_length: int = 0,
    attention_mask: Tensor | None = None,
) -> Tensor | None:
    """The number of its document for every token, by whichever of the four is given.

    Args:
        document_ids: integers [B, T]; a document ends where the number changes.
        position_ids: integers [B, T], or [1, T] for all rows; a document starts where one is not its predecessor and 1.
            Their values mean nothing else. With `seq_idx` they are not read.
        seq_idx: another name of document_ids.
        cu_seq_lens_q: integers [N + 1] for the N documents of one row, 0 first and T last. With `position_ids` or
            `seq_idx`, beside which collators give it, it is not read.
        shape: (B, T).
        past_length: P.
        attention_mask: [B, P + T], 0 for padding, whose positions mean nothing; None, or of other columns, for none.

    Returns:
        Integers [B, T], of positions 0, 1, ... in every row; None where none is given, or where positions only count.

    Raises:
        ValueError: document_ids and another of them; shapes or types that do not fit; positions that start anew, or
            borders, after a cache.
    """
    given = {"position_ids": position_ids, "seq_idx": seq_idx}
    names = [name for name, value in (given | {"cu_seq_lens_q": cu_seq_lens_q}).items() if value is not None]
    if document_ids is not None and names:
        raise ValueError(
            f"{names[0]} and document_ids both say where documents end, but both were given; pass one of the two"
        )
    for name, value in given.items():
        if value is not None:
            check_numbers(name, value, shape)
    if names == ["cu_seq_lens_q"]:
        assert cu_seq_lens_q is not None
        if past_length:
            raise ValueError(
                f"cu_seq_lens_q after the {past_length} tokens of the cache does not say whether the last "
                "document among them goes on; pass document_ids, in the calls before as well"
            )
        return _of_borders(cu_seq_lens_q, shape)
    if seq_idx is not None or position_ids is None:
        return document_ids if seq_idx is None else seq_idx
    columns = (shape[0], past_length + shape[1])
    mask = attention_mask if attention_mask is not None and tuple(attention_mask.shape) == columns else None
    starts = document_starts(position_ids, None if mask is None else mask[:, past_length:])
    if past_length:
        anew = position_ids[:, 0] == 0
        if mask is not None:  # not where the padding on the left ends
            anew = anew & (mask[:, past_length - 1 : past_length + 1] != 0).all(dim=1)
        if bool(starts.any()) or bool(anew.any()):
            raise ValueError(
                f"position_ids start anew after the {past_length} tokens of the cache; pass document_ids, in the "
                "calls before as well"
            )
        return None
    if has_values(starts) and not bool(starts.any()):
        return None
    return starts.cumsum(dim=1).expand(shape)


def _of_borders(borders: Tensor, shape: tuple[int, int]) -> Tensor:
    """Numbers of documents [1, T] by where they begin and the last ends.

    Raises:
        ValueError: several rows, or borders that do not rise from 0 to T.
    """
    whole = borders.ndim == 1 and len(borders) > 1 and borders.dtype in (torch.int32, torch.int64)
    looked = whole and has_values(borders)
    ends = not looked or (int(borders[0]), int(borders[-1])) == (0, shape[1])
    if not whole or shape[0] != 1 or not ends or (looked and bool((borders.diff() < 0).any())):
        got = borders.tolist() if looked else f"{borders.dtype} {tuple(borders.shape)}"
        raise ValueError(
            f"cu_seq_lens_q must rise from 0 to the tokens of one row, but got {got} for {shape[0]} rows of {shape[1]} "
            "tokens; it says where packed documents start, so leave it out where there are none, or pass document_ids"
        )
    places = torch.arange(shape[1], dtype=borders.dtype, device=borders.device)
    return torch.searchsorted(borders, places, right=True).unsqueeze(0)


def document_starts(position_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """True where a position does not follow the one before, bool like `position_ids` [B, T]; never at the first token,
    and with a mask never at padding or after it."""
    starts = F.pad(position_ids[:, 1:] != position_ids[:, :-1] + 1, (1, 0))
    if attention_mask is None:
        return starts
    real = attention_mask != 0
    return starts & real & F.pad(real, (1, 0))[:, :-1]


def prompt_shape(arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[int, int]:
    """(B, T) of the prompt of a call of `generate`; of that which it makes where there is none, (1, 1).

    Raises:
        ValueError: the prompt is no tensor of two dimensions or more, or has no token.
    """
    prompts = (options.get("inputs_embeds"), *arguments[:1], *map(options.get, ("inputs", "input_ids")))
    prompt = next((x for x in prompts if x is not None), None)
    if prompt is None:
        return 1, 1
    if not isinstance(prompt, Tensor) or prompt.ndim < 2 or not prompt.shape[1]:
        got = tuple(prompt.shape) if isinstance(prompt, Tensor) else type(prompt).__name__
        raise ValueError(
            f"the prompt must be a tensor [batch, tokens] with at least one token, but got {got}; a single sequence "
            "needs [None], an empty prompt a first token"
        )
    return prompt.shape[0], prompt.shape[1]


def check_numbers(name: str, value: Tensor, shape: tuple[int, int]) -> None:
    """Numbers of documents or positions for B rows of T tokens.

    Args:
        name: "document_ids", "position_ids" or "seq_idx".
        value: the numbers.
        shape: (B, T).

    Raises:
        ValueError: another shape or type.
    """
    shapes = (shape, (1, shape[1])) if name == "position_ids" else (shape,)
    if tuple(value.shape) not in shapes or value.is_floating_point() or value.is_complex():
        raise ValueError(
            f"{name} must be integers of shape {shape}, one a token, but got {value.dtype} {tuple(value.shape)}; they "
            "say where packed documents start and nothing else, so leave them out where there are none"
        )
