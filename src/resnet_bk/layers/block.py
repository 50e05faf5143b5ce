"""The residual block.

Shape legend: B batch, T tokens, D hidden size.
"""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.feed_forward import SwiGLU
from resnet_bk.layers.mixer import MixerState
from resnet_bk.layers.moe import SparseMoE
from resnet_bk.layers.registry import get_mixer


class ResNetBKBlock(GradientCheckpointingLayer):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)): the pre-norm block of Llama with another mixer.

    The block is a function of its arguments: the state goes in and comes out, so that gradient checkpointing may run it
    twice.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = get_mixer(config.state).from_config(config)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward: SwiGLU | SparseMoE
        if config.num_experts:
            self.feed_forward = SparseMoE(
                config.hidden_size, config.intermediate_size, config.num_experts, config.num_experts_per_tok
            )
        else:
            self.feed_forward = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self, hidden: Tensor, boundaries: Boundaries | None = None, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState, Tensor | None]:
        """[B, T, D] to [B, T, D], with the mixer's state and the load-balancing loss (None for a dense block)."""
        mixed, state = self.mixer(self.mixer_norm(hidden), boundaries, state)
        hidden = hidden + mixed
        normed = self.feed_forward_norm(hidden)
        if isinstance(self.feed_forward, SparseMoE):
            output, aux_loss = self.feed_forward(normed, boundaries)
            return hidden + output, state, aux_loss
        return hidden + self.feed_forward(normed), state, None
