"""The linear recurrence in plain PyTorch."""

import pytest
import torch

from resnet_bk.ops.scan import linear_scan, reverse_scan


def draw(*shape):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(shape[1]))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 33])
def test_equals_the_loop(steps):
    decay, source, x = draw(2, steps, 1), draw(2, steps, 3), draw(2, steps + 1, 3)[:, 0]
    result = linear_scan(decay, source, x)
    for t in range(steps):
        x = decay[:, t] * x + source[:, t]
        # |decay| is about 1: products of up to 33 of them may reach a few thousand.
        torch.testing.assert_close(result[:, t], x, rtol=1e-12, atol=1e-10)


def test_reverse():
    decay, source = draw(1, 6, 2), draw(1, 6, 2)
    result, x = reverse_scan(decay, source), torch.zeros(1, 2, dtype=torch.complex128)
    for t in range(5, -1, -1):
        x = source[:, t] + (decay[:, t + 1] * x if t < 5 else 0)
        torch.testing.assert_close(result[:, t], x)


def test_gradients():
    inputs = [x.requires_grad_() for x in (draw(1, 5, 1), draw(1, 5, 2), draw(1, 6, 2)[:, 0].detach())]
    torch.autograd.gradcheck(linear_scan, inputs)
    torch.autograd.gradgradcheck(linear_scan, inputs, fast_mode=True)
