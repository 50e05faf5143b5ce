"""Propagation of tokens, against the whole state S [K, words] in float64 on every backend. Tolerances as in
test_operators."""

import math
import os
import re
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk import ops
from resnet_bk.ops import dispatch, propagate_tokens, record_backends
from tests.ops.cases import ALONG_VECTORS, relative_error
from tests.ops.test_accuracy import PROMISED
from tests.ops.test_operators import TOLERANCE
from tests.ops.threads import assert_threads_change_nothing

REGISTERED = torch.ops.resnet_bk
WORDS, HEADS, KEYS = 5, 3, 4
BACKENDS = ops.available_backends("propagate_tokens", "cpu")
# Compiled kernels are marked: on tiny inputs they can run uncompiled too, which shows their coverage.
each_backend = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[pytest.mark.kernels] if name == "numba" else []) for name in BACKENDS]
)
cut = pytest.mark.parametrize("cuts", [False, True], ids=["whole", "documents"])


def drawn(sites, *, cuts=False, dtype=torch.float64, batch=2):
    """Words that come again, transmissions above and below 1, and documents whose numbers come again."""
    generator = torch.Generator().manual_seed(sites)
    shape = (batch, sites, HEADS)
    query, key = (torch.randn(*shape, KEYS, generator=generator, dtype=torch.float64) for _ in range(2))
    log_transmission = 0.2 - torch.rand(shape, generator=generator, dtype=torch.float64)
    tokens, targets = (torch.randint(WORDS, shape[:2], generator=generator) for _ in range(2))
    leaves = [x.to(dtype).requires_grad_() for x in (query, key, log_transmission)]
    document = torch.tensor([7, 7, 3, 7, 7, 7, 2, 2]).repeat(batch, sites // 8 + 1)[:, :sites] if cuts else None
    return leaves, (tokens, targets), document


def oracle(leaves, words, document):
    """S_t = k_t e(x_t)^T + tau_t S_{t-1}, as it stands."""
    query, key, log_transmission = (x.double() for x in leaves)
    tokens, targets = words
    batch, sites, heads, keys = query.shape
    state = query.new_zeros(batch, heads, keys, WORDS)
    found, hits = [], []
    for t in range(sites):
        tau = log_transmission[:, t].exp()
        if document is not None and t:
            tau = tau * (document[:, t] == document[:, t - 1]).unsqueeze(1)
        one_hot = torch.nn.functional.one_hot(tokens[:, t], WORDS).double()
        state = key[:, t, :, :, None] * one_hot[:, None, None] + tau[..., None, None] * state
        read = (query[:, t, :, :, None] * state).sum(2)  # [B, H, words]
        found.append(read.sum(2))
        hits.append(read.gather(2, targets[:, t, None, None].expand(-1, heads, -1)).squeeze(2))
    return torch.stack(found, 1), torch.stack(hits, 1)


def gradients(outputs, leaves):
    """Of a functional whose cotangents differ from site to site."""
    total = sum((y.double() * torch.linspace(-1, 2 + i, y.numel()).view(y.shape)).sum() for i, y in enumerate(outputs))
    # Of one site no transmission is read.
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def check(backend, sites, dtype, cuts):
    leaves, words, document = drawn(sites, cuts=cuts, dtype=dtype)
    outputs = propagate_tokens(*leaves, *words, document=document, backend=backend)
    expected = oracle(leaves, words, document)
    for y, z in zip(outputs, expected, strict=True):
        assert y.dtype == dtype
        assert relative_error(y, z) < TOLERANCE[dtype]
    for g, h in zip(gradients(outputs, leaves), gradients(expected, leaves), strict=True):
        assert g.dtype == dtype
        assert relative_error(g, h) < TOLERANCE[dtype] if bool(h.any()) else not bool(g.any())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sites", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@cut
def test_oracle(backend, sites, dtype, cuts):
    check(backend, sites, dtype, cuts)


@pytest.mark.kernels
@cut
def test_oracle_in_a_few_sites(cuts):
    """What the uncompiled kernels have time for."""
    check("numba", 12, torch.float32, cuts)


@each_backend
@cut
def test_gradcheck(backend, cuts):
    leaves, words, document = drawn(9, cuts=cuts)
    assert torch.autograd.gradcheck(
        lambda *inputs: propagate_tokens(*inputs, *words, document=document, backend=backend), leaves
    )


@each_backend
@pytest.mark.parametrize("only", [0, 1], ids=["n", "m"])
def test_a_gradient_of_one_result(only, backend):
    leaves, words, _ = drawn(9)
    found, expected = propagate_tokens(*leaves, *words, backend=backend), oracle(leaves, words, None)
    for g, h in zip(
        gradients(found[only : only + 1], leaves), gradients(expected[only : only + 1], leaves), strict=True
    ):
        assert relative_error(g, h) < TOLERANCE[torch.float64]


@each_backend
def test_a_document_knows_nothing_of_the_others(backend):
    """Not to the last bit, however large what it must not see, as long as it is a number."""
    leaves, (tokens, targets), _ = drawn(12, dtype=torch.float32)
    document = (torch.arange(12) >= 5).long().expand(2, -1)
    expected = propagate_tokens(*leaves, tokens, targets, document=document, backend=backend)
    query, key, log_transmission = (x.detach().clone() for x in leaves)
    key[:, :5], log_transmission[:, :5] = 1e30, 1.7
    log_transmission[:, 5] = -69.0  # the logarithm of a hopping of 0, as the layer writes it
    packed = propagate_tokens(query, key, log_transmission, tokens, targets, document=document, backend=backend)
    for y, z in zip(packed, expected, strict=True):
        assert torch.equal(y[:, 5:], z[:, 5:])
    alone = propagate_tokens(*(x[:, 5:] for x in leaves), tokens[:, 5:], targets[:, 5:], backend=backend)
    for y, z in zip(packed, alone, strict=True):
        torch.testing.assert_close(y[:, 5:], z)


@each_backend
@pytest.mark.parametrize("least", [torch.finfo(torch.float32).min, -math.inf], ids=["smallest", "none"])
@pytest.mark.parametrize("site", [0, 4], ids=["first", "middle"])
def test_what_fades_at_once_leaves_what_comes_after(backend, site, least):
    """However small the number that is written where nothing shall pass: sums over it lose no later step."""
    (query, key, log_transmission), words, _ = drawn(12, dtype=torch.float32)
    smallest = log_transmission.detach().clone()
    smallest[:, site] = least
    leaves = [query, key, smallest.requires_grad_()]
    outputs, expected = propagate_tokens(*leaves, *words, backend=backend), oracle(leaves, words, None)
    for y, z in zip((*outputs, *gradients(outputs, leaves)), (*expected, *gradients(expected, leaves)), strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float32]


@each_backend
def test_what_has_faded_is_nothing(backend):
    """exp(-1000 T) is 0, and so is its gradient; nothing overflows on the way."""
    (query, key, log_transmission), words, _ = drawn(9, dtype=torch.float32)
    leaves = [query, key, torch.full_like(log_transmission, -1e3).requires_grad_()]
    found, hits = propagate_tokens(*leaves, *words, backend=backend)
    own = (query * key).sum(3)
    torch.testing.assert_close(found, own)
    torch.testing.assert_close(hits, own * (words[0] == words[1]).unsqueeze(2))
    *others, of_chain = gradients((found, hits), leaves)
    assert all(bool(g.isfinite().all()) for g in others)
    assert not bool(of_chain.abs().gt(1e-6).any())


@each_backend
def test_a_target_that_is_no_token_finds_nothing(backend):
    leaves, (tokens, targets), _ = drawn(9)
    targets[0, 3], targets[1, 8] = -100, 10**12
    found, hits = propagate_tokens(*leaves, tokens, targets, backend=backend)
    assert not hits[0, 3].any()
    assert not hits[1, 8].any()
    kept = [torch.ones(2, 9, 1, dtype=torch.float64), torch.ones(2, 9, 1, dtype=torch.float64)]
    kept[1][0, 3] = kept[1][1, 8] = 0
    expected = oracle(leaves, (tokens, targets.clamp(0, WORDS - 1)), None)
    outputs = [y * w for y, w in zip(expected, kept, strict=True)]
    for g, h in zip(gradients((found, hits), leaves), gradients(outputs, leaves), strict=True):
        assert relative_error(g, h) < TOLERANCE[torch.float64]


@each_backend
def test_kinds_of_inputs(backend):
    """Half types are computed in float32; integers may be of any size, and views."""
    leaves, (tokens, targets), _ = drawn(9, dtype=torch.bfloat16)
    outputs = propagate_tokens(*leaves, tokens.int(), targets.to(torch.int16), backend=backend)
    wide = [x.detach().float().requires_grad_() for x in leaves]
    expected = propagate_tokens(*wide, tokens, targets, backend=backend)
    for y, z in zip(outputs, expected, strict=True):
        assert y.dtype == torch.float32
        assert torch.equal(y, z)
    views = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in wide]
    turned = propagate_tokens(*views, tokens.T.contiguous().T, targets, backend=backend)
    for y, z in zip(turned, expected, strict=True):
        assert torch.equal(y, z)


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_time_and_memory_are_linear(backend):
    """All pairs of these sites would take 80 GB."""
    query, key = torch.rand(2, 1, 100_000, 1, 2).unbind()
    log_transmission, tokens = (
        torch.full((1, 100_000, 1), -1e-3, requires_grad=True),
        torch.arange(100_000)[None] % 1_000,
    )
    found, hits = propagate_tokens(query, key, log_transmission, tokens, tokens, backend=backend)
    (found.mean() + hits.mean()).backward()
    assert bool(log_transmission.grad.isfinite().all())


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_long_chains(backend):
    """Words that come again after hundreds of sites, in float32 and beside pairs in float64."""
    sites = 3_000
    leaves, _, _ = drawn(sites, dtype=torch.float32, batch=1)
    leaves = [x.detach()[:, :, :1].requires_grad_() for x in leaves]
    leaves[2] = (-1e-2 * leaves[2].detach().abs()).requires_grad_()
    words = torch.randint(300, (2, 1, sites), generator=torch.Generator().manual_seed(1)).unbind()
    wide = [x.detach().double().requires_grad_() for x in leaves]
    outputs = propagate_tokens(*leaves, *words, backend=backend)
    expected = propagate_tokens(*wide, *words, backend="pairs")
    for y, z in zip((*outputs, *gradients(outputs, leaves)), (*expected, *gradients(expected, wide)), strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float32]


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="too many sites for uncompiled kernels")
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_65537_sites(backend):
    """float32 against float64 on the same, float32-rounded inputs, with a memory of a thousand sites."""
    sites = 65_537
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, sites, 1, KEYS, generator=generator) for _ in range(2))
    leaves = [query, key, -2e-3 * torch.rand(1, sites, 1, generator=generator)]
    words = torch.randint(2_000, (2, 1, sites), generator=generator).unbind()
    single, double = [x.clone().requires_grad_() for x in leaves], [x.double().requires_grad_() for x in leaves]
    outputs = propagate_tokens(*single, *words, backend=backend)
    exact = propagate_tokens(*double, *words, backend="numba")
    for y, z in zip((*outputs, *gradients(outputs, single)), (*exact, *gradients(exact, double)), strict=True):
        assert relative_error(y, z) < PROMISED


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_do_not_change_a_bit():
    leaves, words, document = drawn(100, cuts=True, dtype=torch.float32, batch=3)

    def compute():
        outputs = propagate_tokens(*leaves, *words, document=document, backend="numba")
        return *outputs, *gradients(outputs, leaves)

    assert_threads_change_nothing(compute)


@cut
def test_opcheck(cuts):
    leaves, words, document = drawn(5, cuts=cuts)
    cuts_at = torch.empty(0, dtype=torch.int64) if document is None else document
    torch.library.opcheck(REGISTERED.propagate_tokens, (*leaves, *words, cuts_at))
    still = [x.detach() for x in leaves]
    bars = [torch.randn(2, 5, HEADS, dtype=torch.float64) for _ in range(2)]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(REGISTERED.propagate_tokens_backward, (*bars, *still, *words, cuts_at), test_utils=checks)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile(backend):
    leaves, words, document = drawn(6, cuts=True)

    def call(*inputs):
        return propagate_tokens(*inputs, *words, document=document, backend=backend)

    outputs = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
    expected = call(*leaves)
    for y, z in zip((*outputs, *gradients(outputs, leaves)), (*expected, *gradients(expected, leaves)), strict=True):
        assert relative_error(y, z) < 1e-13


@pytest.mark.parametrize("backend", BACKENDS)
def test_fake_tensors(backend):
    leaves, words, _ = drawn(5)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(x) for x in (*leaves, *words)]
        outputs = propagate_tokens(*fake, backend=backend)
    assert [(y.shape, y.dtype) for y in outputs] == [((2, 5, HEADS), torch.float64)] * 2


def test_flops():
    leaves, words, _ = drawn(7)
    with FlopCounterMode(display=False) as forward:
        found, hits = propagate_tokens(*leaves, *words, backend="numba")
    with FlopCounterMode(display=False) as backward:
        (found.sum() + hits.sum()).backward()
    sites = 2 * 7 * HEADS
    assert forward.get_total_flops() == sites * (8 * KEYS + 6)
    assert backward.get_total_flops() == sites * (19 * KEYS + 12)


@each_backend
def test_it_is_recorded(backend):
    leaves, words, _ = drawn(5)
    with record_backends() as seen:
        propagate_tokens(*leaves, *words, backend=backend)
    assert seen == {"propagate_tokens": {backend}}


def test_backends():
    assert BACKENDS == ("numba", "pairs", "chunked")
    assert ops.available_backends("propagate_tokens", "cuda") == ("pairs", "chunked")
    leaves, words, _ = drawn(5)
    for name in ("reference", "triton"):
        message = (
            r"^backend must be 'auto' or one of numba, pairs, chunked for propagate_tokens on cpu, but got "
            rf"'{name}'; 'auto'"
        )
        with pytest.raises(ValueError, match=message):
            propagate_tokens(*leaves, *words, backend=name)


@pytest.mark.parametrize(("sites", "expected"), [(512, "pairs"), (513, "chunked")])
def test_where_there_is_no_kernel_auto_forms_all_pairs_of_few_sites(monkeypatch, sites, expected):
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", False)
    leaves, words, _ = drawn(sites, batch=1)
    with record_backends() as seen:
        propagate_tokens(*leaves, *words)
    assert seen["propagate_tokens"] == {expected}


@cut
def test_second_derivatives(cuts):
    leaves, words, document = drawn(5, cuts=cuts)
    for backend in ("pairs", "chunked"):
        assert torch.autograd.gradgradcheck(
            lambda *inputs, backend=backend: propagate_tokens(*inputs, *words, document=document, backend=backend),
            leaves,
            **ALONG_VECTORS,
        )


def test_derivatives_that_a_backend_has_not():
    """Forwards with pairs alone; the others, which would drop them, refuse, and the kernels a second one."""
    leaves, words, _ = drawn(5)

    def call(query, backend="pairs"):
        return propagate_tokens(query, *leaves[1:], *words, backend=backend)

    _, tangents = torch.func.jvp(call, (leaves[0],), (leaves[0],))
    for y, z in zip(tangents, call(leaves[0]), strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]  # linear in the query
    for name in ("numba", "chunked"):
        with pytest.raises(ValueError, match=r"^propagate_tokens: no forward-mode derivative.*; take backend='pairs'"):
            torch.func.jvp(partial(call, backend=name), (leaves[0],), (leaves[0],))
    (first,) = torch.autograd.grad(call(leaves[0], "numba")[0].sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"query": torch.zeros(2, 5, HEADS)},
            r"^query must be \[batch, sites, heads, size\] .* log_transmission \(2, 5,",
        ),
        ({"key": torch.zeros(2, 5, HEADS, 9)}, r"^query and key must have the same size a head"),
        ({"key": torch.zeros(2, 5, HEADS, KEYS).double()}, r"^inputs must all be float64 or none of them"),
        ({"log_transmission": torch.zeros(2, 5)}, r"^log_transmission must be \[batch, sites, chains\], but got shape"),
        ({"tokens": torch.zeros(2, 5)}, r"^tokens must be a tensor of integers, but got torch.float32; convert it"),
        ({"tokens": torch.ones(2, 5, dtype=torch.bool)}, r"^tokens must be a tensor of integers, but got torch.bool"),
        ({"tokens": [1, 2]}, r"^tokens must be a tensor of integers, but got list"),
        ({"targets": torch.zeros(2, 4).long()}, r"^targets must be .*, here \(2, 5\), but got shape"),
        (
            {"document": torch.zeros(5).long()},
            r"^document must be .*, here \(2, 5\), but got shape \(5,\)",
        ),
        (
            {"targets": torch.zeros(2, 5, device="meta").long()},
            r"^targets must be on cpu like the inputs, but",
        ),
    ],
)
def test_errors(changes, message):
    leaves, (tokens, targets), _ = drawn(5, dtype=torch.float32)
    inputs = dict(zip(("query", "key", "log_transmission"), leaves, strict=True), tokens=tokens, targets=targets)
    with pytest.raises(ValueError, match=message):
        propagate_tokens(**inputs | changes)


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_an_infinite_transmission_is_refused(backend, dtype):
    leaves, words, document = drawn(5, cuts=True, dtype=dtype)
    query, key, log_transmission = (x.detach() for x in leaves)
    log_transmission[1, 3, 0] = math.inf
    message = (
        "log_transmission must be the logarithm of a number at every site, but log_transmission[1, 3, 0] is inf; clamp "
        "it, or give -inf"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        propagate_tokens(query, key, log_transmission, *words, document=document, backend=backend)


@each_backend
def test_a_transmission_that_is_not_a_number_is_passed_on(backend):
    """So that a training that has diverged ends with its own error, whatever its mixer."""
    leaves, words, _ = drawn(5, dtype=torch.float32)
    query, key, log_transmission = (x.detach() for x in leaves)
    log_transmission[1, 3, 0] = math.nan
    found, _ = propagate_tokens(query, key, log_transmission, *words, backend=backend)
    assert bool(found[1, 3:, 0].isnan().all())
    assert bool(found[0].isfinite().all())


def test_while_a_graph_is_traced_there_are_no_values():
    leaves, words, _ = drawn(5)
    infinite = [x.detach() for x in leaves]
    infinite[2][1, 3, 0] = math.inf
    traced = torch.compile(propagate_tokens, fullgraph=True, backend="aot_eager")
    assert bool(traced(*infinite, *words, backend="pairs")[0].isnan().any())


def test_chains_without_sites_or_keys_are_refused():
    leaves, words, _ = drawn(5)
    with pytest.raises(ValueError, match=r"^the chain must have at least one site, but log_transmission has shape"):
        propagate_tokens(*(x[:, :0] for x in leaves), *(x[:, :0] for x in words))
    with pytest.raises(ValueError, match=r"^query must have a size of at least 1 a head"):
        propagate_tokens(leaves[0][..., :0], leaves[1][..., :0], leaves[2], *words)
