"""Chains, and results with their gradients, that the cases share.

Shape legend: B batch, T sites, H chains (heads or channels).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

# Energies for hoppings of 1: inside the band |a| < 2 signals propagate, outside they die out.
INSIDE, OUTSIDE = 0.3, 3.0
# Sites for which the loop that defines an operator is the truth: it takes well under a second in float64.
LOOPED_UP_TO = 256


def chain(
    shape: tuple[int, int, int],
    *,
    absorption: float | None = None,
    energy: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """potential, hopping, absorption [B, T, H], drawn in float32 so that every precision gets the same problem.

    Args:
        shape: B, T, H.
        absorption: the same at every site; None draws it from [0.1, 1.1].
        energy: potentials of `energy` with a little disorder (0.01), and hoppings of 1; None draws potentials of size 1
            and hoppings from [0.2, 1.2].
        dtype: of the result.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape, generator=generator)
    uniform = torch.rand((2, *shape), generator=generator)
    drawn = {
        "potential": noise if energy is None else energy + 0.01 * noise,
        "hopping": 0.2 + uniform[0] if energy is None else torch.ones(shape),
        "absorption": 0.1 + uniform[1] if absorption is None else torch.full(shape, absorption),
    }
    return {name: tensor.to(dtype) for name, tensor in drawn.items()}


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Float32 from a normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def condition(tensors: Mapping[str, Tensor]) -> float:
    """Condition number of the chain's operator: |A| |G| <= (max |a| + 2 max b + max eta) / min eta."""
    a, b, eta = (tensors[name] for name in ("potential", "hopping", "absorption"))
    return ((a.abs().max() + 2 * b.max() + eta.max()) / eta.min()).item()


def float32_tolerance(tensors: Mapping[str, Tensor]) -> float:
    """eps times the condition number: rounding the inputs once already moves the result by as much. At least 30 eps,
    for the sums over a head."""
    return torch.finfo(torch.float32).eps * max(condition(tensors), 30.0)


def leaves(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Copies that take gradients."""
    return {name: tensor.detach().to(dtype, copy=True).requires_grad_() for name, tensor in tensors.items()}


def with_gradients(
    function: Callable[..., Tensor], tensors: Mapping[str, Tensor], cotangent: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The output and the gradient of every input, in `dtype`.

    Args:
        function: tensors as keywords -> output.
        tensors: its inputs.
        cotangent: of the output, in any precision.
        dtype: real; complex outputs have the complex type of the same precision.
    """
    inputs = leaves(tensors, dtype)
    output = function(**inputs)
    grads = torch.autograd.grad(output, list(inputs.values()), cotangent.to(output.dtype))
    named = {f"gradient of {name}": grad for name, grad in zip(inputs, grads, strict=True)}
    return {"output": output.detach()} | named


def truth_backend(sites: int) -> str:
    """The backend that in float64 is the truth: never the compiled kernel, which would pass whatever it does wrong in
    float64 as well. Beyond the lengths of the loop it is plain PyTorch by chunks and scans."""
    return "reference" if sites <= LOOPED_UP_TO else "chunked"


def step(function: Callable[..., Tensor], tensors: Mapping[str, Tensor], cotangent: Tensor) -> Callable[[], object]:
    """Forward and backward as one call, on inputs of its own."""
    inputs = leaves(tensors)
    wanted = list(inputs.values())
    bar: Tensor | None = None

    def run() -> object:
        nonlocal bar
        output = function(**inputs)
        if bar is None:
            bar = cotangent.to(output.dtype)
        return output, torch.autograd.grad(output, wanted, bar)

    return run
