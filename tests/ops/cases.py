"""One table of operators and backends that drives the tests, and the inputs they run on.

Shape legend: B batch, T sites, H chains, K key size, V value size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_bk import ops
from resnet_bk.ops import propagate, propagate_modulus, propagate_vector, resolvent_diagonal, surface_green
from tests.ops import oracle

KEYS, VALUES = 3, 5
# `gradgradcheck` along random vectors, not entry by entry. Its tolerance grows with the size of these vectors: the
# default of 1e-5 would let a mistake of a percent pass; differences in float64 are good to 1e-9.
ALONG_VECTORS: dict[str, Any] = {"fast_mode": True, "atol": 1e-8}


def _green(tensors: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
    chain = (tensors["potential"], tensors["hopping"], tensors["absorption"])
    return surface_green(*chain, initial_state=tensors.get("green_in"), backend=backend)


def _diagonal(tensors: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
    return (resolvent_diagonal(**tensors, backend=backend),)


def _pair(tensors: dict[str, Tensor], second: str) -> tuple[Tensor, Tensor] | None:
    return (tensors["green_in"], tensors[second]) if second in tensors else None


def _vector(tensors: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
    chain = (tensors["source"], tensors["potential"], tensors["hopping"], tensors["absorption"])
    state_in = _pair(tensors, "psi_in")
    psi, state = propagate_vector(*chain, initial_state=state_in, backend=backend)
    return (psi, *state)


def _matrix(tensors: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
    names = ("query", "key", "value", "potential", "hopping", "absorption")
    state = _pair(tensors, "memory_in")
    inputs = (tensors[name] for name in names)
    output, state = propagate(*inputs, initial_state=state, backend=backend)
    return (output, *state)


def _modulus(tensors: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
    """What is real as complex numbers, as the others have it."""
    names = ("query", "key", "value", "potential", "hopping", "absorption")
    pair = _pair(tensors, "memory_in")
    state = None if pair is None else (pair[0], pair[1].real)
    inputs = (tensors[name] for name in names)
    output, (green, memory) = propagate_modulus(*inputs, initial_state=state, backend=backend)
    return output.to(green.dtype), green, memory.to(green.dtype)


@dataclass(frozen=True)
class Operator:
    name: str
    run: Callable[[dict[str, Tensor], str], tuple[Tensor, ...]]  # (tensors, backend) -> outputs, the state last
    oracle: Callable[..., tuple[Tensor, ...]] | None
    inputs: tuple[str, ...]
    states: tuple[str, ...]  # names of the parts of the initial state, in the order of the final ones
    causal: bool = True


CHAIN = ("potential", "hopping", "absorption")
OPERATORS = [
    Operator("surface_green", _green, oracle.surface_green, CHAIN, ("green_in",)),
    Operator("resolvent_diagonal", _diagonal, oracle.resolvent_diagonal, CHAIN, (), causal=False),
    Operator("propagate_vector", _vector, oracle.propagate_vector, ("source", *CHAIN), ("green_in", "psi_in")),
    Operator("propagate", _matrix, oracle.propagate, ("query", "key", "value", *CHAIN), ("green_in", "memory_in")),
]
CAUSAL = [operator for operator in OPERATORS if operator.causal]
# Its oracle and the rule that erases are in test_propagate_modulus.
MODULUS = Operator("propagate_modulus", _modulus, None, ("query", "key", "value", *CHAIN), ("green_in", "memory_in"))
WITH_MODULUS = [*OPERATORS, MODULUS]


def _parameters(operators: list[Operator], leave_out: tuple[str, ...] = ()) -> list:
    # Compiled kernels are marked: on tiny inputs they can run uncompiled too, which shows their coverage.
    return [
        pytest.param(operator, backend, id=f"{operator.name}-{backend}", marks=marks)
        for operator in operators
        for backend in ops.available_backends(operator.name, "cpu")
        if backend not in leave_out
        for marks in [[pytest.mark.kernels] if backend == "numba" else []]
    ]


each_backend = pytest.mark.parametrize(("operator", "backend"), _parameters(OPERATORS))
each_causal_backend = pytest.mark.parametrize(("operator", "backend"), _parameters(CAUSAL))
each_fast_backend = pytest.mark.parametrize(("operator", "backend"), _parameters(OPERATORS, ("reference",)))
each_backend_with_modulus = pytest.mark.parametrize(("operator", "backend"), _parameters(WITH_MODULUS))
each_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
with_modulus = pytest.mark.parametrize("operator", WITH_MODULUS, ids=lambda operator: operator.name)


def draw(
    operator: Operator,
    sites: int,
    *,
    batch: int = 2,
    chains: int = 2,
    dtype: torch.dtype = torch.float64,
    state: bool = False,
    low: float = 0.3,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs with potentials of size 1, hoppings in [0.2, 1.2] and absorptions in [low, low + 1].

    Drawn in float64 and rounded to `dtype`, so that the same seed gives the same problem in any precision.
    """
    generator = torch.Generator().manual_seed(1000 * sites + seed)

    def normal(*shape: int, of: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=of)

    grid = (batch, sites, chains)
    uniform = [torch.rand(*grid, generator=generator, dtype=torch.float64) for _ in range(2)]
    tensors = {"potential": normal(*grid), "hopping": 0.2 + uniform[0], "absorption": low + uniform[1]}
    shapes = {"source": grid, "query": (*grid, KEYS), "key": (*grid, KEYS), "value": (*grid, VALUES)}
    for name, shape in shapes.items():
        if name in operator.inputs:
            tensors[name] = normal(*shape)
    tensors = {name: tensors[name].to(dtype) for name in operator.inputs}
    if state:
        shapes = {"psi_in": (batch, chains), "memory_in": (batch, chains, KEYS, VALUES)}
        # A surface Green's function lies in the upper half plane.
        green = torch.complex(normal(batch, chains), normal(batch, chains).abs())
        for name in operator.states:
            part = green if name == "green_in" else normal(*shapes[name], of=torch.complex128)
            tensors[name] = part.to(dtype.to_complex())
    return tensors


def with_gradients(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}


def gradients(outputs: tuple[Tensor, ...], leaves: dict[str, Tensor], seed: int = 1) -> tuple[Tensor, ...]:
    """Gradients of a random real functional of all outputs."""
    generator = torch.Generator().manual_seed(seed)
    bars = [torch.randn(y.shape, generator=generator, dtype=torch.complex128).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, list(leaves.values()), bars, allow_unused=True, materialize_grads=True)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest error in units of the largest entry."""
    actual, expected = actual.detach(), expected.detach()
    wide = torch.promote_types(expected.dtype, torch.float64)
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return ((actual.to(wide) - expected.to(wide)).abs().max() / scale).item()
