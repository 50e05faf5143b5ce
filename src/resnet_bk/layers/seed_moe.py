"""Experts of the earlier system: top-1 routing, two-layer networks with biases.

Shape legend: B batch, T tokens, N = B T, D hidden size, I intermediate size, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk.layers.moe import expert_ends, grouped_linear
from resnet_bk.layers.precision import InputDtypeLinear
from resnet_bk.ops.dispatch import full_precision


class SeedMoE(nn.Module):
    """p_e (W_down ReLU(W_up x + c_up) + c_down) of the likeliest expert e, with p the softmax of a linear gate.

    The number of parameters of the report fixes the biases (E (2 D I + D + I) for the experts, E (D + 1) for the gate),
    its count of 8 D^2 + 2 D operations for an expert with I = 2 D one operation a hidden unit for the activation: ReLU.
    How the chosen expert is weighted it does not say; the probability is the usual choice for top-1 routing (Switch
    Transformers, arXiv 2101.03961), and without it the gate would get no gradient. There is no load-balancing loss and
    no capacity limit.

    Tokens are sorted by expert and each layer is one grouped matmul, as in `resnet_bk.layers.moe`.

    Args:
        hidden_size: D, a multiple of 8.
        intermediate_size: I, a multiple of 8.
        num_experts: E.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.gate = InputDtypeLinear(hidden_size, num_experts)
        self.up_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.up_bias = nn.Parameter(torch.empty(num_experts, intermediate_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, hidden_size))
        self.down_bias = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Experts' weights N(0, std), their biases zero."""
        for weight, bias in ((self.up_proj, self.up_bias), (self.down_proj, self.down_bias)):
            init.normal_(weight, std=std)
            init.zeros_(bias)

    def extra_repr(self) -> str:
        return f"num_experts={self.num_experts}, intermediate_size={self.up_bias.shape[1]}"

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        tokens = hidden.flatten(0, 1)
        # The gate decides between near equals: in float32.
        with full_precision(hidden.device):
            wide = torch.promote_types(hidden.dtype, torch.float32)
            weight, chosen = self.gate(tokens.to(wide)).softmax(dim=-1).max(dim=-1)

        order = chosen.argsort(stable=True)
        expert = chosen.index_select(0, order)
        ends = expert_ends(expert, self.num_experts)
        slots = grouped_linear(tokens.index_select(0, order), self.up_proj, ends)
        slots = F.relu(slots + self.up_bias.to(slots.dtype)[expert])
        slots = grouped_linear(slots, self.down_proj, ends)
        slots = slots + self.down_bias.to(slots.dtype)[expert]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        output = slots.index_select(0, back) * weight.unsqueeze(-1).to(slots.dtype)
        return output.view(hidden.shape)
