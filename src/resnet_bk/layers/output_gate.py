"""The gates of what a mixer reads: y [..., C] times a function of the projection g of the token that reads.

SiLU passes next to nothing at the start, with either sign by chance. Sigmoid starts at one half and the affine gate at
one for all tokens, so that gradients reach what is read from the first step on.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _silu(y: Tensor, g: Tensor) -> Tensor:
    return y * F.silu(g)


def _sigmoid(y: Tensor, g: Tensor) -> Tensor:
    return y * torch.sigmoid(g)


def affine(y: Tensor, g: Tensor) -> Tensor:
    """y (1 + g); the sum 1 + g would round a g in bfloat16 to two digits."""
    return y + y * g


Gate = Callable[[Tensor, Tensor], Tensor]
# Functions with a name: a mixer holds one, and models are pickled.
GATES: dict[str, Gate] = {"silu": _silu, "sigmoid": _sigmoid, "affine": affine}
NO_GATE = "none"


def get_gate(name: str) -> Gate | None:
    """The gate of that name, None for "none".

    Raises:
        ValueError: no such gate.
    """
    if name == NO_GATE:
        return None
    if name not in GATES:
        raise ValueError(
            f"output_gate must be one of {', '.join((*GATES, NO_GATE))}, but got {name!r}; affine and silu are usual"
        )
    return GATES[name]
