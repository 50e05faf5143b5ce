"""A mixer without chains, as small as one can be that honours all that a model may ask: an example for one of your own
(CONTRIBUTING.md), which `test_own_mixer.py` puts into the registry.

Shape legend: B batch, T tokens, D hidden size, M tokens that read.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from resnet_bk.layers.boundaries import Boundaries
from resnet_bk.layers.mixer import Mixed, Mixer, MixerState, Start, StateShape
from resnet_bk.layers.output_gate import get_gate
from resnet_bk.layers.short_convolution import ShortConvolution


class FadingMean(Mixer):
    """s_t = r s_{t-1} + (1 - r) u_t, with a learned r for each of D channels."""

    name: ClassVar[str] = "fading-mean"
    # All four, though it reads the first alone.
    start: ClassVar[Start] = Start(
        output_gate="silu", query_key_bias=0.0, potential_init=(0.9, 1.2), absorption_init=(0.02, 1.0)
    )

    def __init__(self, hidden_size: int, *, conv_size: int, output_gate: str, backend: str = "auto") -> None:
        super().__init__()
        self.in_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.conv = ShortConvolution(hidden_size, conv_size) if conv_size else None
        self.fade = nn.Parameter(torch.linspace(0, 4, hidden_size))
        self.gate = get_gate(output_gate)
        self.gate_proj = nn.Linear(hidden_size, hidden_size, bias=False) if self.gate else None
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def state_shape(self) -> StateShape:
        channels = len(self.fade)
        tail = None if self.conv is None else (self.conv.kernel_size - 1, channels)
        return StateShape(tail, (channels,), real=True)

    def forward(
        self,
        hidden: Tensor,
        boundaries: Boundaries | None = None,
        state: MixerState | None = None,
        readers: Tensor | None = None,
        *,
        further_values: Tensor | None = None,
        keep_values: bool = False,
    ) -> Mixed:
        u, tail = self.in_proj(hidden), None
        if self.conv is not None:
            u, tail = self.conv(u, boundaries, None if state is None else state.convolution)
        before = self.initial_state(hidden) if state is None else state
        green, mean = before.chain  # without chains there is no Green's function: zeros
        r = self.fade.sigmoid().to(mean.dtype)
        write = (1 - r) * u.to(mean.dtype)
        fade = r.expand_as(write)
        if boundaries is not None:
            fade = fade * boundaries.keep.to(fade.dtype)  # 0 where a document or a padded row begins
            if boundaries.real is not None:
                write = write * boundaries.tokens_only(write)  # padding writes nothing
            if boundaries.filling is not None:  # sites behind the last token of a row leave the state as it is
                assert boundaries.real is not None
                fade = torch.where(boundaries.real > 0, fade, 1.0)
        means = []
        for t in range(hidden.shape[1]):
            mean = fade[:, t] * mean + write[:, t]
            means.append(mean)
        after = MixerState(tail, (green, mean)).behind(boundaries, state, signed=False)
        y = torch.stack(means, dim=1).to(hidden.dtype)
        if readers is not None:  # the others write, and read nothing
            y, hidden = (x.flatten(0, 1).index_select(0, readers) for x in (y, hidden))
        if self.gate is not None and self.gate_proj is not None:
            y = self.gate(y, self.gate_proj(hidden))
        return Mixed(self.out_proj(y), after)
