"""Conversions between precisions."""

import pytest
import torch

from resnet_bk.ops.precision import at_least_float32, in_float64, narrowed, widened


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_at_least_float32(dtype, expected):
    x = torch.ones(2, dtype=dtype)
    found = at_least_float32(x)
    assert found.dtype == expected
    assert (found is x) == (dtype == expected)


def test_float64_can_be_differentiated_forwards():
    x = torch.rand(3)
    _, tangent = torch.func.jvp(in_float64, (x,), (x,))
    assert torch.equal(tangent, x.double())


@pytest.mark.parametrize(("convert", "expected"), [(in_float64, torch.inf), (widened, torch.finfo(torch.float32).max)])
def test_a_gradient_out_of_range(convert, expected):
    x = torch.ones(1, requires_grad=True)
    found = convert(x)
    (1e300 * (found[0] if isinstance(found, tuple) else found)).sum().backward()
    assert x.grad.item() == expected


def test_a_result_out_of_range():
    assert narrowed(torch.tensor([1e300]).double(), torch.float32).item() == torch.finfo(torch.float32).max
