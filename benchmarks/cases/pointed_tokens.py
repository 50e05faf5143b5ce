"""What a training step needs of the pointer, forward and backward, beside the sum over all pairs of tokens.

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
BASELINE = "all pairs"
# The sums are formed in float64 and rounded to float32 once; 6e-8, and as much of the inputs.
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
        contenders = {OURS: partial(shares, "numba", ids), BASELINE: partial(shares, "pairs", ids)}
        yield comparison(
            CASE,
            f"B={shape[0]}, T={shape[1]:,}, {shape[2]} heads, {shape[3]} kinds, forward and backward",
            {name: step(call, tensors, bar) for name, call in contenders.items()},
            partial(checks, tensors, bar, ids),
            seconds=seconds,
            most_rounds=most,
        )


def checks(tensors: dict[str, Tensor], bar: Tensor, ids: Tensor) -> list[Check]:
    """Against all pairs in float64."""
    expected = with_gradients(partial(shares, "pairs", ids), tensors, bar, torch.float64)
    return compare(with_gradients(partial(shares, "numba", ids), tensors, bar, torch.float32), expected, TOLERANCE)
