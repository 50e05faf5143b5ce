"""Propagator mixing with a vector state: one chain a channel.

Shape legend: B batch, T tokens, D hidden size, C channels.
"""

from typing import ClassVar

from torch import Tensor, nn

from resnet_bk.layers.boundaries import Boundaries, is_filled
from resnet_bk.layers.chain import ChainProjection
from resnet_bk.layers.gradients import propagate_vector
from resnet_bk.layers.mixer import Mixed, Mixer, MixerState, Start, StateShape
from resnet_bk.layers.readout import Readout
from resnet_bk.layers.short_convolution import ShortConvolution
from resnet_bk.layers.spacer import backend_for


class VectorPropagator(Mixer):
    """Each channel carries one amplitude along its own chain:

        psi_t = L_t (u_t + b_t psi_{t-1}) = sum over j of Gamma_tj u_j

    with L the surface Green's function and Gamma the propagator of the channel's chain
    (`resnet_bk.ops.propagate_vector`).

    Args:
        hidden_size: D.
        state_channels: C.
        conv_size: taps of the short convolution on u; 0 leaves it out.
        output_gate: what multiplies what is read, of `resnet_bk.layers.output_gate`; "none" for nothing.
        backend: of `resnet_bk.ops.propagate_vector`.
        gradient: "exact", "diagonal" or "autograd" (`resnet_bk.layers.gradients`).
        potential_init, absorption_min, absorption_init, hopping_init, site_gain: see `ChainProjection`.
    """

    name: ClassVar[str] = "vector"
    start: ClassVar[Start] = Start(
        output_gate="silu", query_key_bias=0.0, potential_init=(0.9, 1.2), absorption_init=(0.02, 1.0)
    )

    def __init__(
        self,
        hidden_size: int,
        *,
        state_channels: int,
        conv_size: int,
        output_gate: str,
        potential_init: tuple[float, float],
        absorption_min: float,
        absorption_init: tuple[float, float],
        hopping_init: float,
        site_gain: float = 1.0,
        backend: str = "auto",
        gradient: str = "exact",
    ) -> None:
        super().__init__()
        self.backend, self.gradient = backend, gradient
        self.in_proj = nn.Linear(hidden_size, state_channels, bias=False)
        self.chain = ChainProjection(
            hidden_size,
            state_channels,
            potential_init=potential_init,
            absorption_min=absorption_min,
            absorption_init=absorption_init,
            hopping_init=hopping_init,
            site_gain=site_gain,
        )
        self.conv_size = conv_size
        self.conv = ShortConvolution(state_channels, conv_size) if conv_size else None
        self.readout = Readout(hidden_size, state_channels, gate=output_gate)

    def state_shape(self) -> StateShape:
        channels = self.chain.chains
        tail = (self.conv_size - 1, channels) if self.conv_size else None
        return StateShape(tail, (channels,))

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
        assert further_values is None, "a configuration refuses value_residual for it"
        assert not keep_values
        source, tail = self.in_proj(hidden), None
        if self.conv is not None:
            source, tail = self.conv(source, boundaries, state.convolution if state is not None else None)
        if boundaries is not None and boundaries.filling is not None:
            source = source * boundaries.tokens_only(source)
        psi, chain_state = propagate_vector(
            source,
            *self.chain(hidden, boundaries),
            initial_state=state.chain if state is not None else None,
            backend=backend_for(self.backend, filled=is_filled(boundaries), device=hidden.device),
            gradient=self.gradient,
        )
        after = MixerState(tail, chain_state).behind(boundaries, state)
        return Mixed(self.readout(psi, hidden, readers), after)
