"""The chain that a mixer learns: potential, hopping and absorption of every site, projected from the token.

Shape legend: B batch, T tokens, D hidden size, H chains (heads or channels).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk.layers import induction
from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.precision import KeepsFloat32
from resnet_bk.ops.dispatch import full_precision


class Chain(NamedTuple):
    """Real float32 (float64 for float64 input) tensors [B, T, H], as `resnet_bk.ops` takes them."""

    potential: Tensor
    hopping: Tensor
    absorption: Tensor


class ChainProjection(KeepsFloat32):
    """Projects a token to its site of H chains. With x the hidden state times site_gain over sqrt(D), of length
    site_gain where it is normed:

        potential  a = w_a x + c_a
        hopping    b = softplus(w_b x + c_b)                       > 0
        absorption eta = absorption_min + softplus(w_eta x + c_eta)  > absorption_min

    The learned biases c hold what a chain is like on average, the projections how a token bends it. At the start
    (weights N(0, 0.02)) tokens differ by 0.02 and pass a nearly periodic chain. They must not differ by much: where the
    energies of sites are random, with a standard deviation s, a chain in its band lets through exp(-s^2 / (8 b^2
    sin^2 theta)) a site, even without absorption. That is Anderson localisation (Thouless, J. Phys. C 5, 77, 1972), and
    random hoppings do the same. At s = 0.3 1/e is left after 90 sites, at s = 0.02 after 20,000. It is why x has
    length 1 by default: of one as long as sqrt(D) a step of an optimizer moves energies sqrt(D) times as far, and a few
    steps localise every chain.

    The biases start at:

    - c_b: b = hopping_init.
    - c_a: energies spread evenly over potential_init, counted in half band widths 2 b. Inside the band, a = 2 b
      cos(theta), an undisturbed chain without absorption multiplies what it carries by exp(i theta) a site: it goes far
      but turns its phase. Beyond the edge, a = 2 b cosh(kappa), it multiplies by exp(-kappa): no phase, and a memory of
      1 / kappa sites. At the edge both fade into each other and a small change of a token's potential lets the past
      through or stops it: there the potential gates best, so (0.9, 1.2) puts the edge inside the range. A chain of
      which only the modulus counts turns nothing, and starts from further inside the band, (0.3, 1.2).
    - c_eta: absorptions log-uniform over absorption_init; in mid-band the amplitude decays by about eta / (2 b
      sin theta) a site. The golden-ratio sequence pairs them with the energies, so that neither rises with the other.

    Softplus is linear for large arguments: no token makes hopping or absorption explode. Everything runs in float32
    whatever the precision of the model: phases accumulate along the chain, and the three digits of a bfloat16 energy
    would smear them within a few sites.

    Args:
        hidden_size: D.
        chains: H.
        potential_init: (low, high) of the potentials at the start, in units of 2 hopping_init.
        absorption_min: floor of the absorption; 1 / absorption_min bounds the resolvent.
        absorption_init: (low, high) of the absorptions at the start, above absorption_min.
        hopping_init: hopping at the start.
        site_gain: how many times as far as by default a token bends its site.
        induction_heads: how many of the chains, the last ones, start with a long memory instead
            (`resnet_bk.layers.induction`).

    Raises:
        ValueError: an absorption at the start that is not above the floor, a hopping at the start that is not above 0,
            more induction heads than chains.
    """

    def __init__(
        self,
        hidden_size: int,
        chains: int,
        *,
        potential_init: tuple[float, float],
        absorption_min: float,
        absorption_init: tuple[float, float],
        hopping_init: float,
        site_gain: float = 1.0,
        induction_heads: int = 0,
    ) -> None:
        super().__init__()
        if not absorption_min < absorption_init[0] <= absorption_init[1]:
            raise ValueError(
                f"absorption_init={absorption_init} must be low and high, both above absorption_min={absorption_min}; "
                f"for example {2 * absorption_min:g}, {max(1.0, 4 * absorption_min):g}"
            )
        if not hopping_init > 0:
            raise ValueError(f"hopping_init={hopping_init} must be above 0, for softplus is; 1 sets the unit of energy")
        if not 0 <= induction_heads <= chains:
            raise ValueError(
                f"induction_heads={induction_heads} must be from 0 to {chains}, the number of chains; lower it, or add "
                "heads"
            )
        self.chains = chains
        self.induction_heads = induction_heads
        self.scale = site_gain * hidden_size**-0.5
        self.potential_init = potential_init
        self.absorption_min = absorption_min
        self.absorption_init = absorption_init
        self.hopping_init = hopping_init
        self.weight = nn.Parameter(torch.empty(3 * chains, hidden_size))
        self.bias = nn.Parameter(torch.empty(3 * chains))
        self.keep_float32()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Weights N(0, std), biases as described above."""
        if self.bias.is_meta:  # nothing to set, and to compute it there takes half of the time of building a model
            return
        init.normal_(self.weight, std=std)
        init.copy_(self.bias, self.initial_bias())

    def extra_repr(self) -> str:
        size = f"hidden_size={self.weight.shape[1]}, chains={self.chains}"
        return f"{size}, absorption_min={self.absorption_min:g}"

    def _energies(self) -> Tensor:
        """a / 2b at the start, float64 [H]: from one bound to the other; a single chain stands in the middle."""
        others = self.chains - self.induction_heads
        index = torch.arange(others, dtype=torch.float64)
        place = index / (others - 1) if others > 1 else index + 0.5
        lowest, highest = self.potential_init
        energies = lowest + (highest - lowest) * place
        return torch.cat([energies, energies.new_full((self.induction_heads,), induction.POTENTIAL)])

    def _absorptions(self) -> Tensor:
        """Those at the start, float64 [H]; of induction heads, bounds below twice the floor are raised to that."""
        low, high = (max(bound, 2 * self.absorption_min) for bound in induction.ABSORPTION)
        others = _log_uniform(*self.absorption_init, self.chains - self.induction_heads)
        return torch.cat([others, _log_uniform(low, high, self.induction_heads)])

    def initial_bias(self) -> Tensor:
        """(c_a, c_b, c_eta) at the start, float32 [3 H]; deterministic."""
        potential = 2 * self.hopping_init * self._energies()
        hopping = torch.full_like(potential, self.hopping_init)
        absorption = self._absorptions() - self.absorption_min
        return torch.cat([potential, _inverse_softplus(hopping), _inverse_softplus(absorption)]).float()

    def project(self, hidden: Tensor) -> Tensor:
        """(a, the argument of the softplus of b, that of eta), [..., 3 H] of tokens [..., D], in float32 or wider."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with full_precision(hidden.device):
            return F.linear(hidden.to(dtype), self.scale * self.weight.to(dtype), self.bias.to(dtype))

    def forward(self, hidden: Tensor, boundaries: Boundaries | None) -> Chain:
        """Sites of the chains of tokens [B, T, D]; the hopping is 0 where `boundaries` cuts the chain."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with full_precision(hidden.device):
            potential, rest = self.project(hidden).split([self.chains, 2 * self.chains], dim=-1)
            hopping, absorption = F.softplus(rest).chunk(2, dim=-1)
            absorption = absorption + self.absorption_min
            if boundaries is not None:
                hopping = hopping * boundaries.keep.to(dtype)
                if boundaries.filling is not None:
                    return _filled_up(Chain(potential, hopping, absorption), boundaries)
            return Chain(potential, hopping, absorption)


def _filled_up(chain: Chain, boundaries: Boundaries) -> Chain:
    """The chain with transparent sites where `boundaries` has no token."""
    assert boundaries.filling is not None
    assert boundaries.real is not None
    token, filling = boundaries.real != 0, boundaries.filling
    sites = (filling.potential, filling.hopping, filling.absorption)
    return Chain(*(torch.where(token, own, site.to(own.dtype)) for own, site in zip(chain, sites, strict=True)))


def _log_uniform(low: float, high: float, count: int) -> Tensor:
    """`count` numbers between the bounds, float64, in the order of the golden ratio: they do not rise with an index."""
    golden = ((torch.arange(count, dtype=torch.float64) + 0.5) * (math.sqrt(5) - 1) / 2) % 1.0
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * golden)


def _inverse_softplus(y: Tensor) -> Tensor:
    """x with log(1 + exp(x)) = y, for y > 0, without overflow."""
    return y + torch.log(-torch.expm1(-y))
