"""The gates that mix the heads of a pointer with the softmax of the vocabulary (`resnet_bk.layers.pointer`).

Shape legend: B batch, T tokens, D hidden size, H heads of the pointer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

# The vocabulary begins with e^3 times the weight of a head.
VOCABULARY_BIAS = 3.0


class PointerGates(nn.Module):
    """Logits of the gates, W x / sqrt(D) + c, with x the hidden state: that of the vocabulary first, then the heads'.

    Where hidden states are normed, x is as long as sqrt(D), and without the factor a step of the optimizer would move
    the gates sqrt(D) times as far: within twenty steps they would leave most words to the pointer, which proposes the
    frequent ones before the vocabulary has learned any, and a softmax that predicts no word learns none. As for chains
    (`ChainProjection`), optimizers take the weight for no hidden matrix.

    Args:
        hidden_size: D.
        num_heads: H.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1 + num_heads, hidden_size))
        self.bias = nn.Parameter(torch.empty(1 + num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Weights N(0, std), the bias of the vocabulary as above and those of the heads 0."""
        init.normal_(self.weight, std=std)
        # Whole: transformers would not know of a part that it has been loaded.
        init.copy_(self.bias, torch.tensor([VOCABULARY_BIAS, *[0.0] * (len(self.bias) - 1)]))

    def extra_repr(self) -> str:
        return f"hidden_size={self.weight.shape[1]}, num_heads={len(self.bias) - 1}"

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T, 1 + H], in the dtype of the input whatever that of the weights."""
        weight, bias = self.weight.to(hidden.dtype), self.bias.to(hidden.dtype)
        return F.linear(hidden, weight * hidden.shape[-1] ** -0.5, bias)
