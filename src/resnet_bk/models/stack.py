"""The blocks of a ResNet-BK one after another, with what may lie between them: shorter scales and halting.

Shape legend: B batch, T tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from resnet_bk.layers import Boundaries, MixerState
from resnet_bk.layers.adaptive import HaltingUnit, Pondering
from resnet_bk.layers.block import BlockOutput
from resnet_bk.layers.boundaries import without_tokens
from resnet_bk.layers.multi_scale import ScaleState, Shortened, Shortening
from resnet_bk.layers.sparse import sparsity_loss, target_share
from resnet_bk.models.configuration_resnet_bk import ResNetBKConfig


@dataclass
class Passed:
    """What went through the blocks.

    Attributes:
        hidden: after the last block, at full length, [B, T, D].
        states, scales: for the cache.
        hidden_states: before every block, where asked for; [B, T, D], or shorter for a block at a coarser scale.
        aux_loss, measures: as in `ResNetBKModelOutput`.
    """

    hidden: Tensor
    states: list[MixerState] = field(default_factory=list)
    scales: list[ScaleState] = field(default_factory=list)
    hidden_states: list[Tensor] = field(default_factory=list)
    aux_loss: Tensor | None = None
    measures: dict[str, Tensor] = field(default_factory=dict)


class BlockStack(nn.Module):
    """Runs blocks; holds the parameters between them.

    Attributes:
        progress: how much of the training is done, for the schedule of `sparse_bk`.
    """

    def __init__(self, config: ResNetBKConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = config.block_scales()
        size = config.hidden_size
        self.shortenings = nn.ModuleList(Shortening(size, factor) for factor in config.shortening_factors())
        # Tokens halt at full length; at the last of those blocks they must.
        full = self.scales.count(1) if config.adaptive_computation else 0
        self.halting = nn.ModuleList(HaltingUnit(size) for _ in range(max(full - 1, 0)))
        self.progress = 1.0

    # Not `forward`: a hook of accelerate on a module moves its arguments, and blocks are none of what it can move.
    def run(
        self,
        blocks: nn.ModuleList,
        hidden: Tensor,
        boundaries: Boundaries | None,
        states: Sequence[MixerState | None],
        scale_states: Sequence[ScaleState],
        *,
        keep_hidden: bool,
    ) -> Passed:
        """`hidden` [B, T, D] through all blocks."""
        passed = Passed(hidden)
        pondering = Pondering(self._threshold(), boundaries) if self.config.adaptive_computation else None
        halting = iter([*self.halting, None])
        balances: list[Tensor] = []
        shares: list[tuple[Tensor, float]] = []  # of the sites that a gate kept, and that it is to keep at the end
        level = _Level(self.shortenings, scale_states, hidden, boundaries)
        values: Tensor | None = None  # of the first block, where the others add them to theirs
        for block, state, scale, share in zip(blocks, states, self.scales, self.config.site_shares(), strict=True):
            level.go_to(scale)
            if keep_hidden:
                passed.hidden_states.append(level.tokens())
            if level.hidden is None:
                passed.states.append(block.skipped(hidden, boundaries, state))  # type: ignore[operator]
                continue
            halts = pondering if scale == 1 else None
            output = block(level.hidden, level.boundaries, state, None if halts is None else halts.active, values)
            if not isinstance(output, BlockOutput):  # the other kind of checkpointing makes it a plain tuple
                raise ValueError(
                    "use_reentrant must be false in activation_checkpointing_kwargs, as it is by default: with true "
                    "PyTorch loses what a block returns beside its tokens; leave it out"
                )
            level.hidden = output.hidden
            values = output.values if values is None else values
            passed.states.append(output.state)
            if output.balance is not None:
                balances.append(output.balance)
            if output.share is not None:
                shares.append((output.share, share))
            if halts is not None:
                unit = next(halting)
                halts.step(output.hidden, None if unit is None else unit(output.hidden))
        level.go_to(1)
        passed.hidden = level.tokens() if pondering is None else pondering.result()
        passed.scales = level.states_after()
        self._losses(passed, balances, shares, pondering)
        return passed

    def _threshold(self) -> float:
        early = self.config.early_exit_threshold
        return self.config.halting_threshold if self.training or early is None else early

    def _losses(
        self,
        passed: Passed,
        balances: list[Tensor],
        shares: list[tuple[Tensor, float]],
        pondering: Pondering | None,
    ) -> None:
        """Fills in `aux_loss` and `measures`."""
        terms: list[tuple[float, Tensor]] = []
        if balances:
            balance = torch.stack(balances).mean()
            passed.measures["load_balancing"] = balance.detach()
            terms.append((self.config.router_aux_loss_coef, balance))
        if pondering is not None:
            ponder = pondering.ponder_cost()
            passed.measures |= {"ponder": ponder.detach(), "depth": pondering.depth().detach()}
            terms.append((self.config.ponder_cost, ponder))
        if shares:
            kept = torch.stack([kept for kept, _ in shares])
            progress, schedule = self.progress, self.config.sparsity_schedule
            sparsity = sparsity_loss(kept, [target_share(final, progress, schedule) for _, final in shares])
            passed.measures |= {"sparsity": sparsity.detach(), "kept": kept.detach().mean()}
            terms.append((self.config.sparsity_loss_coef, sparsity))
        if terms:
            passed.aux_loss = torch.stack([weight * loss for weight, loss in terms]).sum()


class _Level:
    """The scale at which a forward pass is, and the way back.

    Attributes:
        hidden: the tokens at this scale; None where the call has none.
        boundaries: of these tokens.

    Args:
        shortenings: in the order in which they are met.
        before: their states; empty before the first token of all.
        hidden, boundaries: at full length.
    """

    def __init__(
        self, shortenings: nn.ModuleList, before: Sequence[ScaleState], hidden: Tensor, boundaries: Boundaries | None
    ) -> None:
        self.hidden: Tensor | None = hidden
        self.boundaries = boundaries
        self._full, self._full_boundaries = hidden, boundaries
        self._shortenings, self._before = shortenings, before
        self._after: list[ScaleState | None] = []
        self._scales = [1]
        self._open: list[tuple[int, Shortened | None]] = []  # place in `shortenings`, way down

    def go_to(self, scale: int) -> None:
        """Lengthen or shorten to this scale, an integer multiple of one that is open."""
        while scale < self._scales[-1]:
            self._lengthen()
        if scale > self._scales[-1]:
            self._shorten(scale)

    def tokens(self) -> Tensor:
        """The tokens at this scale, [B, N, D]; N may be 0."""
        full = self._full
        return full.new_zeros(full.shape[0], 0, full.shape[2]) if self.hidden is None else self.hidden

    def states_after(self) -> list[ScaleState]:
        """The state of every shortening after the call."""
        assert all(state is not None for state in self._after), "a scale was not left"
        return [state for state in self._after if state is not None]

    def _shorten(self, scale: int) -> None:
        index = len(self._after)
        shortening = self._shortenings[index]
        assert isinstance(shortening, Shortening)
        state = self._before[index] if self._before else None
        self._scales.append(scale)
        if self.hidden is None:
            state = shortening.initial_state(self._full) if state is None else state
            alive = without_tokens(self._full_boundaries)
            self._after.append(state if alive is None else state.only(alive))
            self._open.append((index, None))
            return
        down = shortening.shorten(self.hidden, self.boundaries, state)
        self._after.append(None)
        self._open.append((index, down))
        self.hidden, self.boundaries = down.hidden, down.boundaries

    def _lengthen(self) -> None:
        self._scales.pop()
        index, down = self._open.pop()
        if down is None:
            return
        shortening = self._shortenings[index]
        assert isinstance(shortening, Shortening)
        self.hidden, self._after[index] = shortening.lengthen(down, self.hidden)
        self.boundaries = down.fine_boundaries
