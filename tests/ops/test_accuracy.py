"""float32 results and gradients against float64 on the same, float32-rounded inputs: at most 1e-5 apart.

The compiled kernels in float64 stand in for an oracle: no dense one of 65,537 sites exists, and they are held against
the dense oracle in `test_operators.py` and against LAPACK in `test_stability.py`.

Tolerances. Where all of a chain is float64 and results are rounded once, 2 eps are asked for (one rounding is eps / 2,
relative to the largest entry). The matrix state is float32: every site rounds it by up to eps / 2, and it lives for
2 / eta sites in mid-band, so that sqrt(2000) eps / 2 = 3e-6 is what independent roundings come to at eta = 1e-3.
"""

import pytest
import torch

from benchmarks.inputs import condition
from tests.ops.cases import OPERATORS, each_backend, each_operator, gradients, relative_error, with_gradients
from tests.ops.spectra import SPECTRA, chain, resonant

LONG, LONGEST = 65_537, 1_048_576
EPS = torch.finfo(torch.float32).eps
PROMISED = 1e-5
PROPAGATE = OPERATORS[-1]


def errors(operator, tensors, backend="numba"):
    """Name of each result or gradient -> largest error in units of its largest entry; NaN where one is NaN."""
    single = with_gradients({name: x.float() for name, x in tensors.items()})
    double = with_gradients({name: x.detach().double() for name, x in single.items()})
    outputs, exact = operator.run(single, backend), operator.run(double, "numba")
    assert all(y.dtype == torch.complex64 for y in outputs)
    found = {f"output {i}": relative_error(y, z) for i, (y, z) in enumerate(zip(outputs, exact, strict=True))}
    bars = zip(tensors, gradients(outputs, single), gradients(exact, double), strict=True)
    return found | {name: relative_error(g, h) for name, g, h in bars}


def promised(operator):
    return PROMISED if operator is PROPAGATE else 2 * EPS


@each_operator
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_65537_sites(operator, spectrum):
    found = errors(operator, chain(operator, LONG, spectrum, 1e-3, chains=1))
    assert all(error < promised(operator) for error in found.values()), found


@each_operator
@pytest.mark.parametrize("absorption", [1e-2, 1.0])
def test_more_absorption(operator, absorption):
    found = errors(operator, chain(operator, LONG, "disorder", absorption, chains=1))
    assert all(error < promised(operator) for error in found.values()), found


@pytest.mark.parametrize("operator", OPERATORS[:3], ids=lambda operator: operator.name)
@pytest.mark.parametrize("spectrum", ["disorder", "centre", "edge"])
def test_1048576_sites(operator, spectrum):
    found = errors(operator, chain(operator, LONGEST, spectrum, 1e-3, chains=1))
    assert all(error < 2 * EPS for error in found.values()), found


def test_1048576_sites_of_a_matrix_state():
    found = errors(PROPAGATE, chain(PROPAGATE, LONGEST, "near", 1e-3, chains=1))
    assert all(error < PROMISED for error in found.values()), found


@pytest.mark.parametrize("operator", OPERATORS[2:], ids=lambda operator: operator.name)
@pytest.mark.parametrize("spectrum", ["centre", "band", "near", "edge"])
def test_resonant_sources(operator, spectrum):
    found = errors(operator, resonant(chain(operator, LONG, spectrum, 1e-3, chains=1)))
    if operator is PROPAGATE and spectrum == "centre":
        # At the centre of the band, where L = i, the state repeats itself every 4 sites, and so do its roundings: 2000
        # sites of up to eps / 2. The gradient of the hopping vanishes there to first order: what is left of two terms
        # that are 20 times as large.
        assert found.pop("hopping") < 1e-4
    assert all(error < promised(operator) for error in found.values()), found


@each_backend
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_near_singular(operator, backend, spectrum):
    """eta = 1e-3 on every backend."""
    tensors = chain(operator, 70, spectrum, 1e-3)
    found = errors(operator, tensors, backend)
    # The definition runs in the precision of its inputs: rounding these once already moves the result by eps times the
    # condition number. (Worst seen: a third of it, at the band edge.)
    tolerance = EPS * condition(tensors) if backend == "reference" else promised(operator)
    assert all(error < tolerance for error in found.values()), found


@each_operator
def test_1025_sites_in_plain_pytorch(operator):
    for spectrum in ("disorder", "centre", "edge"):
        found = errors(operator, chain(operator, 1025, spectrum, 1e-3), "chunked")
        assert all(error < promised(operator) for error in found.values()), found


@each_operator
def test_many_disordered_chains(operator):
    """A kept state that were rounded to float32 would show where the next site is in resonance: 1/L is small there."""
    found = errors(operator, chain(operator, 4096, "disorder", 1e-3, chains=16))
    assert all(error < promised(operator) for error in found.values()), found
