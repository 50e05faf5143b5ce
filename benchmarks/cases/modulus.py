"""Modulus-state mixing beside PyTorch's causal attention of the same width, as in `cases.attention`.

Shape legend: B = 1, T tokens, H heads, D size of a head.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from benchmarks.cases import attention
from benchmarks.row import Row
from resnet_bk.ops import propagate_modulus

CASE = "modulus"


def mix(backend: str = "auto", **tensors: Any) -> Tensor:
    return propagate_modulus(**tensors, backend=backend)[0]


def rows(quick: bool) -> Iterator[Row]:
    return attention.rows(quick, CASE, mix)
