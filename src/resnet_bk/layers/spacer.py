"""Transparent sites: they fill a row up to the length of the others, and hand on its state as it was.

Rows from which different numbers of tokens were taken (`resnet_bk.layers.selection`) are filled up on the right. What
an operator returns as the state after the last site is to be the state after the last token, so the sites of the
filling must undo each other. With hopping 1, no absorption and no source, site t does

    L -> M_a(L) = 1 / (a - L),        S -> M_a(L) S

and M_a, as the 2x2 matrix [[0, 1], [-1, a]], turns by theta, a = 2 cos(theta): a signal in the band of the chain. Where
theta divides pi it comes back:

    a = 0, two sites      L -> -1/L -> L                      S -> (-1/L) L S                          = -S
    a = 1, three sites    L -> 1/(1 - L) -> (L - 1)/L -> L    S -> 1/(1 - L) (L - 1)/L L S             = -S

Both give L back and S with the other sign (S itself, where the state takes |L| in the place of L). Pairs and one triple
make up every number from two on, so nothing has to be known to the operators, whatever their backend. The sites are not
quite without absorption, for the operators want it above 0: 1e-30, which is nothing beside any L that can be (|L| >=
1e-15 or so for inputs up to 1e6).

Triton's kernels cut long chains into pieces and sum up each piece as a chain of its own. A piece that is nothing but
filling is a chain with a state exactly at its energy, and its Green's function is of the size of 1e30: what should
cancel there does not. So "auto" takes `chunked` on a GPU for rows that are filled up (`backend_for`).

A row without a single token has perhaps no state at all (L = 0, and -1/L would be infinite): its filling is cut off
(hopping 0, absorption 1), and its state is not taken from the operator.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ABSORPTION = 1e-30


@dataclass(frozen=True)
class Spacer:
    """The filling of one selection.

    Attributes:
        potential, hopping, absorption: of a site of the filling, float32 [B, N, 1]; without meaning elsewhere.
        sign: what the filling does to the carried state, +1 or -1, float32 [B].
        filled: False for rows that hold nothing but filling, bool [B].
    """

    potential: Tensor
    hopping: Tensor
    absorption: Tensor
    sign: Tensor
    filled: Tensor


def backend_for(backend: str, *, filled: bool, device: torch.device) -> str:
    """The backend of an operator, for a chain whose rows are filled up or not; see the head of this file."""
    return "chunked" if backend == "auto" and filled and device.type == "cuda" else backend


def spacer(counts: Tensor, width: int) -> Spacer:
    """The filling of rows with `counts` tokens, int64 [B], in `width` places; none, or at least two, are to fill."""
    missing = width - counts
    place = torch.arange(width, device=counts.device) - counts.unsqueeze(1)  # of the filling, from 0
    odd = (missing % 2).unsqueeze(1)
    filled = counts > 0
    triple = (odd == 1) & (place < 3) & filled.unsqueeze(1)
    groups = torch.where(missing % 2 == 1, 1 + (missing - 3) // 2, missing // 2)
    real = filled.float().view(-1, 1, 1).expand(-1, width, 1)
    return Spacer(
        potential=triple.float().unsqueeze(-1),
        hopping=real,
        absorption=real.masked_fill(real == 1, ABSORPTION).masked_fill(real == 0, 1.0),
        sign=(1 - 2 * (groups % 2)).float(),
        filled=filled,
    )
