"""Propagation by the modulus where chains are cut, forget at once, absorb weakly or are long."""

import pytest
import torch

from resnet_bk.ops.sizes import PROPAGATE_CHUNK
from tests.ops.cases import relative_error, with_gradients
from tests.ops.spectra import SPECTRA, chain
from tests.ops.test_accuracy import PROMISED
from tests.ops.test_operators import TOLERANCE
from tests.ops.test_propagate_modulus import MATRIX, NAMES, drawn, each_rule, of, run


@pytest.mark.parametrize("backend", ["numba", "chunked"])
@each_rule
def test_gradients_of_chains_that_forget_at_once(backend, erase):
    """What three sites pass on is taken for nothing."""
    tensors = drawn(PROPAGATE_CHUNK + 9, erase=erase)
    tensors["hopping"] = tensors["hopping"] * 1e-12
    tensors = with_gradients(tensors)
    found, expected = (of(run(tensors, name), tensors) for name in (backend, "reference"))
    for name, g, h in zip(tensors, found, expected, strict=True):
        assert relative_error(g, h) < TOLERANCE[torch.float64], name


@pytest.mark.kernels
@each_rule
def test_decays_of_either_sign(erase):
    """`propagate_modulus` has none below 0, but nothing looks while a graph is traced."""
    tensors, generator = drawn(PROPAGATE_CHUNK + 3, erase=erase), torch.Generator().manual_seed(3)
    gain, decay = (torch.randn(tensors["potential"].shape, generator=generator, dtype=torch.float64) for _ in range(2))
    leaves = [tensors[name] for name in NAMES[:3]] + [gain, decay, tensors["memory_in"]]
    leaves = [x.clone().requires_grad_() for x in leaves]
    query, key, value, gain, decay, memory = leaves
    share = tensors["erase"] if erase else gain.detach().new_empty(0)
    found = torch.ops.resnet_bk.carry_matrix(query, key, value, gain, decay, share, memory, True)[:2]
    outputs = []
    for t in range(PROPAGATE_CHUNK + 3):
        k = key[:, t, :, :, None]
        if erase:
            memory = memory - share[:, t, :, None, None] * k * (k * memory).sum(-2, keepdim=True)
        written = gain[:, t, :, None, None] * k * value[:, t, :, None]
        memory = written + decay[:, t, :, None, None] * memory
        outputs.append((query[:, t, :, :, None] * memory).sum(-2))
    expected = (torch.stack(outputs, 1), memory)
    for y, z in zip(found, expected, strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]
    bars = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in expected]
    of_found, of_expected = (torch.autograd.grad(outputs, leaves, bars) for outputs in (found, expected))
    for g, h in zip(of_found, of_expected, strict=True):
        assert relative_error(g, h) < TOLERANCE[torch.float64]


@each_rule
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_gradients_where_chains_are_cut(backend, erase):
    """That of the hopping at a cut included, which would make the chain whole; two chunks, cut inside and between."""
    cut = drawn(PROPAGATE_CHUNK + 9, erase=erase)
    for place in (5, 6, PROPAGATE_CHUNK, PROPAGATE_CHUNK + 4):
        cut["hopping"][:, place] = 0
    cut = with_gradients(cut)
    found, expected = (of(run(cut, name), cut) for name in (backend, "reference"))
    for name, g, h in zip(cut, found, expected, strict=True):
        assert relative_error(g, h) < TOLERANCE[torch.float64], name


@pytest.mark.parametrize("sites", [65_537, 1_048_576])
@pytest.mark.parametrize("erase", [None, 0.0], ids=["adding", "erasing"])
def test_a_long_weakly_absorbing_chain(sites, erase):
    """float32 against float64 at the smallest absorption of the models, energies inside the band. What erases, here
    nothing, would shorten the memory to a few sites."""
    tensors = drawn(sites, batch=1, chains=1, state=False)
    if erase is not None:
        tensors["erase"] = torch.full_like(tensors["potential"], erase)
    tensors["absorption"] = torch.full_like(tensors["absorption"], 1e-3)
    tensors["hopping"] = torch.ones_like(tensors["hopping"])
    tensors["potential"] = torch.full_like(tensors["potential"], 0.7)
    single = with_gradients({name: x.float() for name, x in tensors.items()})
    double = with_gradients({name: x.detach().double() for name, x in single.items()})
    # What is summed has random signs: errors are those of a sum over the 1 / eta sites of the memory.
    outputs, exact = run(single), run(double)
    for y, z in zip(outputs, exact, strict=True):
        assert relative_error(y, z) < PROMISED
    for name, g, h in zip(single, of(outputs, single), of(exact, double), strict=True):
        assert relative_error(g, h) < PROMISED, name


@pytest.mark.parametrize("spectrum", ["random", "noisy", "disorder"])
def test_bound_up_to_1048576_sites(spectrum):
    """|Gamma_tj| <= 1 / eta_min for one j, whatever the length."""
    tensors = chain(MATRIX, 1_048_576, spectrum, 1e-3, chains=1, dtype=torch.float32)
    ones = torch.ones(*tensors["potential"].shape, 1)
    unit = torch.zeros_like(ones)
    unit[:, len(unit[0]) // 2] = 1
    tensors |= {"query": ones, "key": ones, "value": unit}
    output = run(tensors)[0]
    assert output.isfinite().all()
    assert (output >= 0).all()
    assert output.max() <= (1 + 4 * torch.finfo(torch.float32).eps) * 1e3  # four roundings from d to |L|


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_extreme_inputs_are_finite(size):
    tensors = with_gradients({name: x.float() for name, x in drawn(20, state=False).items()})
    scaled = {name: x * size if name in ("potential", "absorption", "value") else x for name, x in tensors.items()}
    outputs = run(scaled)
    assert all(y.isfinite().all() for y in outputs)
    assert all(g.isfinite().all() for g in of(outputs, tensors))


@pytest.mark.parametrize("backend", ["numba", "chunked"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@each_rule
def test_weak_absorption_in_float32(spectrum, backend, erase):
    """Results and gradients at eta = 1e-3, against float64, as `test_accuracy.py` has it for the other operators."""
    single = with_gradients(
        {name: x.float() for name, x in chain(MATRIX, 4_097, spectrum, 1e-3, chains=1).items() if name in NAMES}
    )
    if erase:
        share = torch.rand(single["potential"].shape, generator=torch.Generator().manual_seed(7))
        single["erase"] = (share / single["key"].detach().square().sum(-1)).requires_grad_()
    double = with_gradients({name: x.detach().double() for name, x in single.items()})
    outputs, exact = run(single, backend), run(double)
    for y, z in zip(outputs, exact, strict=True):
        assert relative_error(y, z) < PROMISED
    found = {
        name: relative_error(g, h) for name, g, h in zip(single, of(outputs, single), of(exact, double), strict=True)
    }
    assert all(error < PROMISED for error in found.values()), found
