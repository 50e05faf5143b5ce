"""Causal depthwise convolution over a few tokens, with state.

Shape legend: B batch, T tokens, C channels, K taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.causal_filter import causal_filter
from resnet_bk.layers.induction import TAP, Tap
from resnet_bk.ops.dispatch import autocast_enabled


class ShortConvolution(nn.Module):
    """y_t = sum over j of weight[:, K - 1 - j] x_{t-j}, one filter a channel, followed by SiLU.

    The local mixing of Mamba (arXiv 2312.00752) and its successors: the last few tokens are what a language model needs
    most often, and a filter finds them more cheaply than a propagator.

    Args:
        channels: C.
        kernel_size: K, at least 2 (one tap mixes nothing).
        std: standard deviation of the taps at the start; None for uniform ones in +-1/sqrt(K), as `nn.Conv1d` starts a
            depthwise filter.
        start: the channels in order, where some start with one tap alone (`resnet_bk.layers.induction`).

    Raises:
        ValueError: fewer than two taps.
    """

    def __init__(
        self, channels: int, kernel_size: int, *, std: float | None = None, start: tuple[Tap, ...] = ()
    ) -> None:
        super().__init__()
        if kernel_size < 2:
            raise ValueError(
                f"kernel_size={kernel_size}: a filter must have 2 taps or more, for one mixes nothing; leave the "
                "convolution out instead"
            )
        self.kernel_size, self.std, self.start = kernel_size, std, start
        self.weight = nn.Parameter(torch.empty(channels, kernel_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Taps as `std` and `start` say."""
        bound = self.kernel_size**-0.5
        weight = torch.empty_like(self.weight)
        if self.std is None:
            weight.uniform_(-bound, bound)
        else:
            weight.normal_(std=self.std)
        first = 0
        for channels, lag in self.start:
            if lag is not None:
                weight[first : first + channels] = 0
                weight[first : first + channels, self.kernel_size - 1 - lag] = TAP
            first += channels
        init.copy_(self.weight, weight)

    def extra_repr(self) -> str:
        std = "" if self.std is None else f", std={self.std:g}"
        return f"channels={self.weight.shape[0]}, kernel_size={self.kernel_size}{std}"

    def forward(self, x: Tensor, boundaries: Boundaries | None, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Filters [B, T, C] given the K - 1 inputs before, [B, K - 1, C] or None; returns the result and the new tail.

        With documents it runs tap by tap, each masked to the document of its token.
        """
        taps = self.kernel_size - 1
        length = x.shape[1]
        if boundaries is not None and boundaries.real is not None:
            x = x * boundaries.real.to(x.dtype)
        # Tail and input in one piece, but only where both are needed: copying the whole input is what costs.
        masked = boundaries is not None and boundaries.segment is not None
        full = x if tail is None and not masked else torch.cat([_or_zeros(tail, x, taps), x], dim=1)
        if masked:
            assert boundaries is not None
            # Summed in float32 and rounded once, as the convolution does.
            wide = torch.promote_types(x.dtype, torch.float32)
            rounded = self.weight.to(x.dtype) if autocast_enabled(x.device) else self.weight
            taken, filters = full.to(wide), rounded.to(wide)
            y = taken[:, taps:] * filters[:, -1]
            for lag in range(1, self.kernel_size):
                tap = taken[:, taps - lag : taps - lag + length] * filters[:, taps - lag]
                y = y + tap * boundaries.same_segment(lag)
            y = y.to(x.dtype)
        else:
            y = causal_filter(full, self.weight, length=length)
        return F.silu(y), self._new_tail(x, full, tail, boundaries)

    def _new_tail(self, x: Tensor, full: Tensor, tail: Tensor | None, boundaries: Boundaries | None) -> Tensor:
        """The last K - 1 inputs, zero where they belong to a document that has ended; `full` is x or the tail and x."""
        taps = self.kernel_size - 1
        if boundaries is not None and boundaries.filling is not None:
            return self._tail_before_filling(x, tail, boundaries)
        if full.shape[1] < taps:
            full = torch.cat([_or_zeros(None, x, taps), x], dim=1)
        # A copy: a view would keep the whole input alive.
        new_tail = full[:, -taps:].clone()
        if boundaries is not None and boundaries.segment is not None:
            segment = F.pad(boundaries.segment, (taps, 0))[:, -taps:]
            new_tail = new_tail * (segment == segment[:, -1:]).unsqueeze(-1)
        return new_tail

    def _tail_before_filling(self, x: Tensor, tail: Tensor | None, boundaries: Boundaries) -> Tensor:
        """The same where rows end at different places."""
        assert boundaries.real is not None
        taps = self.kernel_size - 1
        count = boundaries.real.squeeze(-1).sum(dim=1).long()
        place = count.unsqueeze(1) + torch.arange(taps, device=x.device)  # in the tail followed by the input
        full = torch.cat([_or_zeros(tail, x, taps), x], dim=1)
        new_tail = full.gather(1, place.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        if boundaries.segment is not None:
            segment = F.pad(boundaries.segment, (taps, 0)).gather(1, place)
            new_tail = new_tail * (segment == segment[:, -1:]).unsqueeze(-1)
        return new_tail


def _or_zeros(tail: Tensor | None, x: Tensor, taps: int) -> Tensor:
    if tail is None:
        return x.new_zeros(x.shape[0], taps, x.shape[2])
    if tail.device != x.device:
        raise ValueError(
            f"the state of the short convolution must be on {x.device} as the input is, but is on {tail.device}; move "
            "a cache with cache.to(device)"
        )
    expected = (x.shape[0], taps, x.shape[2])
    if tail.shape != expected:
        raise ValueError(
            f"the state of the short convolution must have shape {expected}, but got {tuple(tail.shape)}; pass the one "
            "that an earlier call of this mixer returned for these rows"
        )
    return tail.to(x.dtype)
