"""What FlopCounterMode counts for the compiled kernels and the vocabulary head."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from resnet_bk.ops import linear_cross_entropy
from tests.ops.cases import KEYS, OPERATORS, VALUES, draw, with_gradients


def count(call):
    with FlopCounterMode(display=False) as forward:
        output = call()
    with FlopCounterMode(display=False) as backward:
        output.abs().sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


SITES = 2 * 7 * 3
MATRIX = (
    SITES * (14 * KEYS * VALUES + 2 * VALUES + 13),
    SITES * (42 * KEYS * VALUES + 8 * VALUES + 24),
)
EXPECTED = {
    "surface_green": (11 * SITES, 32 * SITES),
    "resolvent_diagonal": (32 * SITES, 72 * SITES),
    "propagate_vector": (20 * SITES, 61 * SITES),
    "propagate": MATRIX,
}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_operators(operator):
    tensors = with_gradients(draw(operator, 7, chains=3))
    assert count(lambda: operator.run(tensors, "numba")[0]) == EXPECTED[operator.name]


@pytest.mark.parametrize("name", EXPECTED)
def test_kernels_of_triton_are_counted_alike(name):
    registered = torch.ops.resnet_bk
    for suffix in ("", "_backward"):
        numba, triton = getattr(registered, f"{name}{suffix}"), getattr(registered, f"{name}_triton{suffix}")
        assert flop_registry[triton] is flop_registry[numba]


def test_linear_in_the_number_of_sites():
    operator = OPERATORS[-1]
    once, twice = (
        count(lambda sites=sites: operator.run(with_gradients(draw(operator, sites)), "numba")[0])
        for sites in (64, 128)
    )
    assert twice == (2 * once[0], 2 * once[1])


@pytest.mark.parametrize(
    ("reduction", "frozen", "expected"),
    [("mean", False, (3, 0)), ("none", False, (1, 3)), ("mean", True, (2, 0)), ("none", True, (1, 2))],
)
def test_head(reduction, frozen, expected):
    """Gradients of a mean are formed in the forward pass; those of single losses need a second sweep."""
    x, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=not frozen)
    target = torch.arange(7)
    counted = count(lambda: linear_cross_entropy(x, weight, target, reduction=reduction))
    assert counted == tuple(matmuls * 2 * 7 * 5 * 11 for matmuls in expected)
