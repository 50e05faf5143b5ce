"""From the complex state of the chains back to the residual stream.

Shape legend: B batch, T tokens, D hidden size, C complex numbers read a token.
"""

import torch
from torch import Tensor, nn

from resnet_bk.layers.output_gate import get_gate


class Readout(nn.Module):
    """out = W [Re y; Im y], optionally with y times g(G x), x the token that reads.

    Both parts are read, each with its own weights: the phase of the propagator carries how far away a token is, and a
    learned mixture of the two parts picks the phase it wants. There is no norm on y: its amplitude says how much
    has arrived, and a norm would hide that.

    Args:
        hidden_size: D.
        channels: C.
        gate: name of g in `resnet_bk.layers.output_gate`; "none" leaves it out.
        num_heads: whose channels lie side by side, as many of each; a channel with a chain of its own is no head.
    """

    def __init__(self, hidden_size: int, channels: int, *, gate: str, num_heads: int = 1) -> None:
        super().__init__()
        self.gate = get_gate(gate)
        self.gate_proj = nn.Linear(hidden_size, channels, bias=False) if self.gate else None
        self.out_proj = nn.Linear(2 * channels, hidden_size, bias=False)
        if num_heads > 1:  # for "muon-parts"
            self.out_proj.input_parts = (2 * channels // num_heads,) * num_heads  # type: ignore[assignment]
            if self.gate_proj is not None:
                self.gate_proj.output_parts = (channels // num_heads,) * num_heads  # type: ignore[assignment]

    def forward(self, y: Tensor, hidden: Tensor, readers: Tensor | None = None) -> Tensor:
        """Reads complex [B, T, C] for tokens [B, T, D]; returns [B, T, D] in the precision of the model.

        With `readers`, int64 [M], places in the rows laid end to end, only those tokens read: [M, D].
        """
        if readers is not None:
            y, hidden = (x.flatten(0, 1).index_select(0, readers) for x in (y, hidden))
        parts = torch.view_as_real(y)
        if self.gate is not None and self.gate_proj is not None:
            parts = self.gate(parts, self.gate_proj(hidden).unsqueeze(-1))
        return self.out_proj(parts.flatten(-2).to(hidden.dtype))
