"""Hoppings with a phase, against the dense oracle with complex hoppings, on every backend.

Tolerances as in test_operators: a phase changes no modulus, and the angle is summed in float64.
"""

import math

import pytest
import torch

from resnet_bk import ops
from resnet_bk.layers import gradients as layers
from tests.ops.cases import OPERATORS, draw, gradients, relative_error, with_gradients
from tests.ops.test_operators import LENGTHS, TOLERANCE

PHASED = OPERATORS[2:]

each_backend = pytest.mark.parametrize(
    ("operator", "backend"),
    [
        pytest.param(operator, backend, id=f"{operator.name}-{backend}", marks=marks)
        for operator in PHASED
        for backend in ops.available_backends(operator.name, "cpu")
        if backend != "triton"  # its interpreter has its own tests
        for marks in [[pytest.mark.kernels] if backend == "numba" else []]
    ],
)


def drawn(operator, sites, **options):
    """Inputs with phases all round the circle."""
    tensors = draw(operator, sites, **options)
    generator = torch.Generator().manual_seed(sites)
    phase = 2 * math.pi * torch.rand(tensors["potential"].shape, generator=generator, dtype=torch.float64)
    return tensors | {"phase": phase.to(tensors["potential"].dtype)}


def check(operator, backend, sites, dtype, state):
    tensors = with_gradients(drawn(operator, sites, dtype=dtype, state=state))
    exact = with_gradients(
        {name: x.detach().to(torch.promote_types(x.dtype, torch.float64)) for name, x in tensors.items()}
    )
    outputs, expected = operator.run(tensors, backend), operator.oracle(**exact)
    for y, z in zip(outputs, expected, strict=True):
        assert y.dtype == dtype.to_complex()
        assert relative_error(y, z) < TOLERANCE[dtype]
    for name, g, h in zip(tensors, gradients(outputs, tensors), gradients(expected, exact), strict=True):
        assert g.dtype == tensors[name].dtype, name
        assert relative_error(g, h) < TOLERANCE[dtype], name


@each_backend
def test_phases_of_half_precision_are_summed_in_double(operator, backend):
    tensors = drawn(operator, 300, dtype=torch.float32, state=False)
    half = {name: x.bfloat16() if name == "phase" else x for name, x in tensors.items()}
    rounded = tensors | {"phase": half["phase"].float()}
    for y, z in zip(operator.run(half, backend), operator.run(rounded, backend), strict=True):
        assert torch.equal(y, z)


@each_backend
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "state"])
def test_oracle_tiny(operator, backend, state):
    check(operator, backend, 3, torch.float64, state)


@pytest.mark.parametrize("sites", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@each_backend
def test_oracle(operator, backend, sites, dtype):
    check(operator, backend, sites, dtype, state=True)


@each_backend
def test_gradcheck(operator, backend):
    tensors = with_gradients(drawn(operator, 4, batch=1, state=True))

    def run(*leaves):
        outputs = operator.run(dict(zip(tensors, leaves, strict=True)), backend)
        return tuple(torch.view_as_real(y) for y in outputs)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()))


@each_backend
def test_a_phase_of_zero_is_none(operator, backend):
    tensors = draw(operator, 9, state=True, dtype=torch.float32)
    turned = operator.run(tensors | {"phase": torch.zeros_like(tensors["potential"])}, backend)
    for y, z in zip(turned, operator.run(tensors, backend), strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float32]


@each_backend
def test_two_calls_are_one(operator, backend):
    tensors = drawn(operator, 40, state=True)
    whole = operator.run(tensors, backend)

    def part(sites, state):
        cut = {name: x if name in operator.states else x[:, sites] for name, x in tensors.items()}
        return operator.run(cut | state, backend)

    first = part(slice(0, 23), {})
    second = part(slice(23, None), dict(zip(operator.states, first[1:], strict=True)))
    assert relative_error(torch.cat([first[0], second[0]], 1), whole[0]) < TOLERANCE[torch.float64]
    for y, z in zip(second[1:], whole[1:], strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("operator", PHASED, ids=lambda operator: operator.name)
def test_the_angle_of_a_long_chain_is_not_lost(operator):
    """What is read at the end of 65,537 sites, in float32 and in float64: 10^5 radians lie between."""
    tensors = drawn(operator, 65_537, batch=1, dtype=torch.float32)
    wide = {name: x.double() for name, x in tensors.items()}
    error = relative_error(operator.run(tensors, "auto")[0][:, -100:], operator.run(wide, "auto")[0][:, -100:])
    assert error < TOLERANCE[torch.float32]


def test_the_band_angle_brings_everything_in_step():
    """A uniform chain in its band adds up what came when each hopping turns the signal back; without, it cancels."""
    sites, energy, absorption = 400, 0.8, 0.01
    ones = torch.ones(1, sites, 1, dtype=torch.float64)
    chain = (energy * ones, ones, absorption * ones)
    back = math.acos(energy / 2) * ones
    in_step = ops.propagate_vector(ones, *chain, phase=back)[0][0, -1, 0].abs()
    cancelled = ops.propagate_vector(ones, *chain)[0][0, -1, 0].abs()
    # |Gamma_tj| = exp(-absorption / (2 sin theta) (t - j)), summed over j.
    memory = 2 * math.sin(math.acos(energy / 2)) / absorption
    assert 0.85 * memory < in_step < memory
    assert cancelled < 2


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (torch.zeros(2, 3, 1), "must have one shape"),
        (torch.zeros(2, 3, 2, dtype=torch.int64), "phase must be float32"),
        (torch.zeros(2, 3, 2, dtype=torch.float64), "float64 or none"),
        (0.5, "phase must be a tensor"),
    ],
)
@pytest.mark.parametrize("operator", PHASED, ids=lambda operator: operator.name)
def test_wrong_phases(operator, phase, message):
    with pytest.raises(ValueError, match=message):
        operator.run(draw(operator, 3, dtype=torch.float32) | {"phase": phase}, "auto")


@pytest.mark.parametrize("gradient", ["diagonal", "autograd"])
@pytest.mark.parametrize("operator", PHASED, ids=lambda operator: operator.name)
def test_other_gradients_take_a_phase(operator, gradient):
    """Values and the gradient of the phase, of which neither leaves anything out."""
    tensors = with_gradients(drawn(operator, 7, state=True))
    state = tuple(tensors[name] for name in operator.states)
    output, after = getattr(layers, operator.name)(
        *(tensors[name] for name in operator.inputs),
        phase=tensors["phase"],
        initial_state=state,
        backend="auto",
        gradient=gradient,
    )
    expected = operator.run(tensors, "reference")
    for y, z in zip((output, *after), expected, strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]
    of_phase = [torch.autograd.grad(y.real.sum(), tensors["phase"])[0] for y in (output, expected[0])]
    assert relative_error(*of_phase) < TOLERANCE[torch.float64]


@each_backend
def test_a_cut_with_phases_before_it(operator, backend):
    tensors = drawn(operator, 12)
    tensors["hopping"][:, 5] = 0
    changed = tensors | {"phase": tensors["phase"].clone()}
    changed["phase"][:, :6] += 1
    y, z = (operator.run(x, backend)[0][:, 5:] for x in (tensors, changed))
    assert relative_error(y, z) < TOLERANCE[torch.float64]  # Phi is rounded otherwise


@each_backend
def test_state_holds_no_chain(operator, backend):
    for part in operator.run(drawn(operator, 50), backend)[1:]:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


@pytest.mark.sweep
@pytest.mark.parametrize("operator", PHASED, ids=lambda operator: operator.name)
def test_compile(operator):
    tensors = with_gradients(drawn(operator, 4, dtype=torch.float32))

    def call(*leaves):
        return operator.run(dict(zip(tensors, leaves, strict=True)), "numba")

    outputs = torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors.values())
    expected = call(*tensors.values())
    pairs = zip((*outputs, *gradients(outputs, tensors)), (*expected, *gradients(expected, tensors)), strict=True)
    for y, z in pairs:
        assert relative_error(y, z) < TOLERANCE[torch.float32]
