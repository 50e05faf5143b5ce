"""How long the chains of a model remember: absorption, place of the potential in the band, decay of the propagator.

Shape legend: B batch, T tokens, H chains of a layer.

The transmission from site t - 1 to t is b_t L_t, and the propagator from j to t is a product of such factors, so along
a text its size falls by exp(mean of log |b_t L_t|) a site. The inverse of that rate, times the tokens of the text that
there are to a site (1 but for shorter scales and sparse chains), is the memory of a chain in tokens.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from resnet_bk import ops
from resnet_bk.layers import Chain, ChainProjection
from resnet_bk.layers.seed_block import SeedChain
from resnet_bk.training.mode import evaluation_mode

QUANTILES = (0.1, 0.5, 0.9)


def has_chains(model: Any) -> bool:
    """Whether a model has chains whose time scales can be measured."""
    return bool(_projections(model))


def _projections(model: Any) -> list[tuple[str, Any]]:
    """Modules that make a chain of the tokens, with their names."""
    return [(name, part) for name, part in model.named_modules() if isinstance(part, ChainProjection | SeedChain)]


@torch.no_grad()
def time_scales(model: Any, input_ids: Tensor) -> list[dict[str, Any]]:
    """What the chains of every layer do on a text; empty for a model without chains (`has_chains`).

    Args:
        model: a causal LM of `transformers`.
        input_ids: int64 [B, T], T at least 2.

    Returns:
        A dict a layer: its name and number of chains; `absorption` and `energy` (potential over half band width, a/2b:
        within +-1 lies the band) as 10%, 50% and 90% quantiles over sites and chains; and for each chain `in_band`, the
        share of its sites inside the band, and `memory`, in tokens (see the head of this file), None where nothing
        decays.
    """
    chains: dict[str, list[Chain]] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Chain) -> None:
            chains.setdefault(name, []).append(output)

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in _projections(model)]
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    try:
        # Row by row: where chains have removed sites, shorter ones would be filled up to the length of others.
        with evaluation_mode(model):
            for row in input_ids.to(model.device).split(1):
                model(input_ids=row, use_cache=False, **last)
    finally:
        for hook in hooks:
            hook.remove()
    return [_layer(name, chain, input_ids.numel()) for name, chain in chains.items()]


def _layer(name: str, chains: list[Chain], tokens: int) -> dict[str, Any]:
    rates = []
    for chain in chains:
        potential, hopping, absorption = (part.float() for part in chain)
        green, _ = ops.surface_green(potential, hopping, absorption)
        rates.append(-(hopping * green.abs())[:, 1:].log().flatten(0, 1))
    potential, hopping, absorption = (torch.cat(parts, dim=1).float() for parts in zip(*chains, strict=True))
    energy = potential / (2 * hopping)
    spacing = tokens / potential.shape[1]  # tokens to a site
    return {
        "layer": name,
        "chains": potential.shape[2],
        "absorption": _quantiles(absorption),
        "energy": _quantiles(energy),
        "in_band": (energy.abs() < 1).float().mean((0, 1)).tolist(),
        "memory": [spacing / value if value > 0 else None for value in torch.cat(rates).mean(0).tolist()],
    }


def _quantiles(values: Tensor) -> list[float]:
    return torch.quantile(values.flatten(), torch.tensor(QUANTILES, device=values.device)).tolist()
