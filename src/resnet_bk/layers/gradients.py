"""How the propagators of a layer are differentiated.

    exact      the hand-derived adjoint, in whatever backend the layer has
    diagonal   the earlier system's: what a site does to the others is left out (`resnet_bk.ops.diagonal_gradient`)
    autograd   PyTorch's own, through a loop over the sites (backend "reference")

The values are the same in all three; the gradients of exact and autograd too. `diagonal` is there to show what the
missing part costs, `autograd` what the adjoint saves.

Shape legend: B batch, T tokens, H chains (heads or channels), K key size, V value size.
"""

from torch import Tensor

from resnet_bk import ops
from resnet_bk.ops import diagonal_gradient

GRADIENTS = ("exact", "diagonal", "autograd")
State = tuple[Tensor, Tensor]


def propagate_vector(
    source: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    initial_state: State | None,
    backend: str,
    gradient: str,
) -> tuple[Tensor, State]:
    """psi [B, T, H] and the state, as `resnet_bk.ops.propagate_vector`."""
    chain = (potential, hopping, absorption)
    if gradient == "diagonal":
        return diagonal_gradient.propagate_vector(source, *chain, initial_state)
    backend = "reference" if gradient == "autograd" else backend
    return ops.propagate_vector(source, *chain, initial_state=initial_state, backend=backend)


def propagate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    initial_state: State | None,
    backend: str,
    gradient: str,
) -> tuple[Tensor, State]:
    """y [B, T, H, V] and the state, as `resnet_bk.ops.propagate`."""
    chain = (potential, hopping, absorption)
    if gradient == "diagonal":
        return diagonal_gradient.propagate(query, key, value, *chain, initial_state)
    backend = "reference" if gradient == "autograd" else backend
    return ops.propagate(query, key, value, *chain, initial_state=initial_state, backend=backend)


def propagate_modulus(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    potential: Tensor,
    hopping: Tensor,
    absorption: Tensor,
    *,
    erase: Tensor | None = None,
    initial_state: State | None,
    backend: str,
    gradient: str,
) -> tuple[Tensor, State]:
    """y [B, T, H, V] and the state, as `resnet_bk.ops.propagate_modulus`."""
    chain = (potential, hopping, absorption)
    if gradient == "diagonal":
        return diagonal_gradient.propagate_modulus(query, key, value, *chain, initial_state, erase=erase)
    backend = "reference" if gradient == "autograd" else backend
    return ops.propagate_modulus(query, key, value, *chain, erase=erase, initial_state=initial_state, backend=backend)
