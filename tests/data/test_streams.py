from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_bk.data import TokenStream, held_out_batches, overlapping_batches


def held_out(tokens: Any) -> list[Any]:
    return list(held_out_batches(tokens, 2, 4))


def overlapping(tokens: Any) -> list[Any]:
    return list(overlapping_batches(tokens, 2, 4))


def tokens(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)


@given(batch=st.integers(1, 5), length=st.integers(1, 7), extra=st.integers(0, 60))
@settings(deadline=None)
def test_an_epoch_covers_each_row_without_gaps(batch: int, length: int, extra: int) -> None:
    data = tokens(batch * length + 1 + extra)
    stream = TokenStream(data, batch, length)
    row = (len(data) - 1) // batch
    batches = [stream.next_batch() for _ in range(stream.steps_per_epoch)]
    inputs = torch.cat([inputs for inputs, _ in batches], dim=1)
    targets = torch.cat([targets for _, targets in batches], dim=1)
    assert inputs.dtype == targets.dtype == torch.int64
    assert all(part.shape == (batch, length) and part.is_contiguous() for pair in batches for part in pair)
    for b in range(batch):
        expected = torch.arange(b * row, b * row + stream.steps_per_epoch * length)
        assert torch.equal(inputs[b], expected)
        assert torch.equal(targets[b], expected + 1)
    assert row - inputs.shape[1] < length  # what is left out


def test_steps_of_the_published_protocols() -> None:
    data = np.broadcast_to(np.uint16(0), 10_000_000)
    assert 2 * TokenStream(data, 16, 128).steps_per_epoch == 9_764


def test_epochs_wrap_and_say_where_they_start() -> None:
    stream = TokenStream(tokens(3 * 4 * 5 + 1), 3, 4)
    assert stream.steps_per_epoch == 5
    assert not stream.starts_epoch
    seen = []
    for _ in range(12):
        inputs, _ = stream.next_batch()
        seen.append((stream.starts_epoch, int(inputs[0, 0])))
    assert seen == [(i % 5 == 0, i % 5 * 4) for i in range(12)]


@pytest.mark.parametrize("done", [0, 1, 5, 7])
def test_a_stream_goes_on_where_it_was_saved(done: int) -> None:
    stream = TokenStream(tokens(61), 3, 4)
    for _ in range(done):
        stream.next_batch()
    state = stream.state_dict()
    resumed = TokenStream(tokens(61), 3, 4)
    resumed.load_state_dict(state)
    assert resumed.starts_epoch == stream.starts_epoch
    for _ in range(8):
        assert all(map(torch.equal, stream.next_batch(), resumed.next_batch()))
        assert resumed.starts_epoch == stream.starts_epoch


@pytest.mark.parametrize("other", [(60, 3, 4), (61, 4, 4), (61, 3, 5)])
def test_a_state_of_another_shape_is_an_error(other: tuple[int, int, int]) -> None:
    count, batch, length = other
    state = TokenStream(tokens(61), 3, 4).state_dict()
    with pytest.raises(ValueError, match=r"saved token stream is of shape .*'tokens': 61.*start a new run"):
        TokenStream(tokens(count), batch, length).load_state_dict(state)


def test_too_little_text_names_what_is_needed() -> None:
    TokenStream(tokens(13), 3, 4)
    for count in (0, 1, 12):
        with pytest.raises(
            ValueError, match=rf"data has {count} tokens, too few .* 3 x 4, which takes 13; give more text or a larger"
        ):
            TokenStream(tokens(count), 3, 4)


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
@pytest.mark.parametrize("name", ["batch_size", "sequence_length"])
def test_bad_shapes_are_errors(name: str, value: Any) -> None:
    shape = {"batch_size": 2, "sequence_length": 2, name: value}
    with pytest.raises(ValueError, match=rf"{name} .* must be a positive integer"):
        TokenStream(tokens(50), **shape)
    with pytest.raises(ValueError, match=rf"{name} .* must be a positive integer"):
        held_out_batches(tokens(50), **shape)


@given(count=st.integers(2, 80), batch=st.integers(1, 6), length=st.integers(1, 9))
@settings(deadline=None)
def test_held_out_predicts_every_token_but_the_first_exactly_once(count: int, batch: int, length: int) -> None:
    data = tokens(count)
    batches = list(held_out_batches(data, batch, length))
    assert all(part.shape == (batch, length) and part.dtype == torch.int64 for pair in batches for part in pair)
    inputs = torch.cat([inputs for inputs, _ in batches], dim=1)
    targets = torch.cat([targets for _, targets in batches], dim=1)
    counted = targets != -100
    # In the order of the rows: each token follows from the one before it, and rows have padding at their ends alone.
    assert targets[counted].tolist() == list(range(1, count))
    assert torch.equal(inputs[counted], targets[counted] - 1)
    assert torch.equal(counted, counted.cummin(dim=1).values)
    assert torch.all(inputs[~counted] == 0)
    assert all((targets != -100).any() for _, targets in batches)


def test_held_out_needs_two_tokens() -> None:
    with pytest.raises(ValueError, match="data has 1 held-out tokens; 2 are the least"):
        held_out_batches(tokens(1), 2, 2)


@pytest.mark.parametrize("count", [2, 3, 7, 8, 9, 10, 12, 13, 40, 41, 42])
@pytest.mark.parametrize(("batch", "length"), [(2, 8), (3, 5), (1, 2)])
def test_overlapping_windows_predict_every_token_once_with_half_a_window_before_it(count, batch, length):
    data = tokens(count)
    seen = {}
    for inputs, targets in overlapping_batches(data, batch, length):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == length
        for row, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
            for place, target in enumerate(wanted):
                if target != -100:
                    assert target not in seen  # the tokens of this text are all different
                    seen[target] = row[: place + 1]
    assert sorted(seen) == data[1:].tolist()
    for target, before in seen.items():
        place = data.tolist().index(target)
        assert before == data[place - len(before) : place].tolist()
        assert len(before) >= min(place, length - length // 2 + 1)


def test_windows_that_cannot_overlap():
    with pytest.raises(ValueError, match="sequence_length 1 cannot be halved"):
        overlapping_batches(tokens(10), 2, 1)
    with pytest.raises(ValueError, match="data has 1 held-out tokens; 2 are the least"):
        overlapping_batches(tokens(1), 2, 4)


@pytest.mark.parametrize("place", [0, 60])
def test_a_state_of_another_text_is_an_error(place: int) -> None:
    other = tokens(61)
    other[place] += 1
    state = TokenStream(tokens(61), 3, 4).state_dict()
    with pytest.raises(ValueError, match=r"saved token stream is of shape .*'text': .*start a new run"):
        TokenStream(other, 3, 4).load_state_dict(state)
    del state["text"]  # as older versions have it
    TokenStream(other, 3, 4).load_state_dict(state)


@pytest.mark.parametrize("read", [lambda tokens: TokenStream(tokens, 2, 4), held_out, overlapping])
@pytest.mark.parametrize("tokens", [np.arange(100) / 2, np.arange(200).reshape(100, 2), ["a", "b"]])
def test_what_is_no_row_of_ids_is_an_error(read, tokens) -> None:
    with pytest.raises(ValueError, match=r"^tokens must be integers \[N\], but got "):
        read(tokens)


@pytest.mark.parametrize("read", [lambda tokens: [TokenStream(tokens, 2, 4).next_batch()], held_out, overlapping])
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_a_list_and_a_tensor_are_read_as_an_array(read, kind) -> None:
    for batch, expected in zip(read(kind(range(20))), read(np.arange(20)), strict=True):
        assert all(torch.equal(part, other) for part, other in zip(batch, expected, strict=True))


@pytest.mark.parametrize("batches", [None, -5, 1.5])
def test_a_state_that_does_not_say_where_is_an_error(batches) -> None:
    stream = TokenStream(np.arange(100), 2, 4)
    with pytest.raises(ValueError, match=rf"has batches={batches}, and not how many it gave; start a new run"):
        stream.load_state_dict(stream.state_dict() | {"batches": batches})
