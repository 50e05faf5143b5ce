"""From the complex state of the chains back to the residual stream.

Shape legend: B batch, T tokens, D hidden size, C complex numbers read a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Readout(nn.Module):
    """out = W [Re y; Im y], optionally with y times SiLU(G x), x the token that reads.

    Both parts are read, each with its own weights: the phase of the propagator carries how far away a token is, and a
    learned mixture of the two parts picks the phase it wants. There is no norm on y: its amplitude says how much
    has arrived, and a norm would hide that.

    Args:
        hidden_size: D.
        channels: C.
        gate: have the gate G.
    """

    def __init__(self, hidden_size: int, channels: int, *, gate: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, channels, bias=False) if gate else None
        self.out_proj = nn.Linear(2 * channels, hidden_size, bias=False)

    def forward(self, y: Tensor, hidden: Tensor, readers: Tensor | None = None) -> Tensor:
        """Reads complex [B, T, C] for tokens [B, T, D]; returns [B, T, D] in the precision of the model.

        With `readers`, int64 [M], places in the rows laid end to end, only those tokens read: [M, D].
        """
        if readers is not None:
            y, hidden = (x.flatten(0, 1).index_select(0, readers) for x in (y, hidden))
        parts = torch.view_as_real(y)
        if self.gate_proj is not None:
            parts = parts * F.silu(self.gate_proj(hidden)).unsqueeze(-1)
        return self.out_proj(parts.flatten(-2).to(self.out_proj.weight.dtype))
