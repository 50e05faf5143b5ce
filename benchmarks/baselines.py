"""What the operators are compared with, where it is no library's function.

Shape legend: B batch, T sites, H chains.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def copy_of(tensors: Sequence[Tensor]) -> Callable[[], object]:
    """Copies every tensor into memory that is there already, with PyTorch's threads: the time that bandwidth allows.

    Reads and writes each byte of the operator's inputs and outputs once.
    """
    pairs = [(tensor.detach(), torch.empty_like(tensor)) for tensor in tensors]

    def run() -> None:
        for source, destination in pairs:
            destination.copy_(source)

    return run


def same_traffic(read: Sequence[Tensor], written: Sequence[Tensor]) -> Callable[[], object]:
    """A copy that moves as many bytes as an operator which reads its inputs and writes its outputs once: half of
    `copy_of`. Nothing can be faster that does not find its inputs in a cache."""
    moved = sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
    return copy_of([torch.zeros(max(1, moved // 8), dtype=torch.float32)])


# The determinants of the earlier system, in complex128 under autograd as there. With alpha_t = a_t - i eta_t:
#
#     theta_t = alpha_t theta_{t-1} - b_t^2     theta_{t-2}      of the first t sites,      theta_0 = 1, theta_{-1} = 0
#     phi_t   = alpha_{t+1} phi_{t+1} - b_{t+2}^2 phi_{t+2}      of the sites after t,      phi_T   = 1, phi_{T+1} = 0
#     G_tt    = theta_{t-1} phi_t / theta_T                      L_t = theta_{t-1} / theta_t
#
# They grow like (2.1)^T. What overflows is set to zero in silence, as there.


def determinant_diagonal(potential: Tensor, hopping: Tensor, absorption: Tensor) -> Tensor:
    """G_tt, complex128 [B, T, H], from real [B, T, H]."""
    alpha, beta = _shifted(potential, hopping, absorption)
    theta = _determinants(alpha, beta)
    # From the right, the coupling of a site to the one that was taken before it is that of its right neighbour.
    coupling = torch.cat([beta[:, :1], beta[:, 1:].flip(1)], 1)
    phi = _determinants(alpha.flip(1), coupling).flip(1)
    return _finite(theta[:, :-1] * phi[:, 1:] / theta[:, -1:])


def determinant_green(potential: Tensor, hopping: Tensor, absorption: Tensor) -> Tensor:
    """L_t, complex128 [B, T, H], from real [B, T, H]."""
    theta = _determinants(*_shifted(potential, hopping, absorption))
    return _finite(theta[:, :-1] / theta[:, 1:])


def _shifted(potential: Tensor, hopping: Tensor, absorption: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float64
    return torch.complex(potential.to(wide), -absorption.to(wide)), hopping.to(wide) ** 2


def _determinants(alpha: Tensor, beta: Tensor) -> Tensor:
    """theta_0 ... theta_T, complex128 [B, T + 1, H]; beta of the first site has no use."""
    before, last = torch.zeros_like(alpha[:, 0]), torch.ones_like(alpha[:, 0])
    found = [last]
    for a, b in zip(alpha.unbind(1), beta.unbind(1), strict=True):
        before, last = last, a * last - b * before
        found.append(last)
    return torch.stack(found, 1)


def _finite(value: Tensor) -> Tensor:
    finite = torch.isfinite(value.real) & torch.isfinite(value.imag)
    return torch.where(finite, value, torch.zeros_like(value))
