"""The block of the earlier system: experts, then the diagonal of a resolvent as the only mixing of tokens.

Shape legend: B batch, T tokens, D hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from resnet_bk import ops
from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.chain import Chain
from resnet_bk.layers.seed_moe import SeedMoE
from resnet_bk.ops.precision import at_least_float32

# The free chain H0 = tridiag(1, -2, 1) and the spectral shift z = i.
FREE_POTENTIAL, HOPPING, ABSORPTION = -2.0, 1.0, 1.0


class SeedChain(nn.Module):
    """H - z = tridiag(1, v - 2, 1) - i with v = w x + c, clamped to +-potential_clamp.

    Only the potential is learned. `resnet_bk.ops` writes the hopping as -b: conjugation by diag(1, -1, 1, ...) turns
    one sign into the other and leaves every diagonal entry as it is, so b = 1.

    Args:
        hidden_size: D.
        potential_clamp: largest |v|; beyond it v has no gradient.
    """

    def __init__(self, hidden_size: int, potential_clamp: float) -> None:
        super().__init__()
        self.potential_clamp = potential_clamp
        self.proj = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor, boundaries: Boundaries | None) -> Chain:
        """One chain over tokens [B, T, D]: float32 (float64 for float64) [B, T, 1] each.

        The hopping is 0 before every token where `boundaries` cuts, and before every token of padding: seen from both
        sides a chain must end where the padding begins, too.
        """
        v = at_least_float32(self.proj(hidden))
        v = v.clamp(-self.potential_clamp, self.potential_clamp)
        hopping = torch.full_like(v, HOPPING)
        if boundaries is not None:
            hopping = hopping * boundaries.keep.to(v.dtype)
            if boundaries.real is not None:
                hopping = hopping * boundaries.real.to(v.dtype)
        return Chain(v + FREE_POTENTIAL, hopping, torch.full_like(v, ABSORPTION))


def seed_green(chain: Chain, *, green: str, gradient: str, backend: str) -> Tensor:
    """Green's function of every site, complex [B, T, 1].

    "two_sided" is G_tt of the whole chain, which depends on tokens after t; "surface" is L_t of the chain up to t. Both
    are analytic in the potential, and their exact gradient (gradient="exact") is that of the operator:

        dG_tt/da_j = -G_tj G_jt                dL_t/da_j = -(Gamma_tj)^2

    The earlier system kept j = t alone (gradient="diagonal"):

        dG_tt/da_t = -G_tt^2                   dL_t/da_t = -L_t^2

    Args:
        chain: [B, T, 1] each.
        green: "two_sided" or "surface".
        gradient: "exact" or "diagonal".
        backend: of the operator.
    """
    if gradient == "exact":
        return _operator(chain, green, backend)
    with torch.no_grad():
        value = _operator(chain, green, backend)
    # The difference is zero: the value stays bit for bit, and its slope in the potential is -value^2.
    return value - value * value * (chain.potential - chain.potential.detach())


def _operator(chain: Chain, green: str, backend: str) -> Tensor:
    if green == "two_sided":
        return ops.resolvent_diagonal(*chain, backend=backend)
    return ops.surface_green(*chain, backend=backend)[0]


class SeedBlock(GradientCheckpointingLayer):
    """x + f + s (W [Re G; Im G] + c) with f = experts(LayerNorm(x)), G the Green's function of the potential w f.

    Re G and Im G are clamped to +-green_clamp, as published. With absorption 1 the resolvent is bounded by 1, so a
    clamp of 1 or more never acts. s is one learned number, 1 at the start (the report does not give it).
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.green, self.gradient, self.backend = config.green, config.gradient, config.backend
        self.green_clamp = config.green_clamp
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.experts = SeedMoE(config.hidden_size, config.intermediate_size, config.num_experts)
        self.chain = SeedChain(config.hidden_size, config.potential_clamp)
        self.out_proj = nn.Linear(2, config.hidden_size)
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The scale is 1."""
        init.ones_(self.scale)

    def extra_repr(self) -> str:
        return f"green={self.green}, gradient={self.gradient}, green_clamp={self.green_clamp:g}"

    def forward(self, hidden: Tensor, boundaries: Boundaries | None = None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        features = self.experts(self.norm(hidden))
        green = seed_green(
            self.chain(features, boundaries), green=self.green, gradient=self.gradient, backend=self.backend
        )
        parts = torch.view_as_real(green).flatten(2).clamp(-self.green_clamp, self.green_clamp)
        return hidden + features + self.scale * self.out_proj(parts.to(hidden.dtype))
