"""Long chains, weak absorption, extreme sizes: LAPACK's banded solver at full length, the bound, finite results."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_banded

from benchmarks.inputs import condition
from resnet_bk.ops import propagate, propagate_modulus, propagate_vector, resolvent_diagonal, surface_green
from tests.ops.cases import CAUSAL, MODULUS, OPERATORS, WITH_MODULUS, draw, gradients, relative_error
from tests.ops.cases import with_gradients as leaves_of
from tests.ops.spectra import chain

LONG, LONGEST = 65_537, 1_048_576


@pytest.mark.parametrize("spectrum", ["random", "noisy", "edge"])
def test_float64_equals_lapack(spectrum):
    """The last psi and G_tt of the whole chain by a pivoted banded solve."""
    operator = OPERATORS[2]
    tensors = chain(operator, LONG, spectrum, 1e-2, chains=1)
    a, b, eta, u = (tensors[name][0, :, 0].numpy() for name in ("potential", "hopping", "absorption", "source"))
    bands = np.zeros((3, LONG), complex)
    bands[0, 1:] = bands[2, :-1] = -b[1:]
    bands[1] = a - 1j * eta
    sites = [0, 1, LONG // 2, LONG - 2, LONG - 1]
    right = np.zeros((LONG, 1 + len(sites)), complex)
    right[:, 0] = u
    right[sites, range(1, 1 + len(sites))] = 1
    solved = torch.from_numpy(solve_banded((1, 1), bands, right))
    tolerance = 10 * condition(tensors) * torch.finfo(torch.float64).eps
    psi, _ = propagate_vector(*(tensors[name] for name in operator.inputs), backend="numba")
    assert abs(psi[0, -1, 0] - solved[-1, 0]) < tolerance * psi.abs().max()
    diagonal = resolvent_diagonal(*(tensors[name] for name in operator.inputs[1:]), backend="numba")[0, sites, 0]
    assert relative_error(diagonal, solved[sites, range(1, 1 + len(sites))]) < tolerance


@pytest.mark.parametrize("spectrum", ["random", "noisy", "disorder"])
def test_bound_up_to_1048576_sites(spectrum):
    """|L_t| <= 1/eta_min, Im L_t >= 0, and |Gamma_tj| <= 1/eta_min for one j, whatever the length."""
    absorption = 1e-3
    tensors = chain(OPERATORS[2], LONGEST, spectrum, absorption, chains=2, dtype=torch.float32)
    a, b, eta = (tensors[name] for name in ("potential", "hopping", "absorption"))
    green, _ = surface_green(a, b, eta, backend="numba")
    bound = (1 + 4 * torch.finfo(torch.float32).eps) / absorption  # four roundings from d to |L|
    assert green.abs().max() <= bound
    assert (green.imag >= 0).all()
    unit = torch.zeros_like(a)
    unit[:, LONGEST // 2] = 1
    psi, _ = propagate_vector(unit, a, b, eta, backend="numba")
    assert psi.isfinite().all()
    assert psi.abs().max() <= bound
    # A signal dies out over 1/eta sites at most: nothing is left half a million sites on.
    assert psi[:, -1].abs().max() < 1e-30


def finite(operator, tensors, backend):
    leaves = leaves_of({name: tensors[name].float() for name in operator.inputs})
    outputs = operator.run(leaves, backend)
    # The reference says what the values are; autograd through its loop multiplies numbers that leave float32's range.
    results = outputs if backend == "reference" else (*outputs, *gradients(outputs, leaves))
    for result in results:
        assert result.isfinite().all(), (operator.name, backend)


def columns(sites):
    """Inputs of every operator from one tuple (|a|, b, eta, u, sign of a) a site."""
    a, b, eta, u, negative = (
        torch.tensor(column)[None, :, None].expand(1, -1, 2) for column in zip(*sites, strict=True)
    )
    tensors = {"potential": torch.where(negative, -a, a), "hopping": b, "absorption": eta, "source": u}
    return tensors | {name: u[..., None].expand(1, -1, 2, 2) for name in ("query", "key", "value")}


SIZES = (st.floats(-6, 6) | st.sampled_from([-6.0, 0.0, 6.0])).map(lambda exponent: 10.0**exponent)
SITE = st.tuples(SIZES | st.just(0.0), SIZES | st.just(0.0), SIZES, SIZES | st.just(0.0), st.booleans())


@given(sites=st.lists(SITE, min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_sizes_from_1e_6_to_1e6_stay_finite(sites):
    """Any mixture of potentials, hoppings, absorptions and sources of these sizes, in float32: results, and gradients
    of the operators that have one of their own."""
    tensors = columns(sites)
    for operator in WITH_MODULUS:
        for backend in ("numba", "chunked", "reference"):
            finite(operator, tensors, backend)


TINY = st.sampled_from([1.5e-45, 1.2e-38, 1e-30, 1e-20, 1e-12])
ABOVE = st.tuples(SIZES | st.just(0.0), SIZES | st.just(0.0), TINY | SIZES, SIZES, st.booleans())


@given(sites=st.lists(ABOVE, min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_any_positive_absorption_stays_finite(sites):
    """Down to the smallest float32. What is beyond the range of float32 comes out as its largest number."""
    tensors = columns(sites)
    for operator in OPERATORS[:3]:
        for backend in ("numba", "chunked"):
            finite(operator, tensors, backend)
    # The matrix state itself is float32: q, k and v of 1e6 and 1/eta leave its range from about 1e-20 on.
    tensors = tensors | {"absorption": tensors["absorption"].clamp_min(1e-12)}
    for operator in (OPERATORS[-1], MODULUS):
        finite(operator, tensors, "numba")


def test_results_beyond_float32_are_its_largest_numbers():
    absorption = torch.full((1, 1, 1), 1.5e-45)  # a subnormal: 1/eta is 7e44
    largest = torch.finfo(torch.float32).max
    for backend in ("numba", "chunked"):
        green, _ = surface_green(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), absorption, backend=backend)
        assert green.imag.item() == largest
        assert green.real.item() == 0
    # And those of a state, from which the chain must go on.
    site = {"potential": torch.zeros(1, 1, 1), "hopping": torch.ones(1, 1, 1), "absorption": absorption}
    one = torch.ones(1, 1, 1, 1)
    for operator in (propagate, propagate_modulus):
        for backend in ("numba", "chunked"):
            _, (green, _) = operator(one, one, one, **site, backend=backend)
            assert green.imag.item() == largest


@pytest.mark.parametrize("operator", [*CAUSAL, MODULUS], ids=lambda operator: operator.name)
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_large_state_stays_finite(operator, backend):
    tensors = draw(operator, 6, dtype=torch.float32, state=True)
    leaves = leaves_of({name: 1e6 * x for name, x in tensors.items()})
    outputs = operator.run(leaves, backend)
    for tensor in (*outputs, *gradients(outputs, leaves)):
        assert tensor.isfinite().all()
