"""Sparse mixture of experts: each token passes through its top k feed-forward networks.

Shape legend: B batch, T tokens, N = B T, D hidden size, I intermediate size, E experts, k experts a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk.layers.precision import InputDtypeLinear
from resnet_bk.ops.dispatch import autocast_enabled, full_precision


class SparseMoE(nn.Module):
    """Top-k routing over SwiGLU experts, with the chosen experts' probabilities normalised to sum to 1 (Mixtral, arXiv
    2401.04088).

    Every token goes to all k experts that it chose: there is no capacity limit, for dropping tokens when an expert is
    full would make a token's output depend on tokens after it. Tokens are sorted by expert and each projection is one
    grouped matmul (`torch.nn.functional.grouped_mm`); float64, which that function lacks, multiplies every token by a
    copy of its expert's matrix: slow, and meant for checks.

    Args:
        hidden_size: D, a multiple of 8 (grouped matmuls need rows of whole 16 bytes).
        intermediate_size: I of one expert, a multiple of 8.
        num_experts: E.
        num_experts_per_tok: k.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int, num_experts_per_tok: int) -> None:
        super().__init__()
        self.num_experts, self.num_experts_per_tok = num_experts, num_experts_per_tok
        self.router = InputDtypeLinear(hidden_size, num_experts, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, hidden_size, 2 * intermediate_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, hidden_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Experts' weights N(0, std)."""
        init.normal_(self.gate_up_proj, std=std)
        init.normal_(self.down_proj, std=std)

    def extra_repr(self) -> str:
        return f"num_experts={self.num_experts}, num_experts_per_tok={self.num_experts_per_tok}"

    def forward(self, hidden: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, T, D] to [B, T, D], and the load-balancing loss, a scalar: float64 for float64, else float32.

        Padding, where `real` [B, T, 1] is 0, takes no part in the loss.
        """
        tokens = hidden.flatten(0, 1)
        # The router decides between near equals: in float32, as in Switch Transformers.
        with full_precision(hidden.device):
            wide = torch.promote_types(hidden.dtype, torch.float32)
            probabilities = self.router(tokens.to(wide)).softmax(dim=-1)
            weights, chosen = probabilities.topk(self.num_experts_per_tok, dim=-1)
            weights = weights / weights.sum(dim=-1, keepdim=True)
        aux_loss = load_balancing_loss(probabilities, chosen, None if real is None else real.flatten())

        # Slots (token, choice) in order of their expert. Each step is a permutation, so that backward adds nothing up.
        order = chosen.flatten().argsort(stable=True)
        ends = expert_ends(chosen.flatten().index_select(0, order), self.num_experts)
        slots = tokens.unsqueeze(1).expand(-1, self.num_experts_per_tok, -1).flatten(0, 1).index_select(0, order)
        gate, up = grouped_linear(slots, self.gate_up_proj, ends).chunk(2, dim=-1)
        slots = grouped_linear(F.silu(gate) * up, self.down_proj, ends)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        slots = slots.index_select(0, back).view(-1, self.num_experts_per_tok, tokens.shape[-1])
        output = (slots * weights.unsqueeze(-1).to(slots.dtype)).sum(dim=1)
        return output.view(hidden.shape), aux_loss


def expert_ends(experts: Tensor, count: int) -> Tensor:
    """Where the slots of each of `count` experts end, int32 [E], of the sorted experts of the slots. A GPU is not
    waited for, as it is by `bincount`."""
    each = torch.arange(count, device=experts.device)
    return torch.searchsorted(experts, each, right=True).to(torch.int32)


# `torch.compile` knows the grouped matmul of bfloat16 alone and refuses the others; so it runs outside the graph.
@torch.compiler.disable
def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Multiplies rows ends[e - 1] to ends[e] of x [rows, D] by weight[e] of [E, D, O]; ends int32 [E]."""
    if x.dtype == torch.float64:
        expert = torch.searchsorted(ends, torch.arange(x.shape[0], dtype=torch.int32, device=x.device), right=True)
        return torch.bmm(x.unsqueeze(1), weight[expert]).squeeze(1)
    if autocast_enabled(x.device):
        # Autocast has no rule for grouped_mm.
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return F.grouped_mm(x, weight, offs=ends)


def load_balancing_loss(probabilities: Tensor, chosen: Tensor, real: Tensor | None = None) -> Tensor:
    """E times the sum over experts of f_e P_e (Switch Transformers, arXiv 2101.03961, equations 4 to 6).

    f_e is the share of the token-expert pairs that chose expert e, P_e the mean probability of expert e. It is 1 when
    both are uniform, whatever k is, and E when one expert takes all. Only P carries a gradient.

    Args:
        probabilities: of the router, [N, E].
        chosen: experts of each token, int64 [N, k].
        real: 1 for a token, 0 for padding, [N]; None counts all.
    """
    experts = probabilities.shape[-1]
    ones = torch.ones_like(chosen, dtype=probabilities.dtype)
    weight = ones if real is None else ones * real.to(ones.dtype).unsqueeze(-1)
    total = weight.sum().clamp(min=1)  # padding alone: 0
    share = probabilities.new_zeros(experts).scatter_add_(0, chosen.flatten(), weight.flatten()) / total
    mean = (probabilities * weight[:, :1]).sum(dim=0) * (chosen.shape[-1] / total)
    return experts * (share * mean).sum()
