"""Chains whose energies lie in the band of an undisturbed chain, at its edges and outside, ordered and disordered."""

import torch
from torch import Tensor

from tests.ops.cases import Operator, draw

# Potential from noise of size 1. All but "random" have hopping 1, and so the band |a| < 2.
SPECTRA = {
    "random": lambda noise: noise,
    "disorder": lambda noise: noise,
    "noisy": lambda noise: 0.3 + 0.01 * noise,
    "centre": torch.zeros_like,
    "band": lambda noise: torch.full_like(noise, -0.77),
    "near": lambda noise: torch.full_like(noise, 1.9),
    "edge": lambda noise: torch.full_like(noise, 2.0),
    "low-edge": lambda noise: torch.full_like(noise, -2.0),
    "gap": lambda noise: 3 + 0.1 * noise,
}


def chain(operator: Operator, sites: int, spectrum: str, absorption: float, **options) -> dict[str, Tensor]:
    """Inputs of an operator, one batch row: the given spectrum and absorption, all else drawn."""
    tensors = draw(operator, sites, batch=1, **options)
    noise = tensors["potential"]
    if spectrum != "random":
        tensors["hopping"] = torch.ones_like(noise)
    tensors["potential"] = SPECTRA[spectrum](noise)
    tensors["absorption"] = torch.full_like(noise, absorption)
    return tensors


def resonant(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with a source that turns with the chain: psi grows for 1/eta sites, and its rounding errors line up."""
    a = tensors["potential"]
    turn = torch.arccos((a[:, :1] / 2).clamp(-1, 1))
    wave = torch.cos(turn * torch.arange(a.shape[1])[None, :, None]).to(a.dtype)
    if "source" in tensors:
        return tensors | {"source": wave}
    value = wave[..., None].expand_as(tensors["value"]).clone()
    return tensors | {"key": torch.ones_like(tensors["key"]), "value": value}
