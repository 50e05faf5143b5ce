"""What a mixer is: the part of a block that lets tokens read one another.

Shape legend: B batch, T tokens, D hidden size, H chains, K key size, V value size, C channels and W taps of the short
convolution.
"""

from inspect import Parameter, signature
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from resnet_bk.layers.boundaries import Boundaries


class MixerState(NamedTuple):
    """All that a mixer remembers of the tokens it has seen; its size does not depend on their number.

    Attributes:
        convolution: the last W - 1 inputs of the short convolution, [B, W - 1, C], zero where the chain was cut since;
            None without a convolution.
        chain: the state of the operator: the surface Green's function [B, H] and what the chain carries, [B, H] or
            [B, H, K, V]; complex64 (complex128 for a float64 model), the second real where the operator's is.
    """

    convolution: Tensor | None
    chain: tuple[Tensor, Tensor]

    def only(self, rows: Tensor) -> "MixerState":
        """This state for `rows`, bool [B], and a state of zeros, which is the same as none, for the others."""

        def mask(tensor: Tensor) -> Tensor:
            return tensor * rows.view(-1, *[1] * (tensor.ndim - 1))

        green, carried = self.chain
        return MixerState(None if self.convolution is None else mask(self.convolution), (mask(green), mask(carried)))

    def behind(
        self, boundaries: Boundaries | None, before: "MixerState | None", *, signed: bool = True
    ) -> "MixerState":
        """The state after the last token of each row, where this one is after the last site.

        Args:
            boundaries: of the sites.
            before: the state before them.
            signed: whether what the chain carries takes the sign of its sites (`resnet_bk.layers.spacer`), or their
                modulus alone.
        """
        if boundaries is None:
            return self
        state = self
        if boundaries.filling is not None:
            filling, (green, carried) = boundaries.filling, state.chain

            def of_row(values: Tensor, like: Tensor) -> Tensor:
                return values.view(-1, *[1] * (like.ndim - 1))

            old = (torch.zeros_like(green), torch.zeros_like(carried)) if before is None else before.chain
            carried = carried * of_row(filling.sign, carried) if signed else carried
            chain = (
                torch.where(of_row(filling.filled, green), green, old[0]),
                torch.where(of_row(filling.filled, carried), carried, old[1]),
            )
            state = MixerState(state.convolution, chain)
        return state if boundaries.ended is None else state.only(~boundaries.ended)


class Mixed(NamedTuple):
    """What a mixer returns.

    Attributes:
        tokens: [B, T, D] ([M, D] where M tokens read), to be added to the residual stream.
        state: after the last token.
        values: what the tokens wrote, before any gate, [B, T, H, V], where they were asked for.
    """

    tokens: Tensor
    state: MixerState
    values: Tensor | None = None


class StateShape(NamedTuple):
    """The shape of a `MixerState`, the batch left out.

    Attributes:
        convolution: (W - 1, C); None without a convolution.
        carried: of what the chain carries, (H,) or (H, K, V).
        real: whether that is real, and not complex.
    """

    convolution: tuple[int, int] | None
    carried: tuple[int, ...]
    real: bool = False


class Start(NamedTuple):
    """Where a mixer starts unless a configuration says otherwise; the fields are those of `ResNetBKConfig`."""

    output_gate: str
    query_key_bias: float
    potential_init: tuple[float, float]
    absorption_init: tuple[float, float]


class Mixer(nn.Module):
    """Base class of the mixers. The output at t depends on no input after t, and on those before by a state of constant
    size: the tests hold every mixer to that.

    Class attributes:
        name: key in `resnet_bk.layers.registry.MIXERS`.
        start: what fields of a configuration are for this mixer where they are left out.
        induces: half of its heads start as induction heads, where keys are large enough and a configuration does not
            say otherwise (`resnet_bk.layers.induction`).
        has_values: tokens write values into its chains, to which those of another block can be added
            (`resnet_bk.layers.value_residual`).
    """

    name: ClassVar[str]
    start: ClassVar[Start]
    induces: ClassVar[bool] = False
    has_values: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the mixer from a `ResNetBKConfig`."""
        return cls(config.hidden_size, **{name: getattr(config, name) for name in cls.fields()})

    @classmethod
    def fields(cls) -> list[str]:
        """The fields of a `ResNetBKConfig` that it reads: its keyword-only arguments."""
        arguments = signature(cls).parameters.values()
        return [argument.name for argument in arguments if argument.kind is Parameter.KEYWORD_ONLY]

    def state_shape(self) -> StateShape:
        """The shape of what it carries."""
        raise NotImplementedError

    def initial_state(self, hidden: Tensor) -> MixerState:
        """The state before any token, which is the same as None: zeros, for a batch like `hidden` [B, T, D]."""
        shape, batch = self.state_shape(), hidden.shape[0]
        double = hidden.dtype == torch.float64
        dtype = torch.complex128 if double else torch.complex64
        zeros = hidden.new_zeros
        tail = None if shape.convolution is None else zeros(batch, *shape.convolution)
        carried = zeros(batch, *shape.carried, dtype=dtype.to_real() if shape.real else dtype)
        return MixerState(tail, (zeros(batch, shape.carried[0], dtype=dtype), carried))

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
        """Mixes the tokens.

        Args:
            hidden: normed hidden states, [B, T, D].
            boundaries: where chains are cut; None for one unbroken sequence a row.
            state: of the tokens before; None at the start.
            readers: the tokens that read, int64 [M], places in the rows laid end to end; None for all. All tokens write
                into the chain.
            further_values: added to the tokens' values, [B, T, H, V]; of a mixer that has values.
            keep_values: return the values, of a mixer that has some.
        """
        raise NotImplementedError
