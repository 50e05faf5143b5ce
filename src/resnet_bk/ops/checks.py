"""Checks of arguments shared by the operators. Each failure names the argument, its value, the rule and the way out.

Values (absorption > 0, hopping >= 0, no infinite transmission) are looked at on the CPU only: on other
devices reading them would make the program wait for the device at every call, and while a graph is traced there are
none. Other input that is not finite is not looked for: it shows in the results.

Shape legend: B batch, T sites, H chains (heads or channels), K key size, V value size.
"""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from resnet_bk.ops.precision import HALF

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
FLOATS = (torch.float32, torch.float64, *HALF)


def shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def real_inputs(**tensors: Tensor) -> None:
    """Real tensors on one device, all float64 or none of them."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, but got {type(tensor).__name__}; wrap it in torch.tensor")
        if tensor.dtype not in FLOATS:
            raise ValueError(
                f"{name} must be float32, float64, bfloat16 or float16, but got {tensor.dtype}; "
                "convert it, for example with .float()"
            )
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1:
        listed = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"all inputs must be on one device, but got {listed}; move them with .to(device)")
    double = [tensor.dtype == torch.float64 for tensor in tensors.values()]
    if any(double) and not all(double):
        listed = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(
            f"inputs must all be float64 or none of them, but got {listed}; convert them to one dtype "
            "(half types are computed in float32 and may stand beside it)"
        )


def same_shape(**tensors: Tensor) -> None:
    """All [B, T, H] with T >= 1."""
    for name, tensor in tensors.items():
        if tensor.ndim != 3:
            raise ValueError(
                f"{name} must be [batch, sites, chains], but got shape {shape(tensor)}; "
                "add the missing dimensions with unsqueeze"
            )
    first, *others = tensors.values()
    if any(other.shape != first.shape for other in others):
        listed = ", ".join(f"{name} {shape(tensor)}" for name, tensor in tensors.items())
        raise ValueError(
            f"{', '.join(tensors)} must have one shape [batch, sites, chains], but got {listed}; "
            "expand those that are shared"
        )
    name, tensor = next(iter(tensors.items()))
    if tensor.shape[1] == 0:
        raise ValueError(f"the chain must have at least one site, but {name} has shape {shape(tensor)}; skip the call")


def has_values(tensor: Tensor) -> bool:
    """Whether numbers can be looked at, without a wait for a device and outside of graphs."""
    return (
        tensor.device.type == "cpu"
        and tensor.numel() > 0
        and not torch.compiler.is_compiling()
        and not isinstance(tensor, FakeTensor)
    )


def _position(mask: Tensor) -> list[int]:
    return mask.nonzero()[0].tolist()


@torch.no_grad()
def chain_values(hopping: Tensor, absorption: Tensor) -> None:
    """hopping >= 0, and absorption > 0; in float64 absorption >= 1e-150, for the gradient has its inverse squared."""
    if has_values(absorption):
        double = absorption.dtype == torch.float64
        wrong = absorption < 1e-150 if double else absorption <= 0  # not amin, which a NaN elsewhere would hide it from
        if bool(wrong.any()):
            place = _position(wrong)
            rule = "at least 1e-150 in float64" if double else "above 0"
            raise ValueError(
                f"absorption must be {rule} at every site, for 1/absorption bounds the result, but "
                f"absorption{place} is {absorption[tuple(place)].item():g}; use softplus, or add a positive floor"
            )
    if has_values(hopping) and bool((hopping < 0).any()):
        place = _position(hopping < 0)
        raise ValueError(
            f"hopping must be 0 (no coupling to the site before) or above, but hopping{place} is "
            f"{hopping[tuple(place)].item():g}; use softplus or abs (its sign has no effect on the spectrum)"
        )


@torch.no_grad()
def transmission_values(log_transmission: Tensor) -> None:
    """No infinite transmission, from which differences would be NaN; one of 0 is right. A NaN is passed on, as by every
    operator."""
    if has_values(log_transmission) and bool(log_transmission.isposinf().any()):
        place = _position(log_transmission.isposinf())
        raise ValueError(
            f"log_transmission must be the logarithm of a number at every site, but log_transmission{place} is inf; "
            "clamp it, or give -inf where nothing shall pass"
        )


def in_vocabulary(tokens: Tensor, words: int) -> None:
    """Tokens from 0 to `words` - 1, for they are places in a state that has a column a word."""
    if not has_values(tokens):
        return
    low, high = tokens.aminmax()
    if low < 0 or high >= words:
        raise ValueError(
            f"tokens must be from 0 to {words - 1}, the words of the pointer's state, but got "
            f"{int(low if low < 0 else high)}; encode the text with the model's tokenizer"
        )


def heads(
    chain: Tensor, *, query: Tensor, key: Tensor, value: Tensor | None = None, chain_name: str = "potential"
) -> None:
    """query and key [B, T, H, K], value [B, T, H, V] if there is one, beside a chain [B, T, H] of that name."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor is None:
            continue
        if tensor.ndim != 4 or tensor.shape[:3] != chain.shape:
            raise ValueError(
                f"{name} must be [batch, sites, heads, size] with the first three as in {chain_name} {shape(chain)}, "
                f"but got {shape(tensor)}; split the heads apart with unflatten"
            )
        if tensor.shape[3] == 0:
            raise ValueError(
                f"{name} must have a size of at least 1 a head, but got {shape(tensor)}; give every head a number"
            )
    if query.shape != key.shape:
        raise ValueError(
            f"query and key must have the same size a head, but got {shape(query)} and {shape(key)}; "
            "project both to one key size"
        )


def words(chain: Tensor, **tensors: Tensor) -> None:
    """Integers [B, T] beside a chain [B, T, H]."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in INTEGERS:
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} must be a tensor of integers, but got {got}; convert it with .long()")
        if tensor.shape != chain.shape[:2]:
            raise ValueError(
                f"{name} must be [batch, sites], here {tuple(chain.shape[:2])}, but got shape {shape(tensor)}; give "
                "every site one number"
            )
        if tensor.device != chain.device:
            raise ValueError(f"{name} must be on {chain.device} like the inputs, but is on {tensor.device}; move it")


def state_part(name: str, state: object, like: Tensor, expected: tuple[int, ...], *, real: bool = False) -> Tensor:
    """One tensor of a state, or zeros for None: complex (or `real`), of the precision and on the device of `like`."""
    # torch.compile does not know dtype.to_complex.
    narrow, wide = (torch.float32, torch.float64) if real else (torch.complex64, torch.complex128)
    dtype = wide if like.dtype == torch.float64 else narrow
    if state is None:
        return torch.zeros(expected, dtype=dtype, device=like.device)
    if not isinstance(state, Tensor):
        raise ValueError(
            f"{name} must be a tensor, but got {type(state).__name__}; pass the state that an earlier call returned"
        )
    if tuple(state.shape) != expected:
        raise ValueError(
            f"{name} must have shape {expected}, but got {shape(state)}; "
            "pass the state that a call with the same batch and chains returned"
        )
    if state.dtype.is_complex == real and (real or state.dtype in FLOATS):
        raise ValueError(
            f"{name} must be {dtype} for {like.dtype} inputs, but got {state.dtype}, which is the state of another "
            "operator; pass the one that an earlier call of this operator returned"
        )
    if state.dtype != dtype:
        raise ValueError(
            f"{name} must be {dtype} for {like.dtype} inputs, but got {state.dtype}; convert it with .to({dtype})"
        )
    if state.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the inputs, but is on {state.device}; move it")
    return state


def green_state(name: str, state: object, like: Tensor) -> Tensor:
    """A state with one number a chain, [B, H]."""
    return state_part(name, state, like, (like.shape[0], like.shape[2]))


def state_pair(state: object, second: str) -> tuple[object, object]:
    """The two parts of a state, the surface Green's function and `second`; None stands for both missing."""
    if state is None:
        return None, None
    if isinstance(state, tuple | list) and len(state) == 2 and any(part is None for part in state):
        missing = "green" if state[0] is None else second
        raise ValueError(
            f"initial_state must have both parts (green, {second}), but {missing} is None; pass the state that an "
            "earlier call returned, or None for both"
        )
    if not isinstance(state, tuple | list) or len(state) != 2:
        got = f"{len(state)} parts" if isinstance(state, tuple | list) else type(state).__name__
        raise ValueError(
            f"initial_state must be None or a pair (green, {second}), but got {got}; "
            "pass the state that an earlier call returned"
        )
    return state[0], state[1]


def kept(checkpoints: Tensor) -> None:
    """A forward pass kept what the gradient needs; without, a kernel would read memory that is not its own.

    Raises:
        RuntimeError: it did not, as in a graph that was traced without gradients.
    """
    if checkpoints.ndim == 1:
        raise RuntimeError(
            "the forward pass kept nothing for a gradient: it was called, or traced (torch.export), without one; trace "
            "it with inputs that require gradients"
        )


def check_step(state: Tensor, **parts: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """What kernels of one token take beside a state, each with the shape that it must have: they would read beyond what
    is smaller.

    Raises:
        ValueError: one has another shape.
    """
    for name, (given, shape) in parts.items():
        if given is not None and given.shape != shape:
            raise ValueError(
                f"{name} must be {list(shape)} beside a state of {list(state.shape)}, but got {list(given.shape)}; the "
                "module that it comes from needs the size that the state was made with"
            )
