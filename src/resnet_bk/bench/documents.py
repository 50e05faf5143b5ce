"""Losses summed document by document, for the bootstrap over documents.

Shape legend: N tokens of the split, M documents.
"""

import numpy as np
from torch import Tensor


def document_tokens(tokens: np.ndarray, eos_id: int) -> list[int]:
    """How many tokens are predicted in each document of a split: all but the first of the text.

    Args:
        tokens: [N], every document ended by `eos_id` (which is predicted with it); what follows the last one counts as
            a document too.
        eos_id: the end of a document.

    Returns:
        M numbers that sum to N - 1.
    """
    ends = np.flatnonzero(tokens[1:] == eos_id) + 1
    borders = np.unique(np.concatenate([[0], ends, [len(tokens) - 1]]))
    return [int(count) for count in np.diff(borders)]


def document_sums(losses: Tensor, counts: list[int]) -> list[float]:
    """Sum of the losses of each document, nats.

    Args:
        losses: [N - 1], in the order of the text.
        counts: from `document_tokens`.
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sums = np.add.reduceat(losses.double().numpy(), starts)
    # Four digits behind the point: a hundredth of the rounding of a perplexity, and a small file.
    return [round(float(value), 4) for value in sums]
