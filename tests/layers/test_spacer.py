"""Transparent sites: the state after the filling is the state after the last token, for every operator and backend."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from resnet_bk import ops
from resnet_bk.layers.spacer import backend_for, spacer

COUNTS = torch.tensor([7, 5, 4, 3, 2, 1, 0])
WIDTH = 9  # 2 to 9 sites of filling


def chain(dtype, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shape = (len(COUNTS), WIDTH, 4)
    potential, hopping, absorption = torch.randn(3, *shape, dtype=dtype, generator=generator).unbind()
    return potential * scale, hopping.abs() + 0.1, absorption.abs() + 1e-3


def filled_up(tensors):
    filling = spacer(COUNTS, WIDTH)
    token = (torch.arange(WIDTH) < COUNTS.unsqueeze(1)).unsqueeze(-1)
    sites = (filling.potential, filling.hopping, filling.absorption)
    return filling, token, [torch.where(token, x, y.to(x.dtype)) for x, y in zip(tensors, sites, strict=True)]


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_vector_state(backend, with_state, scale):
    inputs = chain(torch.float64, scale)
    source = torch.randn(inputs[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = None
    if with_state:
        start = [x[:, :3] for x in (source, *inputs)]
        state = ops.propagate_vector(*start)[1]
    filling, token, sites = filled_up(inputs)
    _, (green, psi) = ops.propagate_vector(source * token, *sites, initial_state=state, backend=backend)
    for row, count in enumerate(COUNTS.tolist()):
        assert bool(filling.filled[row]) == (count > 0)
        if count == 0:
            continue
        own = [x[row : row + 1, :count] for x in (source, *inputs)]
        before = None if state is None else tuple(part[row : row + 1] for part in state)
        _, (expected_green, expected_psi) = ops.propagate_vector(*own, initial_state=before)
        assert_close(green[row : row + 1], expected_green, rtol=1e-9, atol=0)
        assert_close(filling.sign[row] * psi[row : row + 1], expected_psi, rtol=1e-9, atol=1e-15)
    assert torch.isfinite(torch.view_as_real(psi)).all()


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
def test_matrix_state_and_its_gradients(backend):
    inputs = [x.requires_grad_() for x in chain(torch.float64)]
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, len(COUNTS), WIDTH, 4, 5, dtype=torch.float64, generator=generator).unbind()
    filling, token, sites = filled_up(inputs)
    _, (green, memory) = ops.propagate(query, key, value * token.unsqueeze(-1), *sites, backend=backend)
    weight = torch.randn(memory.shape, dtype=memory.dtype, generator=generator)
    for row, count in enumerate(COUNTS.tolist()):
        if count == 0:
            continue
        mine = filling.sign[row] * memory[row]
        gradients = torch.autograd.grad(
            (mine * weight[row]).real.sum() + green[row].real.sum(), inputs, retain_graph=True
        )
        own = [x[row : row + 1, :count] for x in (query, key, value, *inputs)]
        _, (expected_green, expected) = ops.propagate(*own)
        assert_close(mine, expected[0], rtol=1e-9, atol=1e-15)
        wanted = torch.autograd.grad((expected[0] * weight[row]).real.sum() + expected_green.real.sum(), inputs)
        for gradient, other in zip(gradients, wanted, strict=True):
            assert_close(gradient, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
@pytest.mark.parametrize("erases", [False, True])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-8), (torch.float32, 1e-4)], ids=str)
def test_modulus_state_and_its_gradients(backend, erases, dtype, digits):
    # Chains with absorptions from 1e-3 on: condition numbers of a few thousand at the worst.
    inputs = [x.requires_grad_() for x in chain(dtype)]
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, len(COUNTS), WIDTH, 4, 5, dtype=dtype, generator=generator).unbind()
    key = torch.nn.functional.normalize(key, dim=-1)
    write = torch.rand(len(COUNTS), WIDTH, 4, dtype=dtype, generator=generator)
    _, state = ops.propagate_modulus(*(x[:, :3].detach() for x in (query, key, value, *inputs)))
    filling, token, sites = filled_up(inputs)
    held = value * (write * token).unsqueeze(-1)
    erase = write * token if erases else None
    _, (green, memory) = ops.propagate_modulus(
        query, key, held, *sites, erase=erase, initial_state=state, backend=backend
    )
    weight = torch.randn(memory.shape, dtype=dtype, generator=generator)
    for row, count in enumerate(COUNTS.tolist()):
        assert bool(filling.filled[row]) == (count > 0)
        if count == 0:
            continue
        of_row = (memory[row] * weight[row]).sum() + green[row].real.sum()
        gradients = torch.autograd.grad(of_row, inputs, retain_graph=True)
        own = [x[row : row + 1, :count] for x in (query, key, held, *inputs)]
        _, (expected_green, expected) = ops.propagate_modulus(
            *own,
            erase=None if erase is None else erase[row : row + 1, :count],
            initial_state=tuple(part[row : row + 1] for part in state),
        )
        assert_close(green[row], expected_green[0], rtol=digits, atol=0)
        assert_close(memory[row], expected[0], rtol=digits, atol=digits * expected.detach().abs().max().item())
        wanted = torch.autograd.grad((expected[0] * weight[row]).sum() + expected_green.real.sum(), inputs)
        for gradient, other in zip(gradients, wanted, strict=True):
            assert_close(gradient, other, rtol=digits, atol=digits * other.abs().max().item())


def test_the_backend_of_rows_that_are_filled_up():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert backend_for("auto", filled=True, device=gpu) == "chunked"
    assert backend_for("auto", filled=False, device=gpu) == "auto"
    assert backend_for("auto", filled=True, device=cpu) == "auto"
    assert backend_for("reference", filled=True, device=gpu) == "reference"


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
def test_a_long_filling(backend):
    """Whole pieces and chunks of nothing but filling."""
    counts, width = torch.tensor([300, 7]), 300
    generator = torch.Generator().manual_seed(3)
    shape = (2, width, 3)
    potential, hopping, absorption, source = torch.randn(4, *shape, dtype=torch.float64, generator=generator).unbind()
    inputs = (potential, hopping.abs() + 0.1, absorption.abs() + 1e-3)
    filling = spacer(counts, width)
    token = (torch.arange(width) < counts.unsqueeze(1)).unsqueeze(-1)
    fill = (filling.potential, filling.hopping, filling.absorption)
    sites = [torch.where(token, x, y.to(x.dtype)) for x, y in zip(inputs, fill, strict=True)]
    query, key, value = torch.randn(3, 2, width, 3, 4, dtype=torch.float64, generator=generator).unbind()
    value = value * token.unsqueeze(-1)
    _, (green, psi) = ops.propagate_vector(source * token, *sites, backend=backend)
    _, (_, memory) = ops.propagate(query, key, value, *sites, backend=backend)
    own = [x[1:, :7] for x in (source, *inputs)]
    _, (expected_green, expected_psi) = ops.propagate_vector(*own)
    _, (_, expected) = ops.propagate(*(x[1:, :7] for x in (query, key, value, *inputs)))
    sign = filling.sign[1]
    assert_close(green[1:], expected_green, rtol=1e-9, atol=0)
    assert_close(sign * psi[1:], expected_psi, rtol=1e-9, atol=1e-15)
    assert_close(sign * memory[1:], expected, rtol=1e-9, atol=1e-15)
    # The modulus keeps its sign.
    _, (green, memory) = ops.propagate_modulus(query, key, value, *sites, backend=backend)
    _, (_, expected) = ops.propagate_modulus(*(x[1:, :7] for x in (query, key, value, *inputs)))
    assert_close(green[1:], expected_green, rtol=1e-9, atol=0)
    assert_close(memory[1:], expected, rtol=1e-9, atol=1e-15)


def test_float32():
    inputs = chain(torch.float32)
    source = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    filling, token, sites = filled_up(inputs)
    _, (green, psi) = ops.propagate_vector(source * token, *sites)
    for row, count in enumerate(COUNTS.tolist()[:-1]):
        own = [x[row : row + 1, :count] for x in (source, *inputs)]
        _, (expected_green, expected_psi) = ops.propagate_vector(*own)
        assert_close(green[row : row + 1], expected_green, rtol=1e-5, atol=0)
        assert_close(filling.sign[row] * psi[row : row + 1], expected_psi, rtol=1e-5, atol=1e-7)


def test_what_a_long_filling_rounds():
    """Each of its sites rounds what was written once, and the errors may add up (docs/switches.md)."""
    filling, tokens, width = 1_000, 20, 1_020
    generator = torch.Generator().manual_seed(0)
    potential, hopping, absorption = torch.rand(3, 6, width, 8, generator=generator).unbind()
    own = (2 * potential - 1, hopping + 0.5, 0.1 * absorption + 1e-3)
    query, key, value = F.normalize(torch.randn(3, 6, width, 8, 4, generator=generator), dim=-1).unbind()
    fill = spacer(torch.full((6,), tokens), width)
    token = (torch.arange(width) < tokens).view(1, -1, 1)
    sites = [
        torch.where(token, x, y) for x, y in zip(own, (fill.potential, fill.hopping, fill.absorption), strict=True)
    ]
    inputs = (query, key, value * token.unsqueeze(-1), *sites)

    def memory(length, dtype):
        return ops.propagate_modulus(*(x[:, :length].to(dtype) for x in inputs))[1][1].double()

    def off(length):
        expected = memory(tokens, torch.float64)
        return float(
            ((memory(length, torch.float32) - expected).abs() / expected.abs().amax((2, 3), keepdim=True)).max()
        )

    assert off(tokens) < 1e-6
    assert off(tokens + filling) < filling * 2.0**-24


@pytest.mark.parametrize("default", [torch.float16, torch.float64])
def test_the_default_dtype_of_others_does_not_matter(default):
    counts, before = torch.tensor([0, 3, 4]), torch.get_default_dtype()
    expected = spacer(counts, 7)
    torch.set_default_dtype(default)
    try:
        found = spacer(counts, 7)
    finally:
        torch.set_default_dtype(before)
    for name in ("potential", "hopping", "absorption", "sign", "filled"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=0.0, atol=0.0)
