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
    """With weight 1 / n nearly, more than half of the questions lie in the first third of the places."""
    _, targets = examples(length=256, pairs=8, count=200)
    places = (targets != NOT_ASKED).nonzero()[:, 1] - 16
    assert (places < 80).double().mean() > 0.5
    assert places.max() > 160


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
