"""A token of a pointer in one kernel: against its definition, with the state as one matrix."""

import os
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.ops import record_backends
from resnet_bk.ops.pointer_step import library, pointer_step
from resnet_bk.ops.pointer_step.sizes import LARGEST_SCALE
from tests.ops.threads import assert_threads_change_nothing

FLOOR = 1e-3
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class Inputs(NamedTuple):
    query: Tensor
    key: Tensor
    write: Tensor
    gates: Tensor
    sites: Tensor
    log_smoothing: Tensor
    green: Tensor
    words: Tensor
    scale: Tensor
    total: Tensor
    tokens: Tensor

    def to(self, dtype):
        """Copies, for the words are written to."""

        def one(x):
            return x.to(dtype.to_complex() if x.is_complex() else dtype, copy=True)

        return Inputs(*map(one, self[:-1]), self.tokens)


def drawn(batch=3, heads=2, keys=5, words=7):
    generator = torch.Generator().manual_seed(keys)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sites = normal(batch, 3 * heads)
    sites[:1] *= 100  # a softplus of either end, a chain that lets nothing through
    scale = 3 * normal(batch, heads)
    kept = normal(batch, words, heads, keys).abs()
    return Inputs(
        query=normal(batch, heads * keys),
        key=normal(batch, heads * keys),
        write=normal(batch, heads),
        gates=normal(batch, 1 + heads),
        sites=sites,
        log_smoothing=normal(heads),
        green=torch.complex(normal(batch, heads), normal(batch, heads).abs()),
        words=kept.flatten(2),
        scale=scale,
        total=kept.sum(1) * scale.exp().unsqueeze(2),
        tokens=torch.randint(words, (batch,), generator=generator),
    )


def whole(words, scale, keys):
    """S, [B, V, H, K]."""
    return words.double().unflatten(2, (-1, keys)) * scale.double().exp()[:, None, :, None]


def definition(x):
    """copied, rest, L', S' and n', in float64."""
    batch, heads, keys = x.total.shape
    query, key = (y.view(batch, heads, keys).softmax(2) for y in (x.query, x.key))
    potential, hopping, absorption = x.sites.chunk(3, 1)
    hopping, absorption = F.softplus(hopping), F.softplus(absorption) + FLOOR
    green = 1 / (torch.complex(potential, -absorption) - hopping**2 * x.green)
    arriving = key * (green.abs() * x.write.sigmoid()).unsqueeze(2)
    seen = F.one_hot(x.tokens, x.words.shape[1]).double()
    decay = (hopping * green.abs())[:, None, :, None]
    state = decay * whole(x.words, x.scale, keys) + torch.einsum("bhk,bv->bvhk", arriving, seen)
    gates, smoothing = x.gates.softmax(1), x.log_smoothing.exp()
    weight = gates[:, 1:] / ((query * state.sum(1)).sum(2) + smoothing)
    copied = torch.einsum("bh,bhk,bvhk->bv", weight, query, state)
    return copied, gates[:, 0] + (weight * smoothing).sum(1), green, state, state.sum(1)


def found_by(x):
    """The same by the kernel, and scale'."""
    copied, rest, (green, scale, total) = pointer_step(*x, absorption_min=FLOOR)
    return (copied, rest, green, whole(x.words, scale, total.shape[2]), total), scale


def assert_all_close(found, exact, dtype):
    tolerance = 200 * torch.finfo(dtype).eps  # of sums of up to H K positive numbers, and of a logarithm up to 60
    for y, z in zip(found, exact, strict=True):
        assert_close(y.to(z.dtype), z, rtol=tolerance, atol=tolerance * max(1.0, float(z.abs().max())))


@pytest.mark.kernels
@each_dtype
@pytest.mark.parametrize(
    "sizes", [{}, {"batch": 1, "heads": 1, "keys": 1, "words": 1}, {"heads": 4, "keys": 16, "words": 33}], ids=str
)
def test_definition(sizes, dtype):
    inputs = drawn(**sizes).to(dtype)
    before = inputs.to(dtype)
    found, _ = found_by(inputs)
    assert [y.dtype for y in found if y is not found[3]] == [dtype, dtype, dtype.to_complex(), dtype]
    assert_all_close(found, definition(before.to(torch.float64)), dtype)
    assert_close(found[0].sum(1) + found[1], torch.ones(len(before.write), dtype=dtype))
    untouched = [i for i, name in enumerate(Inputs._fields) if name != "words"]
    assert all(torch.equal(inputs[i], before[i]) for i in untouched)
    # Nothing but the column of the token. In row 0 the chain lets nothing through, and all is multiplied out.
    for row in range(1, len(before.tokens)):
        others = torch.arange(before.words.shape[1]) != before.tokens[row]
        assert torch.equal(inputs.words[row, others], before.words[row, others])


@pytest.mark.kernels
@each_dtype
@pytest.mark.parametrize("scale", [LARGEST_SCALE, -LARGEST_SCALE])
def test_a_scale_that_grows_too_large_is_multiplied_out(scale, dtype):
    inputs = drawn()
    # In row 1 the logarithm of the decay, 5.6 or -7.7, takes one head beyond, and the other is multiplied out with it.
    inputs.scale[1] = torch.tensor([scale * 0.999, 0.5])
    inputs.sites[1] = torch.tensor([0.0, 0.0, 2.0, 2.0, -5.0, -5.0])
    inputs.green[1] = 0 if scale > 0 else 1e3j
    inputs.words[1, :, :5] *= torch.tensor(-scale).exp()
    inputs = inputs._replace(total=whole(inputs.words, inputs.scale, 5).sum(1)).to(dtype)
    before = inputs.to(torch.float64)
    found, after = found_by(inputs)
    assert (after[1] == 0).all()
    assert (after[2] != 0).all()
    assert_all_close(found, definition(before), dtype)


def test_strides():
    exact = drawn()
    strided = exact.to(torch.float64)._replace(
        query=torch.stack([exact.query] * 2, -1)[..., 0],
        green=exact.green.conj().resolve_conj().conj(),
        tokens=torch.stack([exact.tokens] * 2, -1)[..., 0],
    )
    pairs = zip(*(found_by(x)[0] for x in (exact, strided)), strict=True)
    assert all(torch.equal(y, z) for y, z in pairs)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_do_not_change_a_bit():
    assert_threads_change_nothing(lambda: found_by(drawn(batch=9).to(torch.float32))[0])


def test_registration():
    torch.library.opcheck(library.pointer_step, (*drawn(), FLOOR), test_utils=("test_schema", "test_faketensor"))
    with FlopCounterMode(display=False) as counter, record_backends() as seen:
        pointer_step(*drawn(batch=2), absorption_min=FLOOR)
    assert seen == {"surface_green": {"numba"}}
    of_row = 2 * (16 * 5 + 49) + 4 + 2 * 7 * 10
    assert counter.get_total_flops() == 2 * of_row


@pytest.mark.kernels
def test_a_resonance_is_computed_in_float64():
    """Where a and b^2 L cancel to a thousandth of either, as the absorption alone is left."""
    inputs = drawn(batch=1).to(torch.float32)
    inputs.sites[:] = torch.tensor([3.3, 1.7, 25.0, 30.0, -30.0, -30.0])  # softplus is exact
    inputs.green[:] = torch.tensor([3.3 / 25**2 + 1e-9j, 1.7 / 30**2 + 1e-9j])
    exact = definition(inputs.to(torch.float64))[2]
    _, _, (green, _, _) = pointer_step(*inputs, absorption_min=FLOOR)
    assert (exact.abs() > 0.9 / FLOOR).all()
    assert_close(green.to(exact.dtype), exact, rtol=3e-7, atol=0)


def test_a_graph_that_holds_the_words_does_not_go_on_with_others():
    inputs = drawn()
    weight = torch.ones(3, 1, 10, dtype=torch.float64, requires_grad=True)
    read = weight @ inputs.words.mT
    pointer_step(*inputs, absorption_min=FLOOR)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        read.sum().backward()


def test_no_rows():
    copied, rest, state = pointer_step(*drawn(batch=0), absorption_min=FLOOR)
    assert (copied.shape, rest.shape, state[0].shape) == ((0, 7), (0,), (0, 2))


@pytest.mark.parametrize("name", ["query", "key", "write", "gates", "sites", "log_smoothing"])
def test_what_does_not_fit_beside_the_state_is_refused(name):
    """Not read beyond its end."""
    inputs = drawn()
    before = inputs.words.clone()
    short = inputs._replace(**{name: getattr(inputs, name)[..., 1:]})
    with pytest.raises(ValueError, match=rf"{name} must be \[.*beside a state of \[3, 2, 5\], but got"):
        pointer_step(*short, absorption_min=FLOOR)
    assert torch.equal(inputs.words, before)


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_tokens_is_refused(count):
    inputs = drawn()._replace(tokens=torch.zeros(count, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"tokens must be \[3\], one for each row, but got \({count},\);"):
        pointer_step(*inputs, absorption_min=FLOOR)


@pytest.mark.parametrize("token", [-1, 7])
def test_tokens_outside_of_the_vocabulary_are_refused(token):
    inputs = drawn()
    before = inputs.words.clone()
    inputs.tokens[1] = token
    with pytest.raises(ValueError, match=f"tokens must be from 0 to 6.*but got {token};"):
        pointer_step(*inputs, absorption_min=FLOOR)
    assert torch.equal(inputs.words, before)
