"""What a training step needs of the pointer, forward and backward, beside plain PyTorch in two ways.

Shape legend: B batch, T tokens, H heads, K kinds of context.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gate import Check, compare
from benchmarks.inputs import normal, step, with_gradients
from benchmarks.row import OURS, Row, comparison
from resnet_bk.ops import propagate_tokens

CASE = "pointer"
# Of `seed-local-tuned`, of `small`, and as many tokens in one segment.
SHAPES = (16, 128, 4, 16), (8, 512, 4, 16), (1, 4096, 4, 16)
QUICK = ((2, 16, 2, 4),)
WORDS = 30_000
BASELINES = {"all pairs": "pairs", "sorted chains": "chunked"}
# float32 rounds by 6e-8: the inputs, the sums, and in plain PyTorch the matmuls on the way.
TOLERANCE = 1e-6


def words(batch: int, length: int) -> Tensor:
    """Words as frequent as in a text: the k-th of them about 1/k of the time; int64 [B, T + 1]."""
    drawn = torch.rand(batch, length + 1, generator=torch.Generator().manual_seed(4))
    return torch.exp(drawn * torch.tensor(float(WORDS)).log()).long() - 1


def shares(backend: str, ids: Tensor, *, query: Tensor, key: Tensor, log_transmission: Tensor) -> Tensor:
    """n and m side by side, [2, B, T, H]."""
    found = propagate_tokens(query, key, log_transmission, ids[:, :-1], ids[:, 1:], backend=backend)
    return torch.stack(found)


def rows(quick: bool) -> Iterator[Row]:
    seconds, most = (0.05, 1) if quick else (6.0, 21)
    for shape in QUICK if quick else SHAPES:
        ids = words(*shape[:2])
        tensors = {
            "query": normal(shape, seed=1).softmax(-1),
            "key": normal(shape, seed=2).softmax(-1),
            "log_transmission": -0.1 * normal(shape[:3], seed=3).abs(),  # memories of about ten words
        }
        bar = normal((2, *shape[:3]), seed=5)
        backends = {OURS: "numba"} | BASELINES
        yield comparison(
            CASE,
            f"B={shape[0]}, T={shape[1]:,}, {shape[2]} heads, {shape[3]} kinds, forward and backward",
            {name: step(partial(shares, backend, ids), tensors, bar) for name, backend in backends.items()},
            partial(checks, tensors, bar, ids),
            seconds=seconds,
            most_rounds=most,
        )


def checks(tensors: dict[str, Tensor], bar: Tensor, ids: Tensor) -> list[Check]:
    """Against all pairs in float64."""
    expected = with_gradients(partial(shares, "pairs", ids), tensors, bar, torch.float64)
    found: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for backend in ("numba", *BASELINES.values()):
        ours = with_gradients(partial(shares, backend, ids), tensors, bar, torch.float32)
        found |= {f"{backend}: {name}": tensor for name, tensor in ours.items()}
        wanted |= {f"{backend}: {name}": tensor for name, tensor in expected.items()}
    return compare(found, wanted, TOLERANCE)
