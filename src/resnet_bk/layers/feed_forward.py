"""Dense feed-forward network.

Shape legend: B batch, T tokens, D hidden size, I intermediate size.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """W_down (SiLU(W_gate x) * W_up x), the feed-forward network of Llama (Shazeer, arXiv 2002.05202).

    Gate and up projection are one matmul.

    Args:
        hidden_size: D.
        intermediate_size: I.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(hidden_size, 2 * intermediate_size, bias=False)
        # Read by `resnet_bk.training.joint_maps`.
        self.gate_up_proj.output_parts = (intermediate_size, intermediate_size)  # type: ignore[assignment]
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)
