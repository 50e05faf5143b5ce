"""Interpolated modified Kneser-Ney n-gram models (Chen and Goodman 1999, "An empirical study of smoothing techniques
for language modeling", section 3), on token ids in sorted arrays.

A word w after the k - 1 words h (h' is h without its first word) has

    p_k(w | h) = (c(hw) - D(c(hw))) / c(h.) + gamma(h) p_{k-1}(w | h'),        c(h.) = sum over w of c(hw)
    gamma(h)   = (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3(h)) / c(h.),               p_0 = 1 / V

where N_j(h) is the number of words that follow h exactly j times (N_3: three times or more). What the discounts take is
what gamma gives away, so p_k sums to 1. At the highest order c counts occurrences; below it c(hw) is the number of
different words that stand before hw. A context that was never seen gives nothing: p_k = p_{k-1}.

Before its first word a text has a mark, as often as needed. No model predicts it; it only makes every word the end of
an n-gram of every order, so that every n-gram has something before it to count.

Written here because no library from PyPI does it at this size: the wheels of KenLM only query models (its estimator
needs Boost and a compiler), and NLTK takes 0.13 s a held-out token after 100,000 training tokens. This takes 5 s for a
model of 10M tokens and 229,071 held-out ones.

Shape legend: N training tokens, M held-out tokens, G different n-grams, C different contexts, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

# Where the counts give no estimate (KenLM's --discount_fallback has the same): a vocabulary that was cut off by count
# holds no words that occur once, and tiny texts no n-grams that occur three times.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class OrderScore:
    """The model of one order on the held-out text.

    ngrams: different n-grams of this order in the training text.
    discounts: D_1, D_2, D_3 of the highest order.
    discounts_estimated: False where they are `FALLBACK_DISCOUNTS`, at any order that takes part.
    log_probabilities: float64 [M - 1], nats, of every held-out token but the first.
    """

    order: int
    ngrams: int
    discounts: tuple[float, float, float]
    discounts_estimated: bool
    log_probabilities: np.ndarray = field(repr=False)


@dataclass
class _Grams:
    """Different n-grams of one order.

    keys: int64 [G], ascending: (index of the n-gram without its last word) * (V + 1) + last word.
    counts: int64 [G], occurrences; 0 for the n-gram of marks alone.
    train: int32 [N + 1], index of the n-gram that ends at each training token, the mark first.
    held_out: int64 [M + 1], the same of the held-out text, -1 where training has no such n-gram.
    contexts: C, n-grams of one order less, marks included.
    context: int64 [M + 1], which of them stands before each held-out token, -1 where training has none.
    """

    keys: np.ndarray
    counts: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    contexts: int
    context: np.ndarray


def kneser_ney(
    train_tokens: np.ndarray, held_out_tokens: np.ndarray, vocab_size: int, orders: Iterable[int]
) -> Iterator[OrderScore]:
    """Score a held-out text by the models of some orders, in one pass over the orders.

    Time is that of one sort of the training tokens an order; memory is about 80 bytes a training token.

    Args:
        train_tokens: integers [N], one stream, ends of documents included.
        held_out_tokens: integers [M]; the first one is only context.
        vocab_size: V; the words that share the probability.
        orders: of the models, for example (1, 2, 5); yielded in ascending order.

    Raises:
        ValueError: an order below 1 or none, no training token, fewer than two held-out tokens, a token outside the
            vocabulary.
    """
    wanted = _check(train_tokens, held_out_tokens, vocab_size, orders)
    return _score(train_tokens, held_out_tokens, vocab_size, wanted)


def _check(train: np.ndarray, held_out: np.ndarray, vocab_size: int, orders: Iterable[int]) -> list[int]:
    wanted = sorted(set(orders))
    if not wanted or wanted[0] < 1:
        raise ValueError(f"orders {wanted} must be integers of at least 1, for example 1,2,5")
    if len(train) < 1 or len(held_out) < 2:
        raise ValueError(
            f"{len(train)} training and {len(held_out)} held-out tokens: n-grams take at least 1 and 2; give more text"
        )
    for name, tokens in (("training", train), ("held-out", held_out)):
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"{name} tokens run from {low} to {high}, but vocab_size is {vocab_size}; use the tokenizer's own size"
            )
    return wanted


def _score(train: np.ndarray, held_out: np.ndarray, vocab_size: int, wanted: list[int]) -> Iterator[OrderScore]:
    texts = [np.concatenate([[vocab_size], tokens]).astype(np.int64) for tokens in (train, held_out)]
    one = np.zeros(1, np.int64)  # the n-gram of no word, which ends everywhere
    grams = _Grams(one, one, np.zeros(len(train) + 1, np.int32), np.zeros(len(held_out) + 1, np.int64), 1, one)
    lower = np.full(len(held_out) - 1, 1.0 / vocab_size)  # p_{k-1} of the held-out tokens
    lower_estimated = True
    for order in range(1, wanted[-1] + 1):
        shorter = grams
        grams, ends = _next_order(shorter, texts, vocab_size + 1)
        if order > 1:
            # One different word before an n-gram is one different n-gram of the next order.
            preceded = np.bincount(shorter.train[ends[grams.counts > 0]], minlength=len(shorter.keys))
            lower, _, estimated = _interpolate(shorter, preceded, lower, vocab_size + 1)
            lower_estimated &= estimated
        del shorter, ends
        if order in wanted:
            found, discounts, estimated = _interpolate(grams, grams.counts, lower, vocab_size + 1)
            used = int(np.count_nonzero(grams.counts))
            yield OrderScore(order, used, discounts, estimated and lower_estimated, np.log(found))


def _next_order(shorter: _Grams, texts: list[np.ndarray], base: int) -> tuple[_Grams, np.ndarray]:
    """The n-grams one word longer than `shorter`, and for each a place [G] in the training text where it ends."""
    keys = _before(shorter.train).astype(np.int64)
    keys *= base
    keys += texts[0]
    # As np.unique does it, in half its memory.
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(starts, append=len(keys))
    index = np.empty(len(keys), np.int32)
    index[order] = np.repeat(np.arange(len(starts), dtype=np.int32), counts)
    ends, keys = order[starts], keys[starts]
    counts[index[0]] = 0  # the marks
    context = _before(shorter.held_out)
    held_out = context * base + texts[1]
    place = np.minimum(np.searchsorted(keys, held_out), len(keys) - 1)
    # A context that is not known (-1) gives a negative key, which is none of the keys.
    known = np.where(keys[place] == held_out, place, -1)
    return _Grams(keys, counts, index, known, len(shorter.keys), context), ends


def _before(index: np.ndarray) -> np.ndarray:
    """What ends one token earlier; before the first mark there are marks."""
    return np.concatenate([index[:1], index[:-1]])


def _interpolate(
    grams: _Grams, counts: np.ndarray, lower: np.ndarray, base: int
) -> tuple[np.ndarray, tuple[float, float, float], bool]:
    """p_k of the held-out tokens [M - 1] from p_{k-1}, for counts c [G]; the discounts; whether those are estimates."""
    discounts, estimated = estimate_discounts(counts)
    of_count = np.array([0.0, *discounts])
    context_of_gram = grams.keys // base
    total = np.bincount(context_of_gram, counts, minlength=grams.contexts)
    given = np.bincount(context_of_gram, of_count[np.minimum(counts, 3)], minlength=grams.contexts)
    context, gram = grams.context[2:], grams.held_out[2:]  # neither the mark nor the first token
    count = np.where(gram >= 0, counts[gram], 0)
    seen = (context >= 0) & (total[context] > 0)
    kept = count - of_count[np.minimum(count, 3)]
    mixed = (kept + given[context] * lower) / np.where(seen, total[context], 1.0)
    return np.where(seen, mixed, lower), discounts, estimated


def estimate_discounts(counts: np.ndarray) -> tuple[tuple[float, float, float], bool]:
    """D_1, D_2, D_3 from how many n-grams occur once to four times, and whether the counts gave them.

    Y = n_1 / (n_1 + 2 n_2),  D_j = j - (j + 1) Y n_{j+1} / n_j: the leaving-one-out estimate.
    """
    n = [int(np.count_nonzero(counts == j)) for j in range(1, 5)]
    if min(n[:3]) > 0:
        y = n[0] / (n[0] + 2 * n[1])
        first, second, third = (j - (j + 1) * y * n[j] / n[j - 1] for j in (1, 2, 3))
        # 0 or less would leave nothing for words not seen.
        if first > 0 and second > 0 and third > 0:
            return (first, second, third), True
    return FALLBACK_DISCOUNTS, False
