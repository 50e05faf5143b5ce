"""The three gradients of a layer: equal values; exact and autograd agree, diagonal is the site's own share."""

import pytest
import torch
from torch.testing import assert_close

from resnet_bk import ops
from resnet_bk.layers.gradients import GRADIENTS, propagate, propagate_modulus, propagate_vector
from resnet_bk.ops.unit_query_key import unit_length


def propagate_delta(query, key, value, erase, *chain, **how):
    return propagate_modulus(query, key, value, *chain, erase=erase, **how)


RUN = {"vector": propagate_vector, "matrix": propagate, "modulus": propagate_modulus, "delta": propagate_delta}
every_rule = pytest.mark.parametrize("rule", RUN)


def inputs(rule, length=40):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(2, length, 3, *shape, dtype=torch.float64, generator=generator)

    chain = [randn(), randn().abs() + 0.2, randn().abs() + 0.05]
    sources = [randn()] if rule == "vector" else [randn(4), unit_length(randn(4)), randn(5)]
    if rule == "delta":
        sources.append(randn().sigmoid())
    tensors = [x.requires_grad_() for x in (*sources, *chain)]
    green = torch.complex(chain[0][:, 0], chain[1][:, 0]).detach() * 0.3
    carried = torch.randn(
        2,
        3,
        *(() if rule == "vector" else (4, 5)),
        dtype=torch.complex128 if rule in ("vector", "matrix") else torch.float64,
        generator=generator,
    )
    return tensors, (green, carried)


@every_rule
@pytest.mark.parametrize("with_state", [False, True])
def test_values_are_the_same(rule, with_state):
    tensors, state = inputs(rule)
    results = {}
    for gradient in GRADIENTS:
        with ops.record_backends() as seen:
            results[gradient] = RUN[rule](
                *tensors, initial_state=state if with_state else None, backend="auto", gradient=gradient
            )
        ran = {"exact": "numba", "diagonal": "diagonal", "autograd": "reference"}[gradient]
        assert set.union(*seen.values()) == {ran}
    for gradient in GRADIENTS[1:]:
        assert_close(results[gradient], results["exact"], rtol=1e-9, atol=1e-9)


@every_rule
def test_exact_is_autograd_and_diagonal_is_not(rule):
    found = {}
    for gradient in GRADIENTS:
        tensors, state = inputs(rule)
        output, _ = RUN[rule](*tensors, initial_state=state, backend="auto", gradient=gradient)
        found[gradient] = torch.autograd.grad(
            (output.real * torch.linspace(0, 1, 40).view(1, -1, *[1] * (output.ndim - 2))).sum(), tensors
        )
    assert_close(found["exact"], found["autograd"], rtol=1e-8, atol=1e-8)
    sources, chain = slice(0, -3), slice(-3, None)
    # What the chain carries is linear in its sources, and nothing is missing there.
    assert_close(found["diagonal"][sources], found["exact"][sources], rtol=1e-8, atol=1e-8)
    for diagonal, exact in zip(found["diagonal"][chain], found["exact"][chain], strict=True):
        assert (diagonal - exact).norm() > 0.05 * exact.norm()


@every_rule
def test_diagonal_is_the_derivative_with_the_neighbour_held_fixed(rule):
    """At the last site nothing comes after, so that its own share is the whole derivative."""
    found = {}
    for gradient in ("exact", "diagonal"):
        tensors, _ = inputs(rule)
        output, _ = RUN[rule](*tensors, initial_state=None, backend="auto", gradient=gradient)
        found[gradient] = torch.autograd.grad(output[:, -1].real.sum(), tensors[-3:])
    for diagonal, exact in zip(found["diagonal"], found["exact"], strict=True):
        assert_close(diagonal[:, -1], exact[:, -1], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(diagonal[:, -2], exact[:, -2])


@every_rule
def test_an_unknown_gradient_is_refused(rule):
    with pytest.raises(ValueError, match=r"^gradient must be one of exact, diagonal, autograd, but got 'diagonl'; "):
        RUN[rule](*inputs(rule)[0], initial_state=None, backend="auto", gradient="diagonl")
