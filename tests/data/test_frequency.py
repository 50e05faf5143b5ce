import numpy as np
import pytest
import torch

from resnet_bk.data import frequency, frequency_buckets


def test_words_are_put_in_buckets_by_their_training_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency, "CHUNK", 1000)
    counts = {0: 50, 1: 9, 2: 10, 3: 99, 4: 100, 5: 999, 6: 1000, 7: 9_999, 8: 10_000, 9: 0}
    tokens = np.repeat(np.array(list(counts), dtype=np.uint16), list(counts.values()))
    buckets, names = frequency_buckets(np.random.default_rng(0).permutation(tokens), 10, unk_id=0)
    assert names == ["<unk>", "0-9", "10-99", "100-999", "1,000-9,999", "10,000+"]
    assert buckets.dtype == torch.int64
    assert buckets.tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 1]


def test_without_unk_there_is_no_bucket_for_it() -> None:
    buckets, names = frequency_buckets(np.array([1] * 10 + [2]), 3, unk_id=None)
    assert names[0] == "0-9"
    assert buckets.tolist() == [0, 1, 0]


def test_tokens_outside_the_vocabulary_are_errors() -> None:
    with pytest.raises(ValueError, match="vocab_size=5: must be above every token, and train_tokens holds 7; give"):
        frequency_buckets(np.array([1, 7]), 5, unk_id=0)
    with pytest.raises(ValueError, match=r"unk_id=5: must be at least 0 and below vocab_size=5; give .* or None"):
        frequency_buckets(np.array([1]), 5, unk_id=5)


@pytest.mark.parametrize(
    ("tokens", "size", "unknown", "told"),
    [
        (np.array([-1, 2]), 10, 0, "train_tokens holds -1: must be ids of the vocabulary"),
        (np.array([0.5]), 10, 0, r"tokens must be integers \[N\], but got float64"),
        (np.array([1]), -1, 0, "vocab_size=-1: must be a whole number of at least 1"),
        (np.array([1]), 10.0, 0, "vocab_size=10.0: must be a whole number of at least 1"),
        (np.array([1]), 10, 1.5, "unk_id=1.5: must be a whole number, or None"),
    ],
)
def test_arguments_of_another_type_are_errors(tokens, size, unknown, told) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        frequency_buckets(tokens, size, unknown)
