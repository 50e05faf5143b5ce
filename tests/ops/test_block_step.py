"""A token behind a block in one kernel: against the operators that it stands for."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.ops import record_backends
from resnet_bk.ops.block_step import BlockSettings, BlockWeights, block_step, library
from resnet_bk.ops.modulus_step import modulus_step
from tests.ops.threads import assert_threads_change_nothing

SETTINGS = BlockSettings(
    write_scale=0.7,
    site_scale=0.3,
    absorption_min=1e-3,
    mixer_eps=1e-5,
    read_eps=2e-5,
    mixer_output_eps=0.3,
    feed_forward_eps=3e-5,
    feed_forward_output_eps=0.4,
    erases=False,
)
ERASING = SETTINGS._replace(erases=True)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_rule = pytest.mark.parametrize("settings", [SETTINGS, ERASING], ids=["adding", "erasing"])


def drawn(dtype=torch.float64, batch=3, width=9, heads=2, keys=3, values=5, taps=4, inner=7, *, bare=False):
    """hidden, weights, the state (tail, green, memory) and the first block's values."""
    generator = torch.Generator().manual_seed(width)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    channels = heads * (2 * keys + values)
    weights = BlockWeights(
        mixer_norm=normal(width),
        in_proj=normal(channels, width),
        taps=normal(channels, taps),
        bias=None if bare else normal(2 * heads * keys),
        write_proj=normal(heads, width),
        site_proj=normal(3 * heads, width),
        site_bias=normal(3 * heads),
        read_norm=normal(values),
        gate_proj=None if bare else normal(heads * values, width),
        value_weight=None if bare else normal(heads),
        out_proj=normal(width, heads * values),
        mixer_output_norm=None if bare else normal(width),
        feed_forward_norm=normal(width),
        gate_up_proj=normal(2 * inner, width),
        down_proj=normal(width, inner),
        feed_forward_output_norm=None if bare else normal(width),
    )
    green = torch.complex(normal(batch, heads), normal(batch, heads).abs())
    state = (normal(batch, taps - 1, channels), green, normal(batch, heads, keys, values))
    first = None if bare else normal(batch, heads * values)
    return converted((normal(batch, width), weights, state, first), dtype)


def converted(inputs, dtype):
    def one(x):
        return x if x is None else x.to(dtype.to_complex() if x.is_complex() else dtype)

    hidden, weights, state, first = inputs
    return one(hidden), BlockWeights(*map(one, weights)), tuple(map(one, state)), one(first)


def definition(hidden, w, state, first, settings):
    normed = F.rms_norm(hidden, hidden.shape[1:], w.mixer_norm, settings.mixer_eps)
    further = None if first is None else (first.view(len(first), w.value_weight.numel(), -1) * w.value_weight[:, None])
    read, tail, chain, values = modulus_step(
        F.linear(normed, w.in_proj),
        state[0],
        w.taps,
        w.bias,
        settings.write_scale * F.linear(normed, w.write_proj),
        settings.site_scale * F.linear(normed, w.site_proj) + w.site_bias,
        *state[1:],
        w.read_norm,
        None if w.gate_proj is None else F.linear(normed, w.gate_proj),
        None if further is None else further.flatten(1),
        absorption_min=settings.absorption_min,
        eps=settings.read_eps,
        erases=settings.erases,
    )
    mixed = hidden + output_norm(F.linear(read, w.out_proj), w.mixer_output_norm, settings.mixer_output_eps)
    normed = F.rms_norm(mixed, hidden.shape[1:], w.feed_forward_norm, settings.feed_forward_eps)
    gate, up = F.linear(normed, w.gate_up_proj).chunk(2, -1)
    added = F.linear(F.silu(gate) * up, w.down_proj)
    added = output_norm(added, w.feed_forward_output_norm, settings.feed_forward_output_eps)
    return mixed + added, tail, *chain, values


def output_norm(added, weight, eps):
    return added if weight is None else F.rms_norm(added, added.shape[1:], weight, eps)


def found(hidden, weights, state, first, settings):
    after, tail, chain, values = block_step(hidden, weights, settings, *state, first)
    return after, tail, *chain, values


def tensors(hidden, weights, state, first):
    return [x for x in (hidden, *weights, *state, first) if x is not None]


@pytest.mark.kernels
@each_rule
@each_dtype
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"bare": True},
        {"batch": 1, "width": 1, "heads": 1, "keys": 1, "values": 1, "taps": 2, "inner": 1},
        # A sum of one vector, of two, and of two and a part, in either precision.
        {"width": 16, "values": 8, "inner": 32},
        {"width": 32, "values": 4, "inner": 37},
    ],
    ids=["odd", "bare", "ones", "vectors", "parts"],
)
def test_definition(sizes, dtype, settings):
    inputs = drawn(dtype, **sizes)
    before = [x.clone() for x in tensors(*inputs)]
    exact = definition(*converted(inputs, torch.float64), settings)
    # Errors are those of sums of numbers of order 1, which may cancel, one after the other.
    tolerance = 1000 * torch.finfo(dtype).eps
    for y, z in zip(found(*inputs, settings), exact, strict=True):
        assert y.dtype == (dtype.to_complex() if z.is_complex() else dtype)
        assert_close(y.to(z.dtype), z, rtol=tolerance, atol=tolerance * max(1.0, float(z.abs().max())))
    assert all(torch.equal(x, y) for x, y in zip(tensors(*inputs), before, strict=True))


@each_dtype
def test_a_model_as_large_as_those_of_the_benchmark(dtype):
    """Sums of many vectors."""
    hidden, weights, *others = drawn(dtype, batch=2, width=256, heads=4, keys=64, values=64, inner=640)
    weights = BlockWeights(*(w * w.shape[-1] ** -0.5 if w.ndim == 2 else w for w in weights))
    inputs = (hidden, weights, *others)
    exact = definition(*converted(inputs, torch.float64), SETTINGS)
    tolerance = 100 * torch.finfo(dtype).eps
    for y, z in zip(found(*inputs, SETTINGS), exact, strict=True):
        assert_close(y.to(z.dtype), z, rtol=0, atol=tolerance * max(1.0, float(z.abs().max())))


def test_strides():
    hidden, weights, state, first = drawn()
    strided = (
        torch.stack([hidden] * 2, -1)[..., 0],
        weights._replace(in_proj=weights.in_proj.t().contiguous().t()),
        (state[0], state[1].conj().resolve_conj().conj(), state[2].mT.contiguous().mT),
        torch.stack([first] * 2, -1)[..., 0],
    )
    assert not strided[0].is_contiguous()
    pairs = zip(found(hidden, weights, state, first, ERASING), found(*strided, ERASING), strict=True)
    assert all(torch.equal(y, z) for y, z in pairs)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
@each_dtype
def test_threads_do_not_change_a_bit(dtype):
    inputs = drawn(dtype, batch=9)
    assert_threads_change_nothing(lambda: found(*inputs, SETTINGS))


@each_rule
def test_registration(settings):
    hidden, weights, state, _ = drawn(bare=True)
    nothing = torch.empty(0, dtype=torch.float64)
    given = [hidden, *(nothing if w is None else w for w in weights), *state, nothing, *settings]
    torch.library.opcheck(library.block_step, given, test_utils=("test_schema", "test_faketensor"))
    inputs = drawn(batch=2)
    with FlopCounterMode(display=False) as counter, record_backends() as seen:
        found(*inputs, settings)
    assert seen == {"surface_green": {"numba"}, "propagate_modulus": {"numba"}}
    with FlopCounterMode(display=False) as parts:
        definition(*inputs, settings)
    # What the parts do not count: four norms, sites and write gates, values of the first block, residuals, SiLU.
    width, heads, values, inner = 9, 2, 5, 7
    further = 18 * width + (7 + values) * heads + 5 * inner
    assert counter.get_total_flops() == parts.get_total_flops() + 2 * further
