"""Bad calls: each a ValueError that names the argument, its value, the rule and the way out."""

import math
import re

import pytest
import torch

from resnet_bk.ops.checks import state_pair, state_part
from tests.ops.cases import CAUSAL, MODULUS, OPERATORS, draw, each_backend_with_modulus, with_modulus


def fails(operator, tensors, message, backend="auto"):
    with pytest.raises(ValueError, match=message):
        operator.run(tensors, backend)


@with_modulus
def test_every_input_must_be_a_tensor(operator):
    for name in operator.inputs:
        fails(operator, draw(operator, 2) | {name: 0.5}, f"{name} must be a tensor, but got float; wrap it")


@with_modulus
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_every_input_must_be_floating_point(operator, dtype):
    for name in operator.inputs:
        tensors = draw(operator, 2)
        tensors[name] = tensors[name].to(dtype)
        fails(operator, tensors, rf"{name} must be float32, float64, bfloat16 or float16, but got {dtype}; convert")


@with_modulus
def test_double_and_single_do_not_mix(operator):
    for name in operator.inputs:
        tensors = draw(operator, 2)
        tensors[name] = tensors[name].float()
        fails(operator, tensors, rf"all be float64 or none of them, but got .*{name} torch.float32.*; convert")


@with_modulus
def test_one_device(operator):
    tensors = draw(operator, 2)
    tensors["absorption"] = tensors["absorption"].to("meta")
    fails(operator, tensors, "on one device, but got .*potential on cpu.*absorption on meta; move")


@with_modulus
def test_chain_has_three_dimensions(operator):
    for name in ("potential", "hopping", "absorption"):
        tensors = draw(operator, 2)
        tensors[name] = tensors[name][0]
        fails(operator, tensors, rf"{name} must be \[batch, sites, chains\], but got shape \(2, 2\); add")


@with_modulus
def test_chain_has_one_shape(operator):
    tensors = draw(operator, 2)
    tensors["hopping"] = tensors["hopping"][..., :1]
    fails(operator, tensors, r"must have one shape .* but got .*hopping \(2, 2, 1\).*; expand")


@with_modulus
def test_chain_is_not_empty(operator):
    tensors = {name: x[:, :0] for name, x in draw(operator, 2).items()}
    fails(operator, tensors, r"at least one site, but \w+ has shape \(2, 0, 2\); skip the call")


@each_backend_with_modulus
@pytest.mark.parametrize(
    ("dtype", "value", "rule"),
    [
        (torch.float32, 0.0, "above 0"),
        (torch.float32, -0.25, "above 0"),
        (torch.float32, -math.inf, "above 0"),
        (torch.float64, 0.0, "at least 1e-150 in float64"),
        (torch.float64, 1e-160, "at least 1e-150 in float64"),
    ],
)
def test_absorption_is_positive(operator, backend, dtype, value, rule):
    tensors = draw(operator, 3, dtype=dtype)
    tensors["absorption"][1, 2, 0] = value
    message = re.escape(f"absorption must be {rule} at every site, for 1/absorption bounds the result, but ")
    fails(operator, tensors, message + re.escape(f"absorption[1, 2, 0] is {value:g}; use softplus"), backend)


@each_backend_with_modulus
def test_hopping_is_not_negative(operator, backend):
    tensors = draw(operator, 3)
    tensors["hopping"][0, 1, 1] = -0.5
    fails(operator, tensors, r"hopping must be 0 .* or above, but hopping\[0, 1, 1\] is -0.5; use softplus", backend)


@with_modulus
def test_values_of_half_types_are_checked(operator):
    tensors = {name: x.bfloat16() for name, x in draw(operator, 3).items()}
    tensors["absorption"][0, 0, 0] = -1
    fails(operator, tensors, r"absorption\[0, 0, 0\] is -1")


each_matrix = pytest.mark.parametrize("operator", [OPERATORS[-1], MODULUS], ids=lambda operator: operator.name)


@each_matrix
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_heads(operator, name):
    tensors = draw(operator, 2)
    for wrong in (tensors[name][0], tensors[name][:, :, :1], tensors[name].flatten(2)):
        message = rf"{name} must be \[batch, sites, heads, size\] .* potential \(2, 2, 2\), but got "
        fails(operator, tensors | {name: wrong}, message + re.escape(str(tuple(wrong.shape))))
    fails(operator, tensors | {name: tensors[name][..., :0]}, f"{name} must have a size of at least 1 a head")


@each_matrix
def test_query_and_key_have_one_size(operator):
    tensors = draw(operator, 2)
    tensors["query"] = tensors["query"][..., :2]
    fails(operator, tensors, r"query and key .* but got \(2, 2, 2, 2\) and \(2, 2, 2, 3\); project")


WITH_STATE = [*CAUSAL, MODULUS]
each_causal = pytest.mark.parametrize("operator", WITH_STATE, ids=lambda operator: operator.name)


@each_causal
def test_state_shape(operator):
    for name in operator.states:
        tensors = draw(operator, 2, state=True)
        tensors[name] = tensors[name][:1]
        fails(operator, tensors, r"initial_state.* must have shape \(2, 2.*\), but got \(1, 2.*\); pass the state")


@each_causal
def test_state_dtype(operator):
    for name in operator.states:
        tensors = draw(operator, 2, state=True)
        real = operator is MODULUS and name == "memory_in"
        rule, narrow = (torch.float64, torch.float32) if real else (torch.complex128, torch.complex64)
        tensors[name] = (tensors[name].real if real else tensors[name]).to(narrow)
        message = rf"initial_state.* must be {rule} for torch.float64 inputs, but got {narrow}; convert"
        fails(operator, tensors, message)


@pytest.mark.parametrize(("real", "dtype"), [(True, torch.complex64), (False, torch.float32)])
def test_a_state_of_another_operator_is_not_to_be_converted(real, dtype):
    """That would lose its imaginary part, or make one up."""
    rule = torch.float32 if real else torch.complex64
    message = f"memory must be {rule} for .*, but got {dtype}, which is the state of another operator; pass the one"
    with pytest.raises(ValueError, match=message):
        state_part("memory", torch.zeros(2, 3, dtype=dtype), torch.zeros(2), (2, 3), real=real)


def test_no_state_is_of_integers():
    message = r"memory must be torch.complex64 for .*, but got torch.int64; convert it with .to\(torch.complex64\)"
    with pytest.raises(ValueError, match=message):
        state_part("memory", torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2), (2, 3))


@pytest.mark.parametrize(("pair", "missing"), [((None, 1), "green"), ((1, None), "psi")])
def test_half_of_a_state(pair, missing):
    with pytest.raises(ValueError, match=rf"both parts \(green, psi\), but {missing} is None; .* or None for both"):
        state_pair(pair, "psi")


@each_causal
def test_state_device(operator):
    for name in operator.states:
        tensors = draw(operator, 2, state=True)
        tensors[name] = tensors[name].to("meta")
        fails(operator, tensors, "initial_state.* must be on cpu like the inputs, but is on meta; move")


@each_causal
def test_state_is_a_tensor(operator):
    for name in operator.states:
        fails(operator, draw(operator, 2, state=True) | {name: 0.0}, "initial_state.* must be a tensor, but got float")


@pytest.mark.parametrize("operator", WITH_STATE[1:], ids=lambda operator: operator.name)
@pytest.mark.parametrize("state", [torch.zeros(2, 2), (torch.zeros(2, 2),), (torch.zeros(2, 2),) * 3], ids=str)
def test_state_is_a_pair(operator, state):
    from resnet_bk import ops

    tensors = draw(operator, 2)
    with pytest.raises(ValueError, match=r"initial_state must be None or a pair \(green, \w+\), but got .*; pass"):
        getattr(ops, operator.name)(*(tensors[name] for name in operator.inputs), initial_state=state)
