"""The recall task: what an example looks like."""

import pytest
import torch

from resnet_bk.bench.recall.task import NOT_ASKED, Recall, draw

VOCABULARY = 200


def examples(length=64, pairs=8, count=50, seed=0):
    return draw(Recall(length, pairs, count), count, VOCABULARY, torch.Generator().manual_seed(seed))


def test_every_question_is_a_key_and_its_answer_the_value():
    inputs, targets = examples()
    assert inputs.shape == targets.shape == (50, 64)
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        table = dict(zip(row[:16:2], row[1:16:2], strict=True))
        assert len(table) == 8 == len(set(table.values()))
        assert all(1 <= key < VOCABULARY // 2 <= value < VOCABULARY for key, value in table.items())
        asked = [place for place, answer in enumerate(answers) if answer != NOT_ASKED]
        assert min(asked) >= 16
        assert sorted(row[place] for place in asked) == sorted(table)
        assert all(answers[place] == table[row[place]] for place in asked)


def test_questions_come_early():
    """The n-th free place is asked at with weight n^-0.99."""
    _, targets = draw(Recall(82, 1, 1), 20_000, VOCABULARY, torch.Generator().manual_seed(0))
    share = (targets[:, 2] != NOT_ASKED).double().mean().item()  # of one pair and 40 places, the first
    assert abs(share - 1 / sum(n**-0.99 for n in range(1, 41))) < 0.01
    assert (targets != NOT_ASKED).nonzero()[:, 1].max() > 60


def test_the_same_seed_gives_the_same_examples():
    first, again, other = examples(), examples(), examples(seed=1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(("length", "pairs"), [(30, 8), (65, 8)])
def test_examples_that_do_not_fit(length, pairs):
    with pytest.raises(ValueError, match=f"length={length} must be even and hold {pairs} pairs.*at least 32"):
        Recall(length, pairs, 1)


def test_too_few_words():
    with pytest.raises(ValueError, match=r"vocabulary=16 has 7 keys.*8 different.*raise vocab_size to 18"):
        draw(Recall(64, 8, 1), 1, 16, torch.Generator())
