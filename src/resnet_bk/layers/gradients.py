"""How the propagators of a layer are differentiated.

    exact      the hand-derived adjoint, in whatever backend the layer has
    diagonal   the earlier system's: what a site does to the others is left out (`resnet_bk.ops.diagonal_gradient`)
    autograd   PyTorch's own, through a loop over the sites (backend "reference")

The values are the same in all three; the gradients of exact and autograd too. `diagonal` is there to show what the
missing part costs, `autograd` what the adjoint saves.

`propagate_vector`, `propagate` and `propagate_modulus` take what those of `resnet_bk.ops` take, and `gradient`.
"""

from functools import partial
from typing import Any

from torch import Tensor

from resnet_bk import ops
from resnet_bk.ops import diagonal_gradient

GRADIENTS = ("exact", "diagonal", "autograd")
State = tuple[Tensor, Tensor]


def _propagate(
    operator: str, *inputs: Tensor, initial_state: State | None, backend: str, gradient: str, **options: Any
) -> tuple[Tensor, State]:
    """Output and state of the operator of that name.

    Raises:
        ValueError: no such gradient.
    """
    found: tuple[Tensor, State]
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, but got {gradient!r}; 'exact' is usual")
    if gradient == "diagonal":
        found = getattr(diagonal_gradient, operator)(*inputs, initial_state, **options)
        return found
    backend = "reference" if gradient == "autograd" else backend
    found = getattr(ops, operator)(*inputs, initial_state=initial_state, backend=backend, **options)
    return found


propagate_vector = partial(_propagate, "propagate_vector")
propagate = partial(_propagate, "propagate")
propagate_modulus = partial(_propagate, "propagate_modulus")
