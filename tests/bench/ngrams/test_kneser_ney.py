"""The n-gram models against their definition, evaluated with dictionaries."""

import math
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

from resnet_bk.bench.ngrams.kneser_ney import FALLBACK_DISCOUNTS, estimate_discounts, kneser_ney

MARK = "mark"
ORDERS = (1, 2, 3, 4, 5)


class Definition:
    """Interpolated modified Kneser-Ney, word for word from the formulas, for one order."""

    def __init__(self, train, vocab_size, order):
        text = [MARK] * order + list(train)
        ends = range(order, len(text))
        occurrences = {k: Counter(tuple(text[t - k + 1 : t + 1]) for t in ends) for k in range(1, order + 1)}
        self.vocab_size, self.order = vocab_size, order
        self.counts = {order: occurrences[order]}
        for k in range(1, order):
            before = defaultdict(set)
            for gram in occurrences[k + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[k] = {gram: len(words) for gram, words in before.items()}
        self.discounts = {k: self.estimate(self.counts[k].values()) for k in self.counts}

    @staticmethod
    def estimate(counts):
        n = Counter(counts)
        if not (n[1] and n[2] and n[3]):
            return FALLBACK_DISCOUNTS
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3))
        return found if min(found) > 0 else FALLBACK_DISCOUNTS

    def probability(self, context, word, k):
        if k == 0:
            return 1 / self.vocab_size
        history = tuple(context[len(context) - k + 1 :])
        lower = self.probability(context, word, k - 1)
        followers = {g[-1]: c for g, c in self.counts[k].items() if g[:-1] == history}
        total = sum(followers.values())
        if total == 0:
            return lower
        discount = self.discounts[k]
        given = sum(discount[min(c, 3) - 1] for c in followers.values())
        count = followers.get(word, 0)
        kept = count - discount[min(count, 3) - 1] if count else 0.0
        return (kept + given * lower) / total

    def log_probabilities(self, held_out):
        text = [MARK] * self.order + list(held_out)
        places = range(self.order + 1, len(text))
        return [math.log(self.probability(text[:t], text[t], self.order)) for t in places]


def texts(seed, vocab_size, train, held_out):
    """Words of unequal frequency, each likelier after some than after others; not every word of the vocabulary."""
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab_size - 1) ** 1.2
    tokens = draw.choice(vocab_size - 2, train + held_out, p=weights / weights.sum())
    second = tokens[1::3]
    second[:] = (3 * tokens[0::3][: len(second)] + second % 3) % (vocab_size - 2)
    return tokens[:train], tokens[train:]


def scores(train, held_out, vocab_size, orders=ORDERS):
    return {score.order: score for score in kneser_ney(np.array(train), np.array(held_out), vocab_size, orders)}


@pytest.mark.parametrize(("seed", "vocab_size", "train"), [(0, 12, 300), (1, 40, 400), (2, 5, 60), (3, 30, 20)])
def test_every_order_is_the_definition(seed, vocab_size, train):
    train, held_out = texts(seed, vocab_size, train, 40)
    found = scores(train, held_out, vocab_size)
    assert list(found) == list(ORDERS)
    for order, score in found.items():
        exact = Definition(train.tolist(), vocab_size, order)
        assert score.discounts == pytest.approx(exact.discounts[order])
        assert score.ngrams == len(exact.counts[order])
        # Both sum a few dozen terms in float64.
        np.testing.assert_allclose(score.log_probabilities, exact.log_probabilities(held_out.tolist()), rtol=1e-12)
    assert len({score.log_probabilities.sum() for score in found.values()}) == len(ORDERS)


@pytest.mark.parametrize("history", ["seen", "end of the text", "begin of the text", "unseen"])
def test_probabilities_sum_to_one(history):
    vocab_size = 9
    train, _ = texts(4, vocab_size, 200, 2)
    context = {
        "seen": train[50:54],
        "end of the text": train[-4:],
        "begin of the text": train[:1],
        "unseen": np.array([vocab_size - 1, vocab_size - 1]),
    }[history].tolist()
    total = dict.fromkeys(ORDERS, 0.0)
    for word in range(vocab_size):
        for order, score in scores(train, [*context, word], vocab_size).items():
            total[order] += math.exp(score.log_probabilities[-1])
    assert total == pytest.approx(dict.fromkeys(ORDERS, 1.0), rel=1e-12)


def test_words_that_never_occur_have_a_probability():
    found = scores([0, 1, 2, 0, 1, 2], [5, 6, 7], 8)
    assert all(np.isfinite(score.log_probabilities).all() for score in found.values())


def test_only_the_orders_asked_for_and_the_same_figures():
    train, held_out = texts(5, 12, 300, 30)
    all_orders, some = scores(train, held_out, 12), scores(train, held_out, 12, orders=[4, 2, 4])
    assert list(some) == [2, 4]
    for order, score in some.items():
        assert np.array_equal(score.log_probabilities, all_orders[order].log_probabilities)


def test_token_ids_of_two_bytes_do_not_overflow():
    """The token cache holds uint16; the same ids as int64 give the same."""
    train, held_out = texts(6, 12, 300, 30)
    train, held_out = train + 60_000, held_out + 60_000
    wide = scores(train, held_out, 65_536)
    narrow = scores(train.astype(np.uint16), held_out.astype(np.uint16), 65_536)
    for order in ORDERS:
        assert np.array_equal(wide[order].log_probabilities, narrow[order].log_probabilities)


def test_a_longer_context_helps_where_it_decides():
    """Which of two words comes is decided by the word four places before: only the 5-gram can know."""
    draw = np.random.default_rng(7)
    period = [[a, 2, 3, 4, a + 5] for a in draw.integers(2, size=2000)]
    text = np.array(period).ravel()
    found = scores(text[:8000], text[8000:], 8)
    perplexity = {order: math.exp(-score.log_probabilities.mean()) for order, score in found.items()}
    # A period holds one word that is free (a) and one that the 5-gram alone knows.
    assert perplexity[5] == pytest.approx(2 ** (1 / 5), rel=0.02)
    assert perplexity[4] == pytest.approx(2 ** (2 / 5), rel=0.02)


def test_discounts_are_estimated_where_counts_allow():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 7])
    y = 40 / 80
    expected = (1 - 2 * y * 20 / 40, 2 - 3 * y * 10 / 20, 3 - 4 * y * 5 / 10)
    assert estimate_discounts(counts) == (pytest.approx(expected), True)
    for hopeless in (np.array([5, 6]), np.array([1, 2, 2, 4]), np.repeat([1, 2, 3], [1, 1, 10])):
        assert estimate_discounts(hopeless) == (FALLBACK_DISCOUNTS, False)


def test_estimates_and_stand_ins_are_told_apart():
    train, held_out = texts(0, 12, 3000, 40)
    found = scores(train, held_out, 12)
    assert not found[1].discounts_estimated  # ten words, each of them frequent
    assert not found[5].discounts_estimated  # its own are estimates, those of its lower orders are not
    assert found[5].discounts != FALLBACK_DISCOUNTS


@pytest.mark.parametrize(
    ("train", "held_out", "orders", "message"),
    [
        ([0], [0, 1], [], r"orders \[\] must be integers of at least 1"),
        ([0], [0, 1], [0, 2], r"orders \[0, 2\] must be"),
        ([], [0, 1], [1], "0 training and 2 held-out tokens"),
        ([0], [0], [1], "1 training and 1 held-out tokens"),
        ([0, 4], [0, 1], [1], "training tokens run from 0 to 4, but vocab_size is 4"),
        ([0], [0, -1], [1], "held-out tokens run from -1 to 0"),
    ],
)
def test_bad_input(train, held_out, orders, message):
    with pytest.raises(ValueError, match=message):
        kneser_ney(np.array(train, int), np.array(held_out, int), 4, orders)


def test_definition_sums_to_one():
    """The reference itself."""
    exact = Definition([0, 1, 2, 0, 1, 0, 2, 2, 1, 0], 4, 3)
    for context in product(range(4), repeat=2):
        assert sum(exact.probability(context, word, 3) for word in range(4)) == pytest.approx(1.0)
