"""What a mixer is: the part of a block that lets tokens read one another.

Shape legend: B batch, T tokens, D hidden size, K taps of the short convolution.
"""

from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from resnet_bk.layers.boundaries import Boundaries


class MixerState(NamedTuple):
    """All that a mixer remembers of the tokens it has seen; its size does not depend on their number.

    Attributes:
        convolution: the last K - 1 inputs of the short convolution, [B, K - 1, C], zero where the chain was cut since;
            None without a convolution.
        chain: the state of the operator: the surface Green's function [B, H] and what the chain carries, [B, H] or
            [B, H, K, V]; complex64 (complex128 for a float64 model).
    """

    convolution: Tensor | None
    chain: tuple[Tensor, Tensor]

    def only(self, rows: Tensor) -> "MixerState":
        """This state for `rows`, bool [B], and a state of zeros, which is the same as none, for the others."""

        def mask(tensor: Tensor) -> Tensor:
            return tensor * rows.view(-1, *[1] * (tensor.ndim - 1))

        green, carried = self.chain
        return MixerState(None if self.convolution is None else mask(self.convolution), (mask(green), mask(carried)))


class Mixer(nn.Module):
    """Base class of the mixers; a subclass declares its properties, so that tests and audits can hold it to them.

    Class attributes:
        name: key in `resnet_bk.layers.registry.MIXERS`.
        causal: the output at t depends on no input after t.
        stateful: `forward` takes the state of the tokens before and returns the state after, in constant size.
    """

    name: ClassVar[str]
    causal: ClassVar[bool]
    stateful: ClassVar[bool]

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the mixer from the attributes of a `ResNetBKConfig`."""
        raise NotImplementedError

    def forward(
        self, hidden: Tensor, boundaries: Boundaries | None = None, state: MixerState | None = None
    ) -> tuple[Tensor, MixerState]:
        """Mixes the tokens.

        Args:
            hidden: normed hidden states, [B, T, D].
            boundaries: where chains are cut; None for one unbroken sequence a row.
            state: of the tokens before; None at the start.

        Returns:
            The mixed tokens [B, T, D], to be added to the residual stream, and the state after the last token.
        """
        raise NotImplementedError
