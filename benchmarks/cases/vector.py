"""The vector-state scan beside a copy of its inputs and outputs, and beside autograd through its definition.

Shape legend: B batch, T sites, C channels.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import copy_of, same_traffic
from benchmarks.gate import Check, compare
from benchmarks.inputs import chain, float32_tolerance, normal, step, truth_backend, with_gradients
from benchmarks.row import OURS, Row, comparison
from resnet_bk.ops import propagate_vector

CASE = "vector"
TRAINING, LONG = (16, 128, 64), (1, 65_536, 256)
SEQUENTIAL = (16, 2_048, 64)
QUICK = (2, 16, 8), (1, 64, 16), (2, 64, 8)
TRUTH_CHANNELS = 64
COPY, TRAFFIC, LOOP = "copy of inputs and outputs", "copy of the same traffic", "autograd through the loop over sites"


def psi(backend: str = "auto", **tensors: Any) -> Tensor:
    return propagate_vector(**tensors, backend=backend)[0]


def inputs(shape: tuple[int, int, int]) -> dict[str, Tensor]:
    return {"source": normal(shape, seed=1)} | chain(shape)


def rows(quick: bool) -> Iterator[Row]:
    training, long, sequential = QUICK if quick else (TRAINING, LONG, SEQUENTIAL)
    seconds, most = (0.05, 1) if quick else (4.0, 41)
    for shape in (training, long):
        tensors, bar = inputs(shape), normal(shape, seed=2)
        gate = cache(partial(checks, tensors, bar))
        copied = outputs(tensors, bar)
        yield comparison(
            CASE,
            f"{title(shape)}, forward",
            {
                OURS: forward(tensors),
                COPY: copy_of([*tensors.values(), copied["output"]]),
                TRAFFIC: same_traffic([*tensors.values()], [copied["output"]]),
            },
            gate,
            seconds=seconds,
            most_rounds=most,
            targets={COPY: 0.6},
        )
        written = list(copied.values())
        yield comparison(
            CASE,
            f"{title(shape)}, forward and backward",
            {
                OURS: step(psi, tensors, bar),
                COPY: copy_of([*tensors.values(), copied["output"], *written]),
                TRAFFIC: same_traffic([*tensors.values(), copied["output"]], written),
            },
            gate,
            seconds=seconds,
            most_rounds=most,
            targets={COPY: 0.4},
        )
    tensors, bar = inputs(sequential), normal(sequential, seed=2)
    yield comparison(
        CASE,
        f"{title(sequential)}, forward and backward",
        {OURS: step(psi, tensors, bar), LOOP: step(partial(psi, "reference"), tensors, bar)},
        partial(checks, tensors, bar),
        seconds=seconds,
        most_rounds=most,
        targets={LOOP: 100.0},
    )


def title(shape: tuple[int, int, int]) -> str:
    return f"B={shape[0]:,}, T={shape[1]:,}, C={shape[2]:,}"


def checks(tensors: dict[str, Tensor], bar: Tensor) -> list[Check]:
    """float32 against float64, by the definition where T is small."""
    expected = truth(tensors, bar)
    return compare(with_gradients(psi, tensors, bar, torch.float32), expected, float32_tolerance(tensors))


def truth(tensors: dict[str, Tensor], bar: Tensor) -> dict[str, Tensor]:
    """Output and gradients in float64, some channels at a time: plain PyTorch needs many times the memory of its inputs
    where the chain is long."""
    function = partial(psi, truth_backend(bar.shape[1]))
    parts = []
    for start in range(0, bar.shape[2], TRUTH_CHANNELS):
        part = slice(start, start + TRUTH_CHANNELS)
        some = {name: tensor[..., part] for name, tensor in tensors.items()}
        parts.append(with_gradients(function, some, bar[..., part], torch.float64))
    return {name: torch.cat([found[name] for found in parts], -1) for name in parts[0]}


def outputs(tensors: dict[str, Tensor], bar: Tensor) -> dict[str, Tensor]:
    """Tensors like the results, for the copies: psi, and a gradient for every input."""
    like_psi = torch.zeros_like(bar, dtype=torch.complex64)
    return {"output": like_psi} | {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def forward(tensors: dict[str, Tensor]) -> Callable[[], object]:
    plain: dict[str, Any] = {name: tensor.clone() for name, tensor in tensors.items()}

    def run() -> object:
        with torch.no_grad():
            return psi(**plain)

    return run
