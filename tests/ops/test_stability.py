"""Long chains, weak absorption, extreme sizes: the compiled kernels in float32 against float64 and against LAPACK.

A dense oracle of 65,537 sites does not exist; the float64 kernels stand in, after they have been held against LAPACK's
banded solver at full length here and against the dense oracle in `test_operators.py`.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_banded

from resnet_bk.ops import propagate_vector, resolvent_diagonal, surface_green
from tests.ops.cases import CAUSAL, OPERATORS, draw, each_backend, each_operator, gradients, relative_error
from tests.ops.cases import with_gradients as leaves_of

LONG, LONGEST = 65_537, 1_048_576
SPECTRA = ("random", "band", "disorder", "gap", "edge")


def chain(operator, sites, spectrum, absorption, **options):
    """Chains of hopping 1 with energies inside the band |a| < 2, outside it, at its edge; and disordered ones."""
    tensors = draw(operator, sites, batch=1, **options)
    noise = tensors["potential"]
    if spectrum != "random":
        tensors["hopping"] = torch.ones_like(noise)
    tensors["potential"] = {
        "random": noise,
        "band": 0.3 + 0.01 * noise,
        "disorder": noise,
        "gap": 3 + 0.1 * noise,
        "edge": torch.full_like(noise, 2.0),
    }[spectrum]
    tensors["absorption"] = torch.full_like(noise, absorption)
    return tensors


def condition(tensors):
    """|A| |G| <= (max |a| + 2 max b + max eta) / min eta."""
    a, b, eta = (tensors[name] for name in ("potential", "hopping", "absorption"))
    return ((a.abs().max() + 2 * b.max() + eta.max()) / eta.min()).item()


def compare(operator, tensors, backend="numba"):
    single = leaves_of({name: x.float() for name, x in tensors.items()})
    double = leaves_of({name: x.double() for name, x in single.items()})
    outputs, exact = operator.run(single, backend), operator.run(double, "numba")
    # Rounding the inputs once already moves the result by eps times the condition number: no algorithm that works in
    # float32 can promise less. (Worst seen: a third of it, at the band edge.)
    tolerance = torch.finfo(torch.float32).eps * max(condition(tensors), 30)
    pairs = zip((*outputs, *gradients(outputs, single)), (*exact, *gradients(exact, double)), strict=True)
    for actual, expected in pairs:
        assert relative_error(actual, expected) < tolerance


@each_operator
@pytest.mark.parametrize(
    ("spectrum", "absorption"), [("random", 1e-1), ("random", 1e-3), ("band", 1e-3), ("edge", 1e-3)]
)
def test_float32_of_65537_sites(operator, spectrum, absorption):
    compare(operator, chain(operator, LONG, spectrum, absorption, chains=1))


@pytest.mark.parametrize("operator", OPERATORS[:3], ids=lambda operator: operator.name)
@pytest.mark.parametrize("spectrum", ["random", "band"])
def test_float32_of_1048576_sites(operator, spectrum):
    compare(operator, chain(operator, LONGEST, spectrum, 1e-3, chains=1))


@each_backend
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_near_singular(operator, backend, spectrum):
    """eta = 1e-3, also where the energy lies in the band."""
    compare(operator, chain(operator, 70, spectrum, 1e-3), backend)


@pytest.mark.parametrize("spectrum", ["random", "band", "edge"])
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


@pytest.mark.parametrize("spectrum", ["random", "band", "disorder"])
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


SIZES = (st.floats(-6, 6) | st.sampled_from([-6.0, 0.0, 6.0])).map(lambda exponent: 10.0**exponent)
SITE = st.tuples(SIZES, SIZES | st.just(0.0), SIZES, SIZES, st.booleans())


@given(sites=st.lists(SITE, min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_sizes_from_1e_6_to_1e6_stay_finite(sites):
    """Any mixture of potentials, hoppings, absorptions and sources of these sizes: results and gradients in float32."""
    a, b, eta, u, negative = (
        torch.tensor(column)[None, :, None].expand(1, -1, 2) for column in zip(*sites, strict=True)
    )
    a = torch.where(negative, -a, a)
    for operator in OPERATORS:
        tensors = {"potential": a, "hopping": b, "absorption": eta, "source": u}
        tensors |= {name: u[..., None].expand(1, -1, 2, 2) for name in ("query", "key", "value")}
        leaves = leaves_of({name: tensors[name].float() for name in operator.inputs})
        outputs = operator.run(leaves, "numba")
        for tensor in (*outputs, *gradients(outputs, leaves)):
            assert tensor.isfinite().all(), operator.name
        for backend in ("chunked", "reference"):
            with torch.no_grad():
                assert all(y.isfinite().all() for y in operator.run(leaves, backend)), (operator.name, backend)


@pytest.mark.parametrize("operator", CAUSAL, ids=lambda operator: operator.name)
def test_large_state_stays_finite(operator):
    tensors = draw(operator, 6, dtype=torch.float32, state=True)
    leaves = leaves_of({name: 1e6 * x for name, x in tensors.items()})
    outputs = operator.run(leaves, "numba")
    for tensor in (*outputs, *gradients(outputs, leaves)):
        assert tensor.isfinite().all()
