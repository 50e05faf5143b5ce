"""The precision in which plain PyTorch computes a chain.

L, the transmissions and their adjoints obey recurrences conditioned like 1/eta (worse where the energy is at an edge of
the band): float32 would keep 4 to 5 digits of them at eta = 1e-3. They are computed in float64, from and to the
precision of the inputs; what has K or V numbers a site is not.

On the way back, forward for results and backward for gradients, what is out of the range of float32 becomes its largest
number of that sign, not an infinity: the next product with 0 would be NaN.
"""

from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
PRECISE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(torch.float32).max  # no global: torch.compile(dynamic=True) would make it a symbol
    if x.is_complex():
        parts = torch.view_as_real(x.resolve_conj())
        return torch.view_as_complex(parts.clamp(-largest, largest)).to(dtype)
    return x.clamp(-largest, largest).to(dtype)


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return x.to(PRECISE[x.dtype])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        return (narrowed(grad, ctx.dtype),)


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return _saturated(x, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return widened(grad)[0], None


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it is of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_float64(x: Tensor) -> Tensor:
    """x in float64, but for MPS, which has none, by a conversion that can be differentiated forwards too. Its gradient
    is as it comes, an infinity where `widened` has the largest float32."""
    return x if x.device.type == "mps" else x.to(torch.float64)


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, real or complex, in float64; unchanged where they are, and on MPS, which has none."""
    if tensors[0].device.type == "mps":
        return tensors
    if not torch.is_grad_enabled():
        return tuple(x.to(PRECISE.get(x.dtype, x.dtype)) for x in tensors)
    return tuple(_Widen.apply(x) if x.dtype in PRECISE else x for x in tensors)


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in the precision of `dtype`, which is what `widened` started from."""
    if x.dtype == dtype:
        return x
    return _Narrow.apply(x, dtype) if torch.is_grad_enabled() else _saturated(x, dtype)
