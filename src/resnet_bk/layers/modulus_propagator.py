"""Propagator mixing by the modulus: attention whose decay is the size of the propagator of a chain, with a real state.

Shape legend: B batch, T tokens, D hidden size, H heads, K key size, V value size.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from resnet_bk.layers.boundaries import Boundaries, is_filled
from resnet_bk.layers.chain import ChainProjection
from resnet_bk.layers.gated_rms_norm import GatedRMSNorm
from resnet_bk.layers.gradients import propagate_modulus
from resnet_bk.layers.induction import QueryKeyValue, check_delay, taps
from resnet_bk.layers.mixer import Mixed, Mixer, MixerState, Start, StateShape
from resnet_bk.layers.output_gate import affine, get_gate
from resnet_bk.layers.plain import are_plain
from resnet_bk.layers.query_key import QueryKey
from resnet_bk.layers.short_convolution import ShortConvolution
from resnet_bk.layers.spacer import backend_for
from resnet_bk.ops.dispatch import autocast_enabled, beside_token, takes_token
from resnet_bk.ops.modulus_step import modulus_step

# Standard deviation of the convolution's taps at the start. Query and key are scaled to one length and what is read is
# scaled up, so that small taps cost little; large random ones mix the last tokens in a way that training must undo.
TAPS_STD = 0.02
# Beside the mean square of what is read, which is about 1e-6 at the start: the norm then takes it 300 times, and is one
# length once training has made it larger.
READ_EPS = 1e-5


class ModulusPropagator(Mixer):
    """One chain a head carries an outer product of key and value:

        S_t = |L_t| (w_t k_t v_t^T + b_t S_{t-1}),   y_t = q_t^T S_t = sum over j of (q_t . k_j) |Gamma_tj| w_j v_j

    with L the surface Green's function and Gamma the propagator of the head's chain
    (`resnet_bk.ops.propagate_modulus`). Query and key have unit length. The write gate w = sigmoid(g W x / sqrt(D)), g
    the site gain, says how much of a token is kept at all: potential, hopping and absorption of its site act on what
    came before as much as on it.
    What is read, y, is divided by its root mean square, since it grows with the number of tokens that are remembered.

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
        backend: of `resnet_bk.ops.propagate_modulus`; with "auto" and "numba" a token of generation takes
            `resnet_bk.ops.modulus_step` where it can, and its whole block `resnet_bk.ops.block_step`.
        gradient: "exact", "diagonal" or "autograd" (`resnet_bk.layers.gradients`).
        potential_init, absorption_min, absorption_init, hopping_init: see `ChainProjection`.
        site_gain: how many times as far as by default a token bends its site (`ChainProjection`) and moves its gate.
    """

    name: ClassVar[str] = "modulus"
    start: ClassVar[Start] = Start(
        output_gate="affine", query_key_bias=1.0, potential_init=(0.3, 1.2), absorption_init=(0.05, 1.0)
    )
    induces: ClassVar[bool] = True
    has_values: ClassVar[bool] = True
    erases: ClassVar[bool] = False  # whether a site takes out what it meets along its key, as much as it writes

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
        self.scale = site_gain * hidden_size**-0.5  # by default a step of the optimizer moves the gate by little
        self.write_proj = nn.Linear(hidden_size, num_heads, bias=False)
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
        self.conv = (
            ShortConvolution(sum(self.widths), conv_size, std=TAPS_STD, start=taps(**heads)) if conv_size else None
        )
        self.query_key = QueryKey(num_heads, key_dim, bias=query_key_bias, induction_heads=induction_heads)
        self.read_norm = GatedRMSNorm(value_dim, eps=READ_EPS)
        self.gate = get_gate(output_gate)
        self.gate_proj = nn.Linear(hidden_size, num_heads * value_dim, bias=False) if self.gate else None
        self.out_proj = nn.Linear(num_heads * value_dim, hidden_size, bias=False)
        # Read by `resnet_bk.training.joint_maps`.
        self.out_proj.input_parts = (value_dim,) * num_heads  # type: ignore[assignment]
        if self.gate_proj is not None:
            self.gate_proj.output_parts = (value_dim,) * num_heads  # type: ignore[assignment]

    def state_shape(self) -> StateShape:
        tail = (self.conv_size - 1, sum(self.widths)) if self.conv_size else None
        return StateShape(tail, (self.num_heads, self.key_dim, self.value_dim), real=True)

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
        plain = boundaries is None and readers is None
        if plain and state is not None and self._is_one_token(hidden, state, further_values):
            return self._one_token(hidden, state, further_values, keep_values)
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
        write = (self.scale * self.write_proj(hidden)).sigmoid()
        if boundaries is not None and boundaries.filling is not None:
            write = write * boundaries.tokens_only(write)
        output, chain_state = propagate_modulus(
            query,
            key,
            value * write.unsqueeze(-1),
            *self.chain(hidden, boundaries),
            erase=write if self.erases else None,
            initial_state=state.chain if state is not None else None,
            backend=backend_for(self.backend, filled=is_filled(boundaries), device=hidden.device),
            gradient=self.gradient,
        )
        # A filling turns the sign of what a chain carries, and not its modulus.
        after = MixerState(tail, chain_state).behind(boundaries, state, signed=False)
        return Mixed(self._read(output, hidden, readers), after, kept)

    def _is_one_token(self, hidden: Tensor, state: MixerState, further_values: Tensor | None) -> bool:
        """Whether this call is one that `resnet_bk.ops.modulus_step` can take over."""
        if not takes_token(hidden) or hidden.shape[1] != 1 or not self.takes_step(hidden, state):
            return False
        if not are_plain(self.step_parts()):
            return False
        assert self.conv is not None
        parameters = (self.conv.weight, self.query_key.bias, self.read_norm.weight)
        beside = (*parameters, state.convolution, state.chain[1], further_values)
        return beside_token(hidden, *beside)

    def takes_step(self, hidden: Tensor, state: MixerState) -> bool:
        """Whether a token like `hidden`, behind this state, is one that the kernels of one token compute as this mixer
        would; `step_parts` must be plain too."""
        if self.conv is None or state.convolution is None or self.gradient != "exact":
            return False
        if not (self.gate is None or self.gate is affine) or self.backend not in ("auto", "numba"):
            return False
        shape, (green, memory) = self.state_shape(), state.chain
        found = (state.convolution.shape[1:], green.shape[1:], memory.shape[1:])
        if found != (shape.convolution, shape.carried[:1], shape.carried) or green.dtype != hidden.dtype.to_complex():
            return False
        return state.convolution.shape[0] == green.shape[0] == memory.shape[0] == hidden.shape[0]

    def step_parts(self) -> tuple[tuple[nn.Module, type[nn.Module]], ...]:
        """What those kernels compute beside the linear maps, where `takes_step` says so: they read weights, which is
        right for these modules and no others."""
        parts = self._modules  # where modules are kept: as an attribute each takes five times as long
        conv, query_key, chain, read_norm = (parts[name] for name in ("conv", "query_key", "chain", "read_norm"))
        assert conv is not None
        assert query_key is not None
        assert chain is not None
        assert read_norm is not None
        return (
            (conv, ShortConvolution),
            (query_key, QueryKey),
            (chain, ChainProjection),
            (read_norm, GatedRMSNorm),
        )

    def _one_token(self, hidden: Tensor, state: MixerState, further_values: Tensor | None, keep_values: bool) -> Mixed:
        """The same as `forward` of a token behind a state, without a gradient."""
        assert self.conv is not None
        assert state.convolution is not None
        output, tail, chain, values = modulus_step(
            self.in_proj(hidden).squeeze(1),
            state.convolution,
            self.conv.weight,
            self.query_key.bias,
            self.scale * self.write_proj(hidden).squeeze(1),
            self.chain.project(hidden).squeeze(1),
            *state.chain,
            self.read_norm.weight,
            None if self.gate_proj is None else self.gate_proj(hidden).squeeze(1),
            None if further_values is None else further_values.flatten(1),
            absorption_min=self.chain.absorption_min,
            eps=self.read_norm.eps,
            erases=self.erases,
        )
        kept = values.view(-1, 1, self.num_heads, self.value_dim) if keep_values else None
        return Mixed(self.out_proj(output.unsqueeze(1)), MixerState(tail, chain), kept)

    def _read(self, y: Tensor, hidden: Tensor, readers: Tensor | None) -> Tensor:
        """Real y [B, T, H, V] for tokens [B, T, D] to [B, T, D]; to [M, D] where M tokens read."""
        if readers is not None:
            y, hidden = (x.flatten(0, 1).index_select(0, readers) for x in (y, hidden))
        gate = None if self.gate_proj is None else self.gate_proj(hidden)
        if gate is None or self.gate is affine:
            return self.out_proj(self.read_norm(y, gate, _of_matmuls(hidden)))
        assert self.gate is not None
        y = self.gate(self.read_norm(y, None, y.dtype), gate)
        return self.out_proj(y.to(hidden.dtype))


def _of_matmuls(hidden: Tensor) -> torch.dtype:
    """The precision to which a linear map rounds `hidden`: that of autocast, which leaves float64 alone."""
    if autocast_enabled(hidden.device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype
