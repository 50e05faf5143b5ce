"""Which backends an operator has, which one runs, and a record of those that ran."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.autograd import forward_ad

from resnet_bk.ops.precision import at_least_float32
from resnet_bk.ops.starts import numba_starts, triton_starts

Implementation = Callable[..., Any]

# With a kernel of Triton.
OPERATORS = ("surface_green", "resolvent_diagonal", "propagate_vector", "propagate", "propagate_modulus")
_HAS_NUMBA = find_spec("numba") is not None
_HAS_TRITON = find_spec("triton") is not None
# Kernels that note themselves where they run, so that they are seen in graphs of torch.compile too.
_COMPILED = ("numba", "triton")

_records: list[dict[str, set[str]]] = []


def has_numba() -> bool:
    """Whether there are compiled kernels for the CPU. Asked before any is imported, so that numba is imported first."""
    return _HAS_NUMBA and numba_starts()


@cache
def cpu_has(feature: str) -> bool:
    """Whether numba compiles for this feature of the processor, by LLVM's name for it ("avx512f")."""
    if not has_numba():
        return False
    from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]

    try:
        if not get_host_cpu_features().get(feature, False):
            return False
    except RuntimeError:  # LLVM does not know the processor
        return False
    from numba import config

    # NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX may ask for less than the processor has.
    if config.CPU_FEATURES is not None:  # type: ignore[attr-defined]
        return f"+{feature}" in config.CPU_FEATURES.split(",")  # type: ignore[attr-defined]
    return bool(config.ENABLE_AVX) or not feature.startswith("avx")  # type: ignore[attr-defined]


def has_avx2() -> bool:
    """Whether numba compiles for AVX2 and its multiply-adds, as on most x86 processors since 2015."""
    return cpu_has("avx2") and cpu_has("fma")


# Operators without a Triton kernel: whether they have one of numba here, and what they have in plain PyTorch.
WITHOUT_TRITON: dict[str, tuple[Callable[[], bool], tuple[str, ...]]] = {
    "propagate_tokens": (lambda: has_numba(), ("pairs", "chunked")),
    "linear_cross_entropy": (lambda: has_avx2(), ("chunked",)),
}


@cache
def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether PyTorch, by oneDNN, has fast matmuls of a half type on this processor: of bfloat16 from AVX-512 on. Its
    others are a loop over numbers, many times slower than in float32 where operands lie the wrong way round."""
    if not torch.backends.mkldnn.is_available():
        return False
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")())


def available_backends(op: str, device_type: str, device: torch.device | None = None) -> tuple[str, ...]:
    """Backends of an operator on a kind of device; `backend="auto"` takes the first that takes the inputs.

    Args:
        op: its name, of those in `OPERATORS` or `WITHOUT_TRITON`.
        device_type: `tensor.device.type`, for example "cpu" or "cuda".
        device: which GPU, where several kinds are there; None for the current one.

    Returns:
        Names out of "numba" (compiled CPU kernels with the exact adjoint; of the head where there is AVX2 with FMA),
        "triton" (compiled kernels for NVIDIA GPUs with the exact adjoint, of propagate_modulus for L alone; in float32
        only, so that "auto" takes the next for float64 inputs), "chunked" (plain PyTorch on any device) and "reference"
        (the definition, a loop over sites under autograd; the head has none). propagate_tokens has "pairs" before
        "chunked" and in the place of "reference": plain PyTorch on any device, quadratic in the sites, which "auto"
        takes for few sites alone. Where TRITON_INTERPRET=1 is set, "triton" stands last on a CPU too: its interpreter
        runs the kernels there, slowly, to debug them.

    Raises:
        ValueError: `op` is not an operator with backends.
    """
    if op in WITHOUT_TRITON:
        compiles, plain = WITHOUT_TRITON[op]
        return ("numba", *plain) if device_type == "cpu" and compiles() else plain
    if op not in OPERATORS:
        known = ", ".join((*OPERATORS, *WITHOUT_TRITON))
        raise ValueError(f"op must be one of {known}, but got {op!r}; check the spelling")
    plain = ("chunked", "reference")
    # An AMD GPU is "cuda" as well; it has no tf32x3, which the kernels' matmuls are made of.
    if device_type == "cuda" and _HAS_TRITON and torch.version.hip is None and _takes_triton(device):
        return ("triton", *plain)
    if device_type == "cpu":
        compiled = ("numba",) if has_numba() else ()
        return (*compiled, *plain, "triton") if _HAS_TRITON and triton_interpreted() else (*compiled, *plain)
    return plain


def _takes_triton(device: torch.device | None) -> bool:
    """Whether Triton supports a GPU, from compute capability 8.0 on, and starts on it. Where none is seen, it is not
    asked; nor, whether it starts, while torch.compile traces, which cannot try it out."""
    if not torch.cuda.is_available():
        return True
    recent = torch.cuda.get_device_capability(device) >= (8, 0)
    return recent and (torch.compiler.is_compiling() or triton_starts())


def triton_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU. It decides when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


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


def choose(op: str, backend: str, like: torch.Tensor, obstacle: Callable[[str], str | None] | None = None) -> str:
    """The backend that `backend` names for inputs such as `like`.

    Args:
        op: as in `available_backends`.
        backend: "auto", or a name.
        like: an input, for device and dtype.
        obstacle: why a backend of the device does not take these inputs ("multiplies in ..., but got ...; take ..."),
            or None where it does; without one, Triton's kernels take no float64.

    Raises:
        ValueError: the operator has no such backend on the device, or it does not take these inputs.
    """
    names = available_backends(op, like.device.type, like.device)
    if obstacle is None:
        obstacle = partial(_obstacle_of_chains, like.dtype)
    if backend == "auto":
        return next(name for name in names if obstacle(name) is None)
    has_triton = op in OPERATORS
    if backend == "triton" and has_triton and like.device.type == "cpu" and backend not in names:
        raise ValueError(
            f"backend 'triton' of {op} needs inputs on a GPU, but they are on cpu; move them with .to('cuda'), take "
            "'auto', or set TRITON_INTERPRET=1 to run Triton's interpreter"
            + ("" if _HAS_TRITON else "; triton is not installed either: pip install '.[triton]' in the checkout")
        )
    if backend not in names:
        hint = ""
        if backend == "triton" and has_triton and not _HAS_TRITON:
            hint = "; triton is not installed"
        elif backend == "triton" and has_triton and like.device.type == "cuda":
            hint = "; triton needs an NVIDIA GPU of compute capability 8.0 or above, a C compiler and Python's headers"
        raise ValueError(
            f"backend must be 'auto' or one of {', '.join(names)} for {op} on {like.device.type}, but got {backend!r}"
            f"{hint}; 'auto' takes the fastest"
        )
    found = obstacle(backend)
    if found is not None:
        raise ValueError(f"backend {backend!r} of {op} {found}")
    return backend


def _obstacle_of_chains(dtype: torch.dtype, backend: str) -> str | None:
    """`obstacle` of `choose` for the operators of a chain."""
    if backend != "triton" or dtype != torch.float64:
        return None
    return "computes in float32, but got torch.float64 inputs; convert them with .float(), or take 'chunked' or 'auto'"


def select(op: str, chosen: str, implementations: dict[str, Implementation]) -> Implementation:
    """The implementation of a backend that `choose` returned; notes it unless it notes itself."""
    if chosen not in _COMPILED and not torch.compiler.is_compiling():
        note(op, chosen)
    return implementations[chosen]


def operands(
    chosen: str, *tensors: torch.Tensor, beside: Sequence[torch.Tensor | None] = ()
) -> tuple[torch.Tensor, ...]:
    """Half types as float32, for backends that compute in the dtype of their inputs. Triton's kernels convert what they
    have loaded, which moves half as much memory.

    Args:
        chosen: the backend.
        tensors: inputs.
        beside: further inputs, which stay as they are.

    Raises:
        ValueError: see `no_tangents`.
    """
    if chosen != "reference":
        no_tangents("operators of a chain", "take backend='reference'", *tensors, *beside)
    if chosen == "triton":
        return tensors
    return tuple(map(at_least_float32, tensors))


def carry_tangents(*tensors: torch.Tensor | None) -> bool:
    """Whether an input carries a tangent of forward-mode differentiation, which an operator with a gradient of its own
    would drop in silence."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


# Numbers for which plain PyTorch, without a gradient, takes as long as the call of a kernel beside its work, 50 us.
FEW = 2**15


def runs_compiled(first: torch.Tensor, *others: torch.Tensor | None, few: bool = True) -> bool:
    """Whether a compiled kernel without other backends takes these inputs: on a CPU with numba, and no tangents.

    Args:
        first: the largest.
        others: further inputs.
        few: also inputs of few numbers that need no gradient, as those of generation.
    """
    if first.device.type != "cpu" or not has_numba() or carry_tangents(first, *others):
        return False
    return few or first.numel() >= FEW or wants_gradient(first, *others)


def no_tangents(what: str, way_out: str, *tensors: torch.Tensor | None) -> None:
    """No input carries a tangent of forward-mode differentiation.

    Raises:
        ValueError: one does.
    """
    if carry_tangents(*tensors):
        raise ValueError(
            f"{what}: no forward-mode derivative, but an input carries a tangent (torch.func.jvp, jacfwd, "
            f"forward_ad); {way_out}, or differentiate backwards"
        )


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether a backward pass may follow, so that a forward pass must keep what it needs."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def autocast_enabled(device: torch.device) -> bool:
    """Whether autocast rounds on this device; never where there is none, as on meta."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keeps autocast out: it would round the operands of matmuls."""
    return torch.autocast(device.type, enabled=False) if autocast_enabled(device) else nullcontext()


def takes_token(hidden: torch.Tensor) -> bool:
    """Whether kernels of one token (`block_step`, `modulus_step`, `pointer_step`, `row_product`) are for tokens like
    `hidden`: on a CPU with numba, in float32 or float64, where no gradient, tangent or graph is recorded and nothing is
    autocast."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and forward_ad._current_level < 0
        and hidden.dtype in (torch.float32, torch.float64)
        and runs_compiled(hidden)
        and not autocast_enabled(hidden.device)
    )


def beside_token(hidden: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether they may take these real tensors beside tokens like `hidden`: in its precision and place, and as they lie
    in memory, for what is not contiguous would be copied at every token."""
    dtype, device = hidden.dtype, hidden.device
    return all(
        x is None or (x.dtype is dtype and x.device == device and x.layout is torch.strided and x.is_contiguous())
        for x in others
    )
