"""Words in buckets by how often training saw them, for perplexity by frequency."""

from numbers import Integral

import numpy as np
import torch

from resnet_bk.data.streams import as_tokens
from resnet_bk.figures import UNKNOWN_BUCKET

# Bucket i holds counts from EDGES[i - 1] (0 for the first) to EDGES[i] - 1; the last has no upper end.
EDGES = (10, 100, 1_000, 10_000)
CHUNK = 1 << 22


def frequency_buckets(train_tokens: np.ndarray, vocab_size: int, unk_id: int | None) -> tuple[torch.Tensor, list[str]]:
    """Bucket of every token id by its count in train_tokens, and the buckets' names.

    train_tokens: [N] integers below vocab_size, read in chunks.
    unk_id: id of `<unk>`, which has a bucket of its own, the first; None where the tokenizer has none.

    Returns bucket_of_token, int64 [vocab_size] on the CPU, and names; bucket_of_token indexes names.

    Raises ValueError for tokens of another shape or type, a vocab_size that is no whole number of at least 1, and a
    token or unk_id outside the vocabulary.
    """
    train_tokens = as_tokens(train_tokens)
    if not isinstance(vocab_size, Integral) or vocab_size < 1:
        raise ValueError(f"vocab_size={vocab_size!r}: must be a whole number of at least 1; give len(tokenizer)")
    if not isinstance(unk_id, Integral | None):
        raise ValueError(f"unk_id={unk_id!r}: must be a whole number, or None where the tokenizer has none")
    if len(train_tokens) and (least := int(train_tokens.min())) < 0:
        raise ValueError(f"train_tokens holds {least}: must be ids of the vocabulary, 0 or more; give a text's tokens")
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(train_tokens), CHUNK):
        found = np.bincount(train_tokens[start : start + CHUNK], minlength=vocab_size)
        if len(found) > vocab_size:
            raise ValueError(
                f"vocab_size={vocab_size}: must be above every token, and train_tokens holds {len(found) - 1}; give "
                "the size of the tokenizer that made them"
            )
        counts += found
    lows = (0, *EDGES)
    names = [f"{low:,}-{high - 1:,}" for low, high in zip(lows, EDGES, strict=False)] + [f"{EDGES[-1]:,}+"]
    buckets = np.digitize(counts, EDGES)
    if unk_id is not None:
        if not 0 <= unk_id < vocab_size:
            raise ValueError(
                f"unk_id={unk_id}: must be at least 0 and below vocab_size={vocab_size}; give the tokenizer's "
                "unk_token_id, or None where it has none"
            )
        buckets += 1
        buckets[unk_id] = 0
        names = [UNKNOWN_BUCKET, *names]
    return torch.from_numpy(buckets.astype(np.int64)), names
