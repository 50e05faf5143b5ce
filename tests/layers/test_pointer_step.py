"""A token of generation through a pointer: one kernel where it may, and the same numbers where it may not."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import find_boundaries, pointer
from resnet_bk.layers.pointer import Pointer

D, V = 6, 11


@pytest.fixture
def calls(monkeypatch):
    """As many entries as calls of the kernel."""
    found = []

    def counted(*arguments, **options):
        found.append(None)
        return pointer_step(*arguments, **options)

    pointer_step = pointer.pointer_step
    monkeypatch.setattr(pointer, "pointer_step", counted)
    return found


def built(dtype=torch.float64, batch=3):
    """A pointer, hidden states and words of 6 tokens, and the state before the last one."""
    torch.manual_seed(0)
    layer = Pointer(D, V, num_heads=3, key_dim=2, absorption_min=1e-3).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        hidden, ids = torch.randn(batch, 6, D, dtype=dtype), torch.randint(V, (batch, 6))
        return layer, hidden, ids, layer(hidden[:, :5], ids[:, :5]).state


def copied(state):
    return state._replace(words=state.words.clone())


@pytest.mark.parametrize("at", [None, [0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_it_gives_what_the_operators_give(dtype, at, calls, monkeypatch):
    layer, hidden, ids, state = built(dtype)
    at = None if at is None else torch.tensor(at)
    found = layer(hidden[:, 5:], ids[:, 5:], None, copied(state), at=at)
    assert calls == [None]
    monkeypatch.setattr(pointer, "takes_token", lambda *_: False)
    expected = layer(hidden[:, 5:], ids[:, 5:], None, copied(state), at=at)
    whole = layer(hidden, ids)
    assert calls == [None]
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    for other in (expected, whole._replace(copied=whole.copied[:, 5:], rest=whole.rest[:, 5:])):
        assert_close(found.copied, other.copied, **tolerance)
        assert_close(found.rest, other.rest, **tolerance)
        assert_close(found.state.total, other.state.total, **tolerance)
    for one, other in zip(found.state, expected.state, strict=True):
        assert one.dtype == other.dtype
        assert_close(one, other, **tolerance)


@torch.no_grad()
def test_a_model_in_half_precision_takes_it(calls):
    layer, hidden, ids, _ = built(torch.float32)
    state, last = layer(hidden[:, :5].bfloat16(), ids[:, :5]).state, hidden[:, 5:].bfloat16()
    expected = layer(last.float(), ids[:, 5:], None, copied(state))
    layer.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(last, ids[:, 5:], None, state)
    assert calls == [None, None]
    assert torch.equal(found.copied, expected.copied)
    assert torch.equal(found.rest, expected.rest)


def test_which_calls_take_the_kernel(calls):
    layer, hidden, ids, state = built()
    last, word = hidden[:, 5:], ids[:, 5:]
    layer(last, word, None, copied(state))  # a gradient is recorded
    with torch.no_grad():
        layer(last, word)  # nothing to go on from
        layer(hidden[:, 4:], ids[:, 4:], None, copied(state))
        layer(last, word, None, copied(state), targets=word)
        layer(last, word, None, copied(state), at=torch.empty(0, dtype=torch.int64))
        with pytest.raises(RuntimeError, match="out of DATA bounds"):
            layer(last, word, None, copied(state), at=torch.tensor([1]))
        with pytest.raises(RuntimeError, match="Number of indices"):
            layer(last, word[:1], None, copied(state))
        layer(last, word, None, state, keep_state=False)
        mask = torch.tensor([[1], [0], [1]])
        layer(last, word, find_boundaries(mask, None, shape=(3, 1), past_length=0, last_document=None), copied(state))
        turned = state._replace(words=state.words.mT.contiguous().mT)
        with pytest.raises(RuntimeError, match="not compatible"):  # of which the kernel would write to a copy
            layer(last, word, None, turned)
        with pytest.raises(ValueError, match="initial_state"):
            layer(last, word, None, copied(state)._replace(green=state.green.to(torch.complex64)))
    with torch.inference_mode():
        made = copied(state)
    with torch.no_grad():
        layer(last, word, None, made)  # words that may not be written to
    assert not calls
    with torch.no_grad():
        layer(last, word, None, copied(state))
    assert calls == [None]


@torch.no_grad()
def test_what_runs_at_a_call_of_a_part_runs(calls):
    layer, hidden, ids, state = built()
    seen = []
    for name in ("query", "key", "write_proj", "gates", "chain"):
        part = getattr(layer, name)
        part.register_forward_hook(lambda _, inputs, __, name=name: seen.append((name, *inputs[0].shape)))
        layer(hidden[:, 5:], ids[:, 5:], None, copied(state))
        assert len(calls) == (4 if name == "chain" else len({part for part, *_ in seen}))
    # As ever: one token is a dimension. The chain's weights are read, and not where it has a hook.
    assert sorted(seen) == [
        (name, 3, 1, D)
        for name, times in {"chain": 1, "gates": 2, "key": 4, "query": 5, "write_proj": 3}.items()
        for _ in range(times)
    ]


@torch.no_grad()
def test_kernel_and_operators_go_on_from_each_other(calls):
    layer, hidden, ids, _ = built()
    whole, state, copied_there = layer(hidden, ids), None, []
    for start, stop in ((0, 2), (2, 3), (3, 5), (5, 6)):
        found = layer(hidden[:, start:stop], ids[:, start:stop], None, state)
        state = found.state
        copied_there.append(found.copied)
    assert len(calls) == 2
    assert_close(torch.cat(copied_there, 1), whole.copied, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_graph_is_captured_with_the_operators(calls):
    layer, hidden, ids, state = built()
    expected = layer(hidden[:, 5:], ids[:, 5:], None, copied(state))
    compiled = torch.compile(layer, backend="eager")
    found = compiled(hidden[:, 5:], ids[:, 5:], None, copied(state))
    assert len(calls) == 1
    assert_close(found.copied, expected.copied, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_it_keeps_nothing_of_the_call(calls):
    layer, hidden, ids, state = built()
    after = layer(hidden[:, 5:], ids[:, 5:], None, state).state
    assert calls
    assert after.words.data_ptr() == state.words.data_ptr()
    assert after.hidden.data_ptr() != hidden[:, 5:].data_ptr()
    assert after.hidden.untyped_storage().nbytes() == after.hidden.nbytes
