"""A token of generation in one kernel: against the operators that it stands for, and where it is not taken."""

import os
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.ops import propagate_modulus, record_backends
from resnet_bk.ops.gated_norm import gated_norm
from resnet_bk.ops.modulus_step import library, modulus_step
from resnet_bk.ops.unit_query_key import unit_query_key
from tests.ops.threads import assert_threads_change_nothing

FLOOR, EPS = 1e-3, 1e-5
SETTINGS = {"absorption_min": FLOOR, "eps": EPS}
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_rule = pytest.mark.parametrize("erases", [False, True], ids=["adding", "erasing"])


class Inputs(NamedTuple):
    projected: Tensor
    tail: Tensor
    taps: Tensor
    bias: Tensor | None
    write: Tensor
    sites: Tensor
    green: Tensor
    memory: Tensor
    weight: Tensor
    gate: Tensor | None
    further: Tensor | None

    def to(self, dtype):
        def one(x):
            return x if x is None else x.to(dtype.to_complex() if x.is_complex() else dtype)

        return Inputs(*map(one, self))


def drawn(batch=3, heads=2, keys=5, values=7, width=4, *, bias=True, gate=True, further=True):
    generator = torch.Generator().manual_seed(keys)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    channels = heads * (2 * keys + values)
    sites = normal(batch, 3 * heads)
    sites[0] *= 100  # a softplus of either end
    return Inputs(
        projected=normal(batch, channels),
        tail=normal(batch, width - 1, channels),
        taps=normal(channels, width),
        bias=normal(2 * heads * keys) if bias else None,
        write=normal(batch, heads),
        sites=sites,
        green=torch.complex(normal(batch, heads), normal(batch, heads).abs()),
        memory=normal(batch, heads, keys, values),
        weight=normal(values),
        gate=normal(batch, heads * values) if gate else None,
        further=normal(batch, heads * values) if further else None,
    )


def definition(x, *, erases):
    _, heads, keys, values = x.memory.shape
    inputs = torch.cat([x.tail, x.projected.unsqueeze(1)], 1)
    mixed = F.silu((inputs * x.taps.t()).sum(1, keepdim=True))
    query_key, value = mixed.split([2 * heads * keys, heads * values], -1)
    value = value if x.further is None else value + x.further.unsqueeze(1)
    query, key = unit_query_key(query_key.unflatten(-1, (2, heads, keys)), x.bias)
    potential, hopping, absorption = x.sites.unsqueeze(1).chunk(3, -1)
    write = x.write.sigmoid().unsqueeze(1)
    output, state = propagate_modulus(
        query,
        key,
        value.unflatten(-1, (heads, values)) * write.unsqueeze(-1),
        potential,
        F.softplus(hopping),
        F.softplus(absorption) + FLOOR,
        erase=write if erases else None,
        initial_state=(x.green, x.memory),
        backend="reference",
    )
    gate = None if x.gate is None else x.gate.unsqueeze(1)
    read = gated_norm(output, x.weight, gate, eps=EPS, dtype=output.dtype)
    return read.squeeze(1), inputs[:, 1:], state, value.squeeze(1)


def flattened(found):
    output, tail, state, values = found
    return output, tail, *state, values


@pytest.mark.kernels
@each_rule
@each_dtype
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"bias": False, "gate": False, "further": False},
        {"batch": 1, "heads": 1, "keys": 1, "values": 1, "width": 2},
        {"keys": 16, "values": 33, "width": 3},
        {"width": 1},  # no tail
    ],
    ids=["odd", "bare", "ones", "vectors", "no tail"],
)
def test_definition(sizes, dtype, erases):
    inputs = drawn(**sizes).to(dtype)
    before = [None if x is None else x.clone() for x in inputs]
    found = flattened(modulus_step(*inputs, erases=erases, **SETTINGS))
    exact = inputs.to(torch.float64)
    # Errors are those of sums of up to K numbers of order 1, which may cancel.
    tolerance = 200 * torch.finfo(dtype).eps
    for y, z in zip(found, flattened(definition(exact, erases=erases)), strict=True):
        assert y.dtype == (dtype.to_complex() if z.is_complex() else dtype)
        largest = float(z.abs().max()) if z.numel() else 0.0
        assert_close(y.to(z.dtype), z, rtol=tolerance, atol=tolerance * max(1.0, largest))
    assert all(x is y or torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_strides():
    exact = drawn()
    strided = exact._replace(
        projected=torch.stack([exact.projected] * 2, -1)[..., 0],
        memory=exact.memory.mT.contiguous().mT,
        green=exact.green.conj().resolve_conj().conj(),
    )
    assert not strided.projected.is_contiguous()
    pairs = zip(*(flattened(modulus_step(*x, erases=True, **SETTINGS)) for x in (exact, strided)), strict=True)
    assert all(torch.equal(y, z) for y, z in pairs)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
@each_rule
@each_dtype
def test_threads_do_not_change_a_bit(dtype, erases):
    inputs = drawn(batch=9).to(dtype)
    assert_threads_change_nothing(lambda: flattened(modulus_step(*inputs, erases=erases, **SETTINGS)))


@each_rule
def test_registration(erases):
    inputs = [torch.empty(0, dtype=torch.float64) if x is None else x for x in drawn(gate=False, further=False)]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(library.modulus_step, (*inputs, FLOOR, EPS, erases), test_utils=tests)
    with FlopCounterMode(display=False) as counter, record_backends() as seen:
        modulus_step(*drawn(batch=2), erases=erases, **SETTINGS)
    assert seen == {"surface_green": {"numba"}, "propagate_modulus": {"numba"}}
    keys, values, taps, heads = 5, 7, 4, 2
    state = (7 * keys + 4) * values + 2 if erases else (5 * keys + 1) * values + 2
    of_head = (2 * keys + values) * (2 * taps + 4) + 14 * keys + 30 + state + 7 * values
    assert counter.get_total_flops() == 2 * heads * of_head


@pytest.mark.parametrize("name", ["projected", "taps", "bias", "write", "sites", "weight", "gate", "further"])
def test_what_does_not_fit_beside_the_state_is_refused(name):
    """Not read beyond its end."""
    inputs = drawn()
    short = inputs._replace(**{name: getattr(inputs, name)[..., 1:]})
    with pytest.raises(ValueError, match=rf"{name} must be \[.*beside a state of \[3, 2, 5, 7\], but got"):
        modulus_step(*short, erases=False, **SETTINGS)


def test_a_softplus_is_that_of_pytorch():
    """Which leaves numbers above 20 as they are."""
    inputs = drawn(batch=1)
    inputs.sites[:] = torch.tensor([0.5, 0.5, 21.0, 25.0, 20.5, -30.0], dtype=torch.float64)
    found = flattened(modulus_step(*inputs, erases=False, **SETTINGS))
    for y, z in zip(found, flattened(definition(inputs, erases=False)), strict=True):
        assert_close(y, z, rtol=1e-13, atol=1e-15)


def test_gates_far_from_zero():
    """No overflow, which uncompiled kernels would raise."""
    inputs = drawn(batch=2)
    inputs.write[:] = torch.tensor([[-1e3, 1e3], [1e3, -1e3]], dtype=torch.float64)
    inputs.projected[:] = -1e4
    found = flattened(modulus_step(*inputs, erases=True, **SETTINGS))
    for y, z in zip(found, flattened(definition(inputs, erases=True)), strict=True):
        assert_close(y, z, rtol=1e-11, atol=1e-11)


@pytest.mark.kernels
def test_a_resonance_is_computed_in_float64():
    """Where a and b^2 L cancel to a thousandth of either, as the absorption alone is left."""
    inputs = drawn(batch=1).to(torch.float32)
    inputs.sites[:] = torch.tensor([3.3, 1.7, 25.0, 30.0, -30.0, -30.0])  # softplus is exact
    inputs.green[:] = torch.tensor([3.3 / 25**2 + 1e-9j, 1.7 / 30**2 + 1e-9j])
    _, _, (green, _), _ = modulus_step(*inputs, erases=False, **SETTINGS)
    _, _, (exact, _), _ = definition(inputs.to(torch.float64), erases=False)
    assert (exact.abs() > 0.9 / FLOOR).all()
    assert_close(green.to(exact.dtype), exact, rtol=3e-7, atol=0)
