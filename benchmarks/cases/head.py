"""The vocabulary head: our fused cross-entropy beside PyTorch's, all of its chunked modes, and the unfused loss.

Shape legend: N tokens, D width, V words.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gate import Check, compare, relative_error
from benchmarks.memory import peaks
from benchmarks.row import OURS, Row, Table, Target, comparison
from resnet_bk.ops import linear_cross_entropy
from resnet_bk.ops.dispatch import cpu_multiplies
from resnet_bk.ops.precision import HALF

CASE = "head"
SHAPE, QUICK_SHAPE = (2048, 64, 30_000), (64, 16, 300)
UNFUSED, TORCH = "F.cross_entropy(F.linear)", "F.linear_cross_entropy"
# Fields of torch.nn.LinearCrossEntropyOptions: the default, every accumulation policy with the library's own size of
# chunks, and chunks as small as ours. No release of PyTorch need have all.
MODES: dict[str, dict[str, Any]] = {
    "auto": {},
    "accurate": {"acc_policy": "accurate", "chunking_method": "aspect_ratio"},
    "balanced": {"acc_policy": "balanced", "chunking_method": "aspect_ratio"},
    "compact": {"acc_policy": "compact", "chunking_method": "aspect_ratio"},
    "half chunks": {"acc_policy": "auto", "chunking_method": "aspect_ratio:2"},
    "64 tokens": {"acc_policy": "auto", "chunking_method": None, "batch_chunk_size": 64},
    "512 tokens": {"acc_policy": "auto", "chunking_method": None, "batch_chunk_size": 512},
}
DTYPES = (torch.float32, torch.bfloat16)
TARGETS = {torch.float32: 4.0, torch.bfloat16: 2.0}
TRUTH_CHUNK = 256
NOT_ROUNDED = "ours multiplies in float32: matmuls of this precision are slow in PyTorch on this processor"
Loss = Callable[..., Tensor]


def losses() -> dict[str, Loss]:
    """name -> (input, weight, target, bias) -> mean loss, with those of `MODES` that this PyTorch has."""
    found: dict[str, Loss] = {OURS: linear_cross_entropy, UNFUSED: unfused, TORCH: fused}
    for name, fields in MODES.items():
        try:
            options = torch.nn.LinearCrossEntropyOptions(**fields)
        except ValueError:  # an option of other versions: `missing` says so
            continue
        found[f"{TORCH}, {name}"] = partial(fused, options=options)
    return found


def missing() -> list[str]:
    """A note for what this PyTorch does not have."""
    wanted, there = (f"{TORCH}, {name}" for name in MODES), losses()
    return [f"this PyTorch ({torch.__version__}) has no {name}" for name in wanted if name not in there]


def unfused(input: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.cross_entropy(F.linear(input, weight, bias).float(), target)


def fused(input: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, options: Any = None) -> Tensor:
    return F.linear_cross_entropy(input, weight, target, linear_bias=bias, options=options)


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, with_bias: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Leaves (hidden states of size 1 as a norm leaves them, weights of 0.02, a bias) and targets."""
    tokens, width, words = shape
    generator = torch.Generator().manual_seed(0)
    drawn = {
        "input": torch.randn(tokens, width, generator=generator),
        "weight": 0.02 * torch.randn(words, width, generator=generator),
        "bias": 0.02 * torch.randn(words, generator=generator),
    }
    target = torch.randint(words, (tokens,), generator=generator)
    wanted = drawn if with_bias else {name: drawn[name] for name in ("input", "weight")}
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in wanted.items()}, target


def prepare(name: str, shape: tuple[int, int, int], dtype: torch.dtype, with_bias: bool) -> Callable[[], object]:
    """Loss and gradients of a contender as one call."""
    tensors, target = inputs(shape, dtype, with_bias)
    loss, wanted = losses()[name], list(tensors.values())

    def run() -> object:
        value = loss(target=target, **tensors)
        return value, torch.autograd.grad(value, wanted)

    return run


def rows(quick: bool) -> Iterator[Row]:
    seconds, most = (0.05, 1) if quick else (5.0, 21)
    shape = QUICK_SHAPE if quick else SHAPE
    names = list(losses())
    for dtype in DTYPES:
        notes = (*missing(), *((NOT_ROUNDED,) if dtype in HALF and not cpu_multiplies(dtype) else ()))
        for with_bias in (False, True):
            title = (
                f"N={shape[0]:,}, D={shape[1]}, V={shape[2]:,}, {short(dtype)}, {'with' if with_bias else 'no'} bias"
            )
            yield comparison(
                CASE,
                f"{title}, forward and backward",
                {name: prepare(name, shape, dtype, with_bias) for name in names},
                partial(checks, shape, dtype, with_bias),
                seconds=seconds,
                most_rounds=most,
                targets={TORCH: TARGETS[dtype]},
                notes=notes,
            )
    yield memory(shape, [name for name in names if not quick or name in (OURS, UNFUSED)])


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def checks(shape: tuple[int, int, int], dtype: torch.dtype, with_bias: bool) -> list[Check]:
    """Loss and gradients of ours against the unfused loss in float64, a few tokens at a time."""
    tensors, target = inputs(shape, dtype, with_bias)
    loss: Loss = linear_cross_entropy
    value = loss(target=target, **tensors)
    grads = torch.autograd.grad(value, list(tensors.values()))
    wide = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    total = 0.0
    for start in range(0, len(target), TRUTH_CHUNK):
        part = slice(start, start + TRUTH_CHUNK)
        logits = F.linear(wide["input"][part], wide["weight"], wide.get("bias"))
        part_loss = F.cross_entropy(logits, target[part], reduction="sum") / len(target)
        part_loss.backward()
        total += part_loss.item()
    found = {f"gradient of {name}": grad for name, grad in zip(tensors, grads, strict=True)}
    expected = {f"gradient of {name}": tensor.grad for name, tensor in wide.items() if tensor.grad is not None}
    # Float32: rounding of sums over N or V terms. Bfloat16: operands and results are rounded to 8 bits, an error of
    # eps / 2 each, of logits, softmax and result.
    loss_tolerance, tolerance = (1e-5, 2e-5) if dtype == torch.float32 else (1e-3, 4 * torch.finfo(dtype).eps)
    error = relative_error(value.double(), torch.tensor(total, dtype=torch.float64))
    return [Check("loss", error, loss_tolerance), *compare(found, expected, tolerance)]


def memory(shape: tuple[int, int, int], names: list[str]) -> Row:
    """Peak memory of loss and gradients beyond the inputs, with bias."""
    warm = (64, shape[1], 64)
    lines: list[tuple[Any, ...]] = []
    targets: list[Target] = []
    notes: dict[str, None] = {}  # each once
    for dtype in DTYPES:
        points = [((name, shape, dtype, True), (name, warm, dtype, True)) for name in names]
        used, unmeasured = peaks(prepare, points)
        found = dict(zip(names, used, strict=True))
        notes |= dict.fromkeys(unmeasured)
        ours, theirs = found[OURS], found.get(TORCH)
        lines += [(name, short(dtype), mib, mib / ours if mib and ours else None) for name, mib in found.items()]
        share = ours / theirs if ours and theirs else None
        targets.append(Target(f"peak memory over {TORCH}, {short(dtype)}", "at most", 0.25, share))
    columns = ("contender", "dtype", "MiB beyond the inputs", "times ours")
    name = "peak memory, forward and backward, with bias"
    return Row(CASE, name, targets=tuple(targets), table=Table(columns, tuple(lines)), notes=tuple(notes))
