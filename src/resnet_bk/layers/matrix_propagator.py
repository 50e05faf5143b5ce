"""Propagator mixing with a matrix state: attention whose decay is the propagator of a chain.

Shape legend: B batch, T tokens, D hidden size, H heads, K key size, V value size.
"""

from typing import ClassVar

from torch import Tensor

from resnet_bk.layers.boundaries import Boundaries, is_filled
from resnet_bk.layers.chain import ChainProjection
from resnet_bk.layers.gradients import propagate
from resnet_bk.layers.induction import QueryKeyValue, check_delay, taps
from resnet_bk.layers.mixer import Mixed, Mixer, MixerState, Start, StateShape
from resnet_bk.layers.query_key import QueryKey
from resnet_bk.layers.readout import Readout
from resnet_bk.layers.short_convolution import ShortConvolution
from resnet_bk.layers.spacer import backend_for


class MatrixPropagator(Mixer):
    """One chain a head carries an outer product of key and value:

        S_t = L_t (k_t v_t^T + b_t S_{t-1}),   y_t = q_t^T S_t = sum over j of (q_t . k_j) Gamma_tj v_j

    with L the surface Green's function and Gamma the propagator of the head's chain (`resnet_bk.ops.propagate`).
    Query and key have unit length: the size of what is read is then set by the propagator and the value alone, and a
    query meets a key by direction.

    Args:
        hidden_size: D.
        num_heads: H.
        key_dim: K.
        value_dim: V.
        conv_size: taps of the short convolution on query, key and value; 0 leaves it out.
        output_gate: what multiplies what is read, of `resnet_bk.layers.output_gate`; "none" for nothing.
        query_key_bias: of queries and keys at the start; see `QueryKey`.
        induction_heads: how many heads start as induction heads (`resnet_bk.layers.induction`); above 0 it takes a
            convolution.
        backend: of `resnet_bk.ops.propagate`.
        gradient: "exact", "diagonal" or "autograd" (`resnet_bk.layers.gradients`).
        potential_init, absorption_min, absorption_init, hopping_init, site_gain: see `ChainProjection`.
    """

    name: ClassVar[str] = "matrix"
    has_values: ClassVar[bool] = True
    start: ClassVar[Start] = Start(
        output_gate="silu", query_key_bias=0.0, potential_init=(0.9, 1.2), absorption_init=(0.02, 1.0)
    )

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        conv_size: int,
        output_gate: str,
        query_key_bias: float,
        induction_heads: int,
        potential_init: tuple[float, float],
        absorption_min: float,
        absorption_init: tuple[float, float],
        hopping_init: float,
        site_gain: float = 1.0,
        backend: str = "auto",
        gradient: str = "exact",
    ) -> None:
        super().__init__()
        check_delay(induction_heads, conv_size)
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.backend, self.gradient = backend, gradient
        self.widths = [2 * num_heads * key_dim, num_heads * value_dim]
        heads = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim, "induction_heads": induction_heads}
        self.in_proj = QueryKeyValue(hidden_size, **heads)
        self.chain = ChainProjection(
            hidden_size,
            num_heads,
            potential_init=potential_init,
            absorption_min=absorption_min,
            absorption_init=absorption_init,
            hopping_init=hopping_init,
            site_gain=site_gain,
            induction_heads=induction_heads,
        )
        self.conv_size = conv_size
        self.conv = ShortConvolution(sum(self.widths), conv_size, start=taps(**heads)) if conv_size else None
        self.query_key = QueryKey(num_heads, key_dim, bias=query_key_bias, induction_heads=induction_heads)
        self.readout = Readout(hidden_size, num_heads * value_dim, gate=output_gate, num_heads=num_heads)

    def state_shape(self) -> StateShape:
        tail = (self.conv_size - 1, sum(self.widths)) if self.conv_size else None
        return StateShape(tail, (self.num_heads, self.key_dim, self.value_dim))

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
        batch, length, _ = hidden.shape
        mixed, tail = self.in_proj(hidden), None
        if self.conv is not None:
            mixed, tail = self.conv(mixed, boundaries, state.convolution if state is not None else None)
        query_key, value = mixed.split(self.widths, dim=-1)
        query, key = self.query_key(query_key)
        value = value.view(batch, length, self.num_heads, self.value_dim)
        if further_values is not None:
            value = value + further_values
        kept = value if keep_values else None
        if boundaries is not None and boundaries.filling is not None:
            value = value * boundaries.tokens_only(value)
        output, chain_state = propagate(
            query,
            key,
            value,
            *self.chain(hidden, boundaries),
            initial_state=state.chain if state is not None else None,
            backend=backend_for(self.backend, filled=is_filled(boundaries), device=hidden.device),
            gradient=self.gradient,
        )
        after = MixerState(tail, chain_state).behind(boundaries, state)
        return Mixed(self.readout(output.flatten(2), hidden, readers), after, kept)
