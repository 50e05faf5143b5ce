"""The residual block.

Shape legend: B batch, T tokens, D hidden size, H heads, V value size, M tokens that go on
(`resnet_bk.layers.adaptive`).
"""

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from resnet_bk.layers.boundaries import Boundaries, select_boundaries, without_tokens
from resnet_bk.layers.feed_forward import SwiGLU
from resnet_bk.layers.mixer import MixerState
from resnet_bk.layers.moe import SparseMoE
from resnet_bk.layers.one_token import one_token
from resnet_bk.layers.registry import get_mixer
from resnet_bk.layers.selection import add_rows, fill_up, select, size_step
from resnet_bk.layers.sparse import SiteGate
from resnet_bk.layers.value_residual import ValueResidual


class BlockOutput(NamedTuple):
    """hidden: [B, T, D]; state: of the mixer; balance: the load-balancing loss, None for a dense block and where no
    token is active; share: of the sites that the gate kept, None without a gate; values: of the mixer, [B, T, H, V], of
    a first block whose values others add to theirs."""

    hidden: Tensor
    state: MixerState
    balance: Tensor | None
    share: Tensor | None
    values: Tensor | None = None


class ResNetBKBlock(GradientCheckpointingLayer):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)): the pre-norm block of Llama with another mixer.

    With a sandwich norm, x + norm(mixer(norm(x))) and so on, as in CogView (arXiv:2105.13290) and Gemma 3: what a part
    adds then has one size in every block, whatever its weights.

    The block is a function of its arguments: the state goes in and comes out, so that gradient checkpointing may run it
    twice.

    Args:
        config: a `ResNetBKConfig`.
        gated: whether a gate takes sites out of the chain (`resnet_bk.layers.sparse`).
        first: whether it is the first block, whose values others may add to theirs.

    Raises:
        ValueError: a gate in a block whose configuration has `value_residual`.
    """

    def __init__(self, config: Any, *, gated: bool = False, first: bool = True) -> None:
        super().__init__()
        if gated and config.value_residual:
            raise ValueError(
                "gated=True with value_residual=True: a block with a gate neither gives values nor adds those of the "
                "first block; leave one of the two out"
            )
        self.gives_values = config.value_residual and first
        self.mixer_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.site_gate = SiteGate(config.hidden_size) if gated else None
        self.mixer = get_mixer(config.state).from_config(config)
        self.mixer_output_norm = _output_norm(config)
        self.value_residual = ValueResidual(config.num_heads) if config.value_residual and not first else None
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward: SwiGLU | SparseMoE
        if config.num_experts:
            self.feed_forward = SparseMoE(
                config.hidden_size, config.intermediate_size, config.num_experts, config.num_experts_per_tok
            )
        else:
            self.feed_forward = SwiGLU(config.hidden_size, config.intermediate_size)
        self.feed_forward_output_norm = _output_norm(config)

    def forward(
        self,
        hidden: Tensor,
        boundaries: Boundaries | None = None,
        state: MixerState | None = None,
        active: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> BlockOutput:
        """One block.

        Args:
            hidden: [B, T, D].
            boundaries: where chains are cut.
            state: of the mixer, from the tokens before.
            active: True for tokens that read and pass the feed-forward network, bool [B, T]; None for all. The others
                leave this block as they came; they write into the chain.
            first_values: `BlockOutput.values` of the first block, where this one adds them to its own; else None.

        Raises:
            ValueError: `first_values` where there is no weight for them, or none where there is.
        """
        if (first_values is None) != (self.value_residual is None):
            raise ValueError(
                f"first_values must {'not ' * (self.value_residual is None)}be given to this block; pass "
                "BlockOutput.values of the first block to those that have a value_residual, and to no others"
            )
        if boundaries is None and active is None and state is not None:
            output = self._one_token(hidden, state, first_values)
            if output is not None:
                return output
        readers = None if active is None else active.flatten().nonzero().squeeze(1)
        normed = self.mixer_norm(hidden)
        share = values = None
        if self.site_gate is not None:
            hidden, state, share = self._mix_sites(hidden, normed, boundaries, state, active)
        else:
            options: dict[str, Any] = {"keep_values": True} if self.gives_values else {}
            if self.value_residual is not None:
                options["further_values"] = self.value_residual(first_values)
            places = None if readers is None else _filled_up(readers, hidden)
            mixed, state, values = self.mixer(normed, boundaries, state, places, **options)
            mixed = _normed(mixed, self.mixer_output_norm, hidden)
            hidden = hidden + mixed if readers is None else add_rows(hidden, readers, mixed[: readers.numel()])
        assert state is not None
        hidden, balance = self._feed_forward(hidden, boundaries, readers)
        return BlockOutput(hidden, state, balance, share, values)

    def _one_token(self, hidden: Tensor, state: MixerState, first_values: Tensor | None) -> BlockOutput | None:
        """A token of each row by one kernel, where that computes what this block does; a class derived from it may do
        its parts otherwise."""
        if self.site_gate is not None or type(self) is not ResNetBKBlock:
            return None
        found = one_token(self, hidden, state, first_values)
        if found is None:
            return None
        after, state, values = found
        return BlockOutput(after, state, None, None, values if self.gives_values else None)

    def _mix_sites(
        self,
        hidden: Tensor,
        normed: Tensor,
        boundaries: Boundaries | None,
        state: MixerState | None,
        active: Tensor | None,
    ) -> tuple[Tensor, MixerState, Tensor]:
        """The mixer on the sites that the gate keeps."""
        assert self.site_gate is not None
        choice = self.site_gate(normed, boundaries)
        selection = select(choice.keep, size_step(hidden, hidden.shape[1]))
        if selection is None:
            return hidden, self.skipped(normed, boundaries, state), choice.share
        tokens, readers = selection.tokens, selection.places
        if active is not None:
            reads = active.flatten().index_select(0, tokens)
            tokens, readers = tokens[reads], readers[reads]
        sites, cuts = selection.gather(normed), select_boundaries(boundaries, selection)
        mixed, state, _ = self.mixer(sites, cuts, state, _filled_up(readers, hidden))
        mixed = _normed(mixed[: tokens.numel()], self.mixer_output_norm, hidden)
        weight = choice.weight.flatten().index_select(0, tokens).unsqueeze(-1)
        return add_rows(hidden, tokens, mixed * weight.to(mixed.dtype)), state, choice.share

    def _feed_forward(
        self, hidden: Tensor, boundaries: Boundaries | None, readers: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if readers is not None and readers.numel() == 0:
            return hidden, None
        real = None if boundaries is None else boundaries.real
        tokens = hidden
        if readers is not None:
            # What an expert gets is of any number, whatever that of all tokens.
            rows = readers if isinstance(self.feed_forward, SparseMoE) else _filled_up(readers, hidden)
            tokens = hidden.flatten(0, 1).index_select(0, rows).unsqueeze(0)
            real = None if real is None else real.flatten(0, 1).index_select(0, readers)
        normed, balance = self.feed_forward_norm(tokens), None
        if isinstance(self.feed_forward, SparseMoE):
            output, balance = self.feed_forward(normed, real)
        else:
            output = self.feed_forward(normed)
        output = _normed(output, self.feed_forward_output_norm, hidden)
        if readers is None:
            return hidden + output, balance
        return add_rows(hidden, readers, output.squeeze(0)[: readers.numel()]), balance

    def skipped(self, hidden: Tensor, boundaries: Boundaries | None, state: MixerState | None) -> MixerState:
        """The state after a call of which no token came here; `hidden` [B, ...] says the batch and the precision."""
        state = self.mixer.initial_state(hidden) if state is None else state
        alive = without_tokens(boundaries)
        return state if alive is None else state.only(alive)


def _output_norm(config: Any) -> nn.RMSNorm | None:
    return nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if config.sandwich_norm else None


def _normed(output: Tensor, norm: nn.RMSNorm | None, hidden: Tensor) -> Tensor:
    """`output` of a part [..., D] behind its norm, if it has one, in the precision of the residual stream `hidden`:
    that of matmuls may be lower."""
    return output if norm is None else norm(output.to(hidden.dtype))


def _filled_up(readers: Tensor, hidden: Tensor) -> Tensor:
    """`readers`, int64 [M], of the tokens of `hidden` [B, T, D], filled up where M is better one of a few numbers."""
    return fill_up(readers, size_step(hidden, hidden.shape[0] * hidden.shape[1]))
