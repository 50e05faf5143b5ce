"""The filter of the short convolution, forward and backward, beside PyTorch's gradient of the same convolution.

Shape legend: B batch, T tokens, C channels, K taps.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gate import Check, compare
from benchmarks.inputs import normal, step, with_gradients
from benchmarks.row import OURS, Row, comparison
from resnet_bk.layers.causal_filter import causal_filter

CASE = "short convolution"
# Queries, keys and values as wide as keys, at the shapes of `seed-local-tuned` and of `small`.
SHAPES = (16, 128, 336), (8, 512, 768)
QUICK = ((2, 16, 8),)
TAPS = 4
BASELINE = "F.conv2d"
# Of float32, for sums over B T tokens; of bfloat16, rounding of the results.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def ours(x: Tensor, weight: Tensor) -> Tensor:
    return causal_filter(x, weight, length=x.shape[1])


def baseline(x: Tensor, weight: Tensor) -> Tensor:
    """What `causal_filter` does going forward, with the gradient that PyTorch has for it."""
    picture = x.transpose(1, 2).unsqueeze(2)
    y = F.conv2d(picture, weight[:, None, None, :], padding=(0, TAPS - 1), groups=weight.shape[0])
    return y.squeeze(2).transpose(1, 2)[:, : x.shape[1]]


def rows(quick: bool) -> Iterator[Row]:
    seconds, most = (0.05, 1) if quick else (4.0, 41)
    for shape in QUICK if quick else SHAPES:
        for dtype in TOLERANCE:
            tensors = {"x": normal(shape, seed=1).to(dtype), "weight": normal((shape[2], TAPS), seed=2).to(dtype)}
            bar = normal(shape, seed=3).to(dtype)
            yield comparison(
                CASE,
                f"B={shape[0]}, T={shape[1]}, C={shape[2]}, {str(dtype).removeprefix('torch.')}, forward and backward",
                {OURS: step(ours, tensors, bar), BASELINE: step(baseline, tensors, bar)},
                partial(checks, tensors, bar, dtype),
                seconds=seconds,
                most_rounds=most,
            )


def checks(tensors: dict[str, Tensor], bar: Tensor, dtype: torch.dtype) -> list[Check]:
    expected = with_gradients(baseline, tensors, bar, torch.float64)
    return compare(with_gradients(ours, tensors, bar, dtype), expected, TOLERANCE[dtype])
