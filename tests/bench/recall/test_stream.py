"""Batches of the recall task."""

import pytest
import torch

from resnet_bk.bench.recall.stream import RecallStream
from resnet_bk.bench.recall.task import Recall

KINDS = [Recall(16, 2, 10), Recall(32, 4, 3)]


def stream(seed=0, batch_tokens=64):
    return RecallStream(KINDS, batch_tokens, 50, seed)


def test_an_epoch_holds_every_kind_as_often_as_asked():
    source = stream()
    assert source.steps_per_epoch == 3 + 2
    for _ in range(2):
        rows = {16: 0, 32: 0}
        for place in range(source.steps_per_epoch):
            inputs, _ = source.next_batch()
            rows[inputs.shape[1]] += inputs.shape[0]
            assert inputs.numel() <= 64
            assert source.starts_epoch == (place == 0)
        assert rows == {16: 10, 32: 3}


def test_resumed_and_reseeded():
    whole, first = stream(), stream()
    seen = [whole.next_batch() for _ in range(9)]
    for _ in range(4):
        first.next_batch()
    again = stream()
    again.load_state_dict(first.state_dict())
    for inputs, targets in seen[4:]:
        got = again.next_batch()
        assert torch.equal(got[0], inputs)
        assert torch.equal(got[1], targets)
    other = [stream(seed=1).next_batch()[0] for _ in range(1)]
    assert other[0].shape != seen[0][0].shape or not torch.equal(other[0], seen[0][0])


def test_epochs_differ():
    source = stream()
    epochs = [[source.next_batch()[0] for _ in range(5)] for _ in range(2)]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a in epochs[0] for b in epochs[1])


def test_another_stream_is_refused():
    with pytest.raises(ValueError, match=r"the saved stream is .*start a new run"):
        stream(seed=1).load_state_dict(stream().state_dict())


def test_a_batch_too_small():
    with pytest.raises(ValueError, match="batch_tokens=16: an example of length 32 does not fit; raise it to 32"):
        stream(batch_tokens=16)
