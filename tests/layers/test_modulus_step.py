"""A token of generation through a modulus mixer: one kernel where it may, and the same numbers where it may not."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.layers import modulus_propagator
from resnet_bk.layers.boundaries import find_boundaries
from resnet_bk.layers.registry import get_mixer
from resnet_bk.models import ResNetBKConfig
from tests.layers.watched import each_change

D = 8


@pytest.fixture
def calls(monkeypatch):
    """As many entries as calls of the kernel."""
    found = []

    def counted(*arguments, **options):
        found.append(None)
        return modulus_step(*arguments, **options)

    modulus_step = modulus_propagator.modulus_step
    monkeypatch.setattr(modulus_propagator, "modulus_step", counted)
    return found


def built(**fields):
    torch.manual_seed(0)
    config = ResNetBKConfig(vocab_size=5, hidden_size=D, num_heads=2, **fields)
    mixer = get_mixer(config.state).from_config(config).double()
    for parameter in mixer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    hidden = torch.randn(3, 6, D, dtype=torch.float64)
    return mixer, hidden, mixer(hidden[:, :5])[1]


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, True),
        ({"state": "delta"}, True),
        ({"output_gate": "none", "query_key_bias": 0.0, "backend": "numba"}, True),
        ({"key_dim": 3, "value_dim": 6, "conv_size": 2, "induction_heads": 1}, True),
        ({"output_gate": "silu"}, False),
        ({"conv_size": 0}, False),
        ({"backend": "chunked"}, False),
        ({"gradient": "autograd"}, False),
    ],
    ids=str,
)
def test_which_mixers_take_the_kernel(fields, taken, calls):
    mixer, hidden, state = built(**fields)
    expected, after, _ = mixer(hidden[:, 5:], None, state)  # with a gradient
    assert not calls
    with torch.no_grad():
        found, found_after, values = mixer(hidden[:, 5:], None, state)
    assert values is None  # nobody asked
    assert len(calls) == taken
    pairs = [(found, expected), *zip(found_after.chain, after.chain, strict=True)]
    if after.convolution is not None:
        pairs.append((found_after.convolution, after.convolution))
    for one, other in pairs:
        assert_close(one, other, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_which_calls_take_the_kernel(calls):
    mixer, hidden, state = built()
    mixer(hidden[:, :1])
    mixer(hidden[:, :2], None, state)
    mixer(hidden[:, 5:], None, state, torch.tensor([0, 2]))
    mask = torch.tensor([[1], [0], [1]])
    mixer(hidden[:, 5:], find_boundaries(mask, None, shape=(3, 1), past_length=0, last_document=None), state)
    assert not calls


@each_change
@pytest.mark.parametrize("part", ["conv", "query_key", "chain", "read_norm"])
@torch.no_grad()
def test_what_runs_at_a_call_of_a_part_runs(part, change, calls):
    mixer, hidden, state = built()
    seen = []
    mixer(hidden[:, 5:], None, state)
    assert (seen, calls) == ([], [None])
    change(mixer, part, seen)
    mixer(hidden[:, 5:], None, state)
    assert (seen, calls) == ([part], [None])


@torch.no_grad()
def test_a_hook_of_all_modules_runs_for_the_parts(calls):
    mixer, hidden, state = built()
    seen = set()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda part, *_: seen.add(part))
    try:
        mixer(hidden[:, 5:], None, state)
    finally:
        handle.remove()
    assert not calls
    assert {mixer.conv, mixer.query_key, mixer.chain, mixer.read_norm} <= seen


@torch.no_grad()
def test_states_that_do_not_fit_are_refused_as_ever(calls):
    mixer, hidden, state = built()
    green, memory = state.chain
    narrow = green.to(torch.complex64)
    for chain in ((green[:2], memory[:2]), (green[:, :1], memory), (green, memory[..., :1]), (narrow, memory)):
        with pytest.raises(ValueError, match="initial_state"):
            mixer(hidden[:, 5:], None, state._replace(chain=chain))
    assert not calls


def test_frozen_parts_do_not_hide_a_gradient(calls):
    mixer, hidden, state = built()
    mixer.requires_grad_(False)
    mixer.chain.weight.requires_grad_(True)
    output, *_ = mixer(hidden[:, 5:], None, state)
    assert output.requires_grad
    assert not calls


@torch.no_grad()
def test_convolution_states_that_do_not_fit_never_reach_the_kernel(calls):
    """It would read beyond them, and write beyond what it makes in their shape."""
    mixer, hidden, state = built()
    for tail in (state.convolution[:2], state.convolution[:, 1:], state.convolution[..., 1:]):
        with pytest.raises(
            ValueError, match=r"the state of the short convolution must have shape \(3, 3, \d+\), but got"
        ):
            mixer(hidden[:, 5:], None, state._replace(convolution=tail.contiguous()))
        assert not calls, tail.shape
