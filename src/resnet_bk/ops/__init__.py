"""Differentiable operators on tridiagonal (Jacobi) operators, linear in the number of sites, what a pointer trains on,
and the fused vocabulary head.

Importing this package compiles nothing and does not import numba: kernels are compiled at their first call and kept on
disk.
"""

from resnet_bk.ops import flops as _flops  # noqa: F401  (registers the formulas)
from resnet_bk.ops.dispatch import available_backends, record_backends
from resnet_bk.ops.linear_cross_entropy import linear_cross_entropy
from resnet_bk.ops.propagate import propagate
from resnet_bk.ops.propagate_modulus import propagate_modulus
from resnet_bk.ops.propagate_tokens import propagate_tokens
from resnet_bk.ops.propagate_vector import propagate_vector
from resnet_bk.ops.resolvent_diagonal import resolvent_diagonal
from resnet_bk.ops.surface_green import surface_green

__all__ = [
    "available_backends",
    "linear_cross_entropy",
    "propagate",
    "propagate_modulus",
    "propagate_tokens",
    "propagate_vector",
    "record_backends",
    "resolvent_diagonal",
    "surface_green",
]
