"""A token of generation through a block: one kernel where it may, and the same numbers where it may not."""

import contextlib

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from resnet_bk.layers import modulus_propagator, one_token
from resnet_bk.layers.block import ResNetBKBlock
from resnet_bk.layers.boundaries import find_boundaries
from resnet_bk.models import ResNetBKConfig
from tests.layers.watched import each_change

D = 8


@pytest.fixture
def calls(monkeypatch):
    """The kernels that were called, by name."""
    found = []

    def count(module, name):
        kernel = getattr(module, name)

        def counted(*arguments, **options):
            found.append(name)
            return kernel(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    count(one_token, "block_step")
    count(modulus_propagator, "modulus_step")
    return found


def built(*, gated=False, first=True, **fields):
    torch.manual_seed(0)
    config = ResNetBKConfig(vocab_size=5, hidden_size=D, num_heads=2, **fields)
    block = ResNetBKBlock(config, gated=gated, first=first).double()
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    hidden = torch.randn(3, 6, D, dtype=torch.float64)
    values = None if first else torch.randn(3, 5, 2, config.value_dim, dtype=torch.float64)
    return block, hidden, block(hidden[:, :5], first_values=values).state


def assert_same(found, expected):
    pairs = [(found.hidden, expected.hidden), *zip(found.state.chain, expected.state.chain, strict=True)]
    if expected.state.convolution is not None:
        pairs.append((found.state.convolution, expected.state.convolution))
    for one, other in pairs:
        assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, ["block_step"]),
        ({"state": "delta"}, ["block_step"]),
        ({"output_gate": "none", "query_key_bias": 0.0, "backend": "numba"}, ["block_step"]),
        ({"key_dim": 3, "value_dim": 6, "conv_size": 2, "induction_heads": 1, "site_gain": 3.0}, ["block_step"]),
        ({"absorption_min": 0.04, "rms_norm_eps": 0.1, "intermediate_size": 5}, ["block_step"]),
        ({"value_residual": True}, ["block_step"]),
        ({"sandwich_norm": True, "rms_norm_eps": 0.1}, ["block_step"]),
        ({"num_experts": 2}, ["modulus_step"]),
        ({"num_experts": 2, "value_residual": True, "sandwich_norm": True}, ["modulus_step"]),
        ({"output_gate": "silu"}, []),
        ({"conv_size": 0}, []),
        ({"backend": "chunked"}, []),
        ({"gradient": "autograd"}, []),
        ({"state": "matrix"}, []),
        ({"state": "vector"}, []),
    ],
    ids=str,
)
def test_which_blocks_take_a_kernel(fields, taken, calls):
    block, hidden, state = built(**fields)
    expected = block(hidden[:, 5:], None, state)  # with a gradient
    assert not calls
    with torch.no_grad():
        found = block(hidden[:, 5:], None, state)
    assert calls == taken
    assert_same(found, expected)
    assert found.share is None
    if "value_residual" in fields:
        assert_close(found.values, expected.values, rtol=1e-9, atol=1e-9)
    else:
        assert found.values is None


@pytest.mark.parametrize("experts", [0, 2])
def test_values_of_the_first_block_reach_a_later_one(experts, calls):
    block, hidden, state = built(first=False, value_residual=True, value_dim=3, num_experts=experts)
    values = torch.randn(3, 1, 2, 3, dtype=torch.float64)
    expected = block(hidden[:, 5:], None, state, first_values=values)  # with a gradient
    assert not calls
    with torch.no_grad():
        found = block(hidden[:, 5:], None, state, first_values=values)
        other = block(hidden[:, 5:], None, state, first_values=2 * values)
    assert calls == [["block_step"], ["modulus_step"]][experts > 0] * 2
    assert_same(found, expected)
    assert not torch.allclose(other.hidden, found.hidden)
    calls.clear()
    with torch.no_grad():
        single = block(hidden[:, 5:], None, state, first_values=values.float())
        assert not calls
        assert_close(single.hidden, expected.hidden, rtol=1e-5, atol=1e-5)
        for wrong in (values[:2], values[..., :2]):
            with pytest.raises((RuntimeError, ValueError)):
                block(hidden[:, 5:], None, state, first_values=wrong)
    assert "block_step" not in calls


@torch.no_grad()
def test_weights_of_first_values_that_do_not_fit_are_refused(calls):
    block, hidden, state = built(first=False, value_residual=True)
    replace(block, "value_residual.weight", lambda weight: torch.cat([weight, weight, weight]))
    with pytest.raises(RuntimeError):
        block(hidden[:, 5:], None, state, first_values=torch.randn(3, 1, 2, 4, dtype=torch.float64))
    assert not calls


@each_change
@torch.no_grad()
def test_what_runs_at_a_call_of_the_weights_of_first_values_runs(change, calls):
    block, hidden, state = built(first=False, value_residual=True)
    values, seen = torch.randn(3, 1, 2, 4, dtype=torch.float64), []
    expected = block(hidden[:, 5:], None, state, first_values=values)
    change(block, "value_residual", seen)
    found = block(hidden[:, 5:], None, state, first_values=values)
    assert seen == ["value_residual"]
    assert calls.count("block_step") == 1
    assert_same(found, expected)


@torch.no_grad()
def test_which_calls_take_it(calls):
    block, hidden, state = built()
    block(hidden[:, :1])
    block(hidden[:, :2], None, state)
    block(hidden[:, 5:], None, state, torch.tensor([[True], [False], [True]]))
    mask = torch.tensor([[1], [0], [1]])
    block(hidden[:, 5:], find_boundaries(mask, None, shape=(3, 1), past_length=0, last_document=None), state)
    with torch.autocast("cpu", torch.bfloat16):
        block(hidden[:, 5:], None, state)
    assert not calls
    with torch.inference_mode():
        block(hidden[:, 5:], None, state)
    assert calls == ["block_step"]


@torch.no_grad()
def test_a_gate_on_sites_decides_first(calls):
    block, hidden, state = built(gated=True, sparse_bk=0.5)
    block(hidden[:, 5:], None, state)
    assert "block_step" not in calls


PARTS = [
    *("mixer", "feed_forward", "mixer_norm", "feed_forward_norm"),
    *("mixer.conv", "mixer.query_key", "mixer.chain", "mixer.read_norm"),
    *("mixer.in_proj", "mixer.write_proj", "mixer.gate_proj", "mixer.out_proj"),
    *("feed_forward.gate_up_proj", "feed_forward.down_proj"),
    *("mixer_output_norm", "feed_forward_output_norm"),
]


def test_the_parts_below_are_all_that_a_block_has():
    block, _, _ = built(sandwich_norm=True)
    assert {name for name, _ in block.named_modules() if name} == set(PARTS)


@each_change
@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_what_runs_at_a_call_of_a_part_runs(part, change, calls):
    block, hidden, state = built(sandwich_norm=True)
    seen = []
    expected = block(hidden[:, 5:], None, state)
    assert (seen, calls) == ([], ["block_step"])
    change(block, part, seen)
    if part == "mixer.chain":  # whose `project` is called where the mixer's own kernel runs, and not it itself
        block.mixer.backend = "chunked"
    found = block(hidden[:, 5:], None, state)
    assert seen == [part]
    assert "block_step" not in calls[1:]
    assert_same(found, expected)


LINEAR = [
    *("mixer.in_proj", "mixer.write_proj", "mixer.gate_proj", "mixer.out_proj"),
    *("feed_forward.gate_up_proj", "feed_forward.down_proj"),
]


@pytest.mark.parametrize("part", LINEAR)
@torch.no_grad()
def test_a_linear_map_with_a_bias_is_called(part, calls):
    block, hidden, state = built()
    expected = block(hidden[:, 5:], None, state).hidden
    layer = block.get_submodule(part)
    layer.bias = nn.Parameter(torch.ones(len(layer.weight), dtype=torch.float64))
    calls.clear()
    assert not torch.allclose(block(hidden[:, 5:], None, state).hidden, expected)
    assert "block_step" not in calls


PARAMETERS = [name for name, _ in built(sandwich_norm=True)[0].named_parameters()]


def replace(block, name, change):
    """A parameter by what `change` makes of it."""
    part, _, key = name.rpartition(".")
    module = block.get_submodule(part)
    setattr(module, key, nn.Parameter(change(getattr(module, key))))


@pytest.mark.parametrize("name", PARAMETERS)
@torch.no_grad()
def test_a_parameter_that_does_not_fit_is_refused(name, calls):
    """Not read beyond its end."""
    block, hidden, state = built(sandwich_norm=True)
    replace(block, name, lambda parameter: parameter[:-1])
    with pytest.raises((RuntimeError, ValueError)):
        block(hidden[:, 5:], None, state)
    assert "block_step" not in calls


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of a norm
@pytest.mark.parametrize("name", PARAMETERS)
@torch.no_grad()
def test_a_parameter_of_another_precision_is_left_to_the_modules(name, calls):
    block, hidden, state = built(sandwich_norm=True)
    replace(block, name, torch.Tensor.float)
    with contextlib.suppress(RuntimeError):  # of matmuls
        block(hidden[:, 5:], None, state)
    assert "block_step" not in calls


@pytest.mark.parametrize("place", ["convolution", "memory"])
@pytest.mark.parametrize("change", [torch.Tensor.float, lambda x: x.mT.contiguous().mT], ids=["narrow", "turned"])
@torch.no_grad()
def test_a_state_of_another_kind_is_left_to_the_modules(change, place, calls):
    block, hidden, state = built()
    green, memory = state.chain
    other = (
        state._replace(convolution=change(state.convolution))
        if place == "convolution"
        else state._replace(chain=(green, change(memory)))
    )
    with contextlib.suppress(RuntimeError, ValueError):
        block(hidden[:, 5:], None, other)
    assert not calls


@pytest.mark.parametrize("name", PARAMETERS)
@torch.no_grad()
def test_a_weight_that_is_no_parameter_is_left_to_the_modules(name, calls):
    """As in replicas of `DataParallel` and under FSDP, whose modules have tensors in their place."""
    block, hidden, state = built(sandwich_norm=True)
    expected = block(hidden[:, 5:], None, state)
    part, _, key = name.rpartition(".")
    module = block.get_submodule(part)
    weight = module._parameters.pop(key)
    setattr(module, key, weight.detach())
    found = block(hidden[:, 5:], None, state)
    assert_same(found, expected)
    if key == "weight":
        assert calls.count("block_step") == 1


@torch.no_grad()
def test_sparse_weights_are_called(calls):
    block, hidden, state = built()
    expected = block(hidden[:, 5:], None, state)
    block.mixer.out_proj.weight = nn.Parameter(block.mixer.out_proj.weight.to_sparse())
    assert_same(block(hidden[:, 5:], None, state), expected)
    assert calls.count("block_step") == 1


@torch.no_grad()
def test_parts_that_are_done_otherwise_are_done(calls):
    class Doubled(ResNetBKBlock):
        def _feed_forward(self, hidden, boundaries, readers):
            return 2 * hidden, None

    block, hidden, state = built()
    expected = block(hidden[:, 5:], None, state).hidden
    project = block.mixer.chain.project
    block.mixer.chain.project = lambda hidden: project(hidden) + 1
    assert not torch.allclose(block(hidden[:, 5:], None, state).hidden, expected)
    del block.mixer.chain.project
    block.__class__ = Doubled
    assert not torch.allclose(block(hidden[:, 5:], None, state).hidden, expected)
    assert calls.count("block_step") == 1


@pytest.mark.parametrize("name", ["mixer_norm", "feed_forward_output_norm"])
@torch.no_grad()
def test_a_norm_with_the_eps_of_pytorch_is_called(name, calls):
    block, hidden, state = built(sandwich_norm=True)
    setattr(block, name, nn.RMSNorm(D, dtype=torch.float64))
    block(hidden[:, 5:], None, state)
    assert "block_step" not in calls


@torch.no_grad()
def test_large_calls_are_for_matmuls(calls, monkeypatch):
    block, hidden, state = built()
    numbers = sum(parameter.numel() for parameter in block.parameters())
    monkeypatch.setattr(one_token, "MOST_NUMBERS", 3 * numbers - 1)
    expected = block(hidden[:, 5:], None, state)
    assert calls == ["modulus_step"]
    monkeypatch.setattr(one_token, "MOST_NUMBERS", 3 * numbers)
    assert_same(block(hidden[:, 5:], None, state), expected)
    assert calls == ["modulus_step", "block_step"]


def test_frozen_parts_do_not_hide_a_gradient(calls):
    block, hidden, state = built()
    block.requires_grad_(False)
    block.mixer_norm.weight.requires_grad_(True)
    assert block(hidden[:, 5:], None, state).hidden.requires_grad
    assert not calls
