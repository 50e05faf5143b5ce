"""What the audit feeds a model: plain rows, rows padded on either side, and documents packed into a row.

Shape legend: P rows, in each of which one token is changed; T tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from resnet_bk.bench.audit.probe import Case

# Positions at the borders of chunks of 16, 64, 128 and 256 tokens; the middle and the last one are looked at too.
BORDERS = (1, 16, 63, 64, 128, 255, 256)


def check_sizes(vocab_size: int, lengths: Sequence[int]) -> None:
    """An audit changes one token after another one.

    Raises:
        ValueError: a length below 2 or a vocabulary of fewer than 2 words.
    """
    if vocab_size < 2 or not lengths or min(lengths) < 2:
        raise ValueError(
            f"vocab_size={vocab_size}, lengths={list(lengths)}: an audit changes one token after another one; "
            "it needs at least 2 words and lengths of at least 2"
        )


def plain_case(length: int, vocab_size: int, device: torch.device) -> Case:
    """Nothing but tokens: a changed token may not move the logits before it."""
    changed = _positions(length, first=1)
    return Case(_tokens(length, len(changed), vocab_size, device), changed, _before(changed, length, device))


def padded_case(side: str, length: int, vocab_size: int, device: torch.device) -> Case | None:
    """The same with an attention_mask, other numbers of padding tokens in every row; None where T is too short.

    On the right the changed token is itself padding in every second row. Logits of the padding have no meaning and are
    not watched.
    """
    changed = _positions(length, first=2 if side == "left" else 1)
    if not changed:
        return None
    mask = torch.ones(len(changed), length, dtype=torch.int64, device=device)
    for row, position in enumerate(changed):
        if side == "left":  # a token stands between padding and the changed one
            mask[row, : 1 + 5 * row % (position - 1)] = 0
        elif row % 2 or position == length - 1:  # the changed token is the first of the padding
            mask[row, position:] = 0
        else:
            mask[row, (position + length) // 2 :] = 0
    watched = _before(changed, length, device) & (mask == 1)
    assert bool(watched.any(1).all())
    return Case(_tokens(length, len(changed), vocab_size, device), changed, watched, {"attention_mask": mask})


def packed_case(argument: str, length: int, vocab_size: int, device: torch.device, apart: bool) -> Case | None:
    """Three documents in a row, told by `document_ids` or by `position_ids` that start anew; None where T is too short.

    Args:
        argument: "document_ids" or "position_ids".
        apart: watch all logits of the other documents too, not only those before the changed token.
    """
    if length < 3:
        return None
    ends = [length // 3, 2 * length // 3]
    # The last token of a document too, which its neighbour in the next one is nearest to.
    changed = sorted({*_positions(length, first=0 if apart else 1), *(end - 1 for end in ends if apart)})
    cuts = torch.tensor(ends, device=device)
    column = torch.arange(length, device=device)
    document = torch.bucketize(column, cuts, right=True)
    watched = _before(changed, length, device)
    if apart:
        watched = watched | (document != document[changed][:, None])
    starts = torch.cat([cuts.new_zeros(1), cuts])
    values = document if argument == "document_ids" else column - starts[document]
    tokens = _tokens(length, len(changed), vocab_size, device)
    return Case(tokens, changed, watched, {argument: values.expand(len(changed), -1).contiguous()})


def _positions(length: int, first: int) -> list[int]:
    """Positions to change, from `first` on."""
    return sorted({t for t in (first, *BORDERS, length // 2, length - 1) if first <= t < length})


def _tokens(length: int, rows: int, vocab_size: int, device: torch.device) -> Tensor:
    return torch.randint(vocab_size, (length,)).to(device).repeat(rows, 1)


def _before(changed: list[int], length: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device) < torch.tensor(changed, device=device)[:, None]
