"""Which backends an operator has, which one runs, and a record of those that ran."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

Implementation = Callable[..., Any]

OPERATORS = ("surface_green", "resolvent_diagonal", "propagate_vector", "propagate")
_HAS_NUMBA = find_spec("numba") is not None

_records: list[dict[str, set[str]]] = []


@cache
def cpu_has(feature: str) -> bool:
    """Whether numba can compile for this feature of the processor, by LLVM's name for it ("avx512f")."""
    if not _HAS_NUMBA:
        return False
    from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]

    return bool(get_host_cpu_features().get(feature, False))


def available_backends(op: str, device_type: str) -> tuple[str, ...]:
    """Backends of an operator on a kind of device; `backend="auto"` takes the first.

    Args:
        op: "surface_green", "resolvent_diagonal", "propagate_vector", "propagate" or "linear_cross_entropy".
        device_type: `tensor.device.type`, for example "cpu" or "cuda".

    Returns:
        Names out of "numba" (compiled CPU kernels with the exact adjoint), "chunked" (plain PyTorch on any device) and
        "reference" (the definition, a loop over sites under autograd).

    Raises:
        ValueError: `op` is not an operator with backends.
    """
    if op == "linear_cross_entropy":
        return ("numba", "chunked") if device_type == "cpu" and cpu_has("avx512f") else ("chunked",)
    if op not in OPERATORS:
        known = ", ".join((*OPERATORS, "linear_cross_entropy"))
        raise ValueError(f"op must be one of {known}, but got {op!r}; check the spelling")
    if device_type == "cpu" and _HAS_NUMBA:
        return ("numba", "chunked", "reference")
    return ("chunked", "reference")


@contextmanager
def record_backends() -> Iterator[dict[str, set[str]]]:
    """Records which backends run inside the block.

    >>> with record_backends() as seen:
    ...     surface_green(potential, hopping, absorption)
    >>> seen
    {'surface_green': {'numba'}}

    Yields:
        Operator name -> names of the backends that ran. In a graph of `torch.compile` plain PyTorch is not recorded: it
        is no longer an operator of its own there.
    """
    seen: dict[str, set[str]] = {}
    _records.append(seen)
    try:
        yield seen
    finally:
        # By identity: two records with equal contents are equal as dicts.
        _records[:] = [record for record in _records if record is not seen]


def note(op: str, backend: str) -> None:
    """Adds a backend that runs to the open records."""
    for seen in _records:
        seen.setdefault(op, set()).add(backend)


def select(op: str, backend: str, device: torch.device, implementations: dict[str, Implementation]) -> Implementation:
    """The implementation that `backend` names on this device; notes it unless it notes itself.

    Raises:
        ValueError: the operator has no such backend on the device.
    """
    names = available_backends(op, device.type)
    chosen = names[0] if backend == "auto" else backend
    if chosen not in names:
        raise ValueError(
            f"backend must be 'auto' or one of {', '.join(names)} for {op} on {device.type}, but got {backend!r}; "
            "'auto' takes the fastest"
        )
    # Compiled kernels note themselves where they run, so that they are seen in graphs of torch.compile too.
    if chosen != "numba" and not torch.compiler.is_compiling():
        note(op, chosen)
    return implementations[chosen]


def wants_gradient(*tensors: torch.Tensor) -> bool:
    """Whether a backward pass may follow, so that a forward pass must keep what it needs."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keeps autocast out: it would round the operands of the matmuls inside an operator."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
