"""Propagation by the modulus, against the dense oracle on every backend. Tolerances as in test_operators."""

import functools
import os

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk import ops
from resnet_bk.ops import propagate_modulus, record_backends, work
from resnet_bk.ops.sizes import PROPAGATE_CHUNK
from tests.ops.cases import KEYS, OPERATORS, VALUES, draw, gradients, relative_error, with_gradients
from tests.ops.oracle import operator as dense_operator
from tests.ops.oracle import propagator
from tests.ops.test_operators import LENGTHS, TOLERANCE
from tests.ops.threads import assert_threads_change_nothing

MATRIX = OPERATORS[-1]
NAMES = ("query", "key", "value", "potential", "hopping", "absorption")
# Both rules by which a site writes: it adds to what the chain holds, or takes out what is there along its key first.
each_rule = pytest.mark.parametrize("erase", [False, True], ids=["adding", "erasing"])
# Triton's interpreter has its own tests (triton_interpreted.py).
BACKENDS = [name for name in ops.available_backends("propagate_modulus", "cpu") if name != "triton"]
# Compiled kernels are marked: on tiny inputs they can run uncompiled too, which shows their coverage.
each_backend = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[pytest.mark.kernels] if name == "numba" else []) for name in BACKENDS]
)


def drawn(sites, *, state=True, erase=False, **options):
    """Inputs as for the matrix state, with a real one; with `erase`, shares up to 1.5 / |k|^2, where 2 / |k|^2 turns
    what is there around."""
    tensors = draw(MATRIX, sites, state=state, **options)
    if erase:
        generator = torch.Generator().manual_seed(7)
        share = torch.rand(tensors["potential"].shape, generator=generator, dtype=tensors["potential"].dtype)
        tensors["erase"] = 1.5 * share / tensors["key"].square().sum(-1)
    return tensors | {"memory_in": tensors["memory_in"].real.clone()} if state else tensors


def run(tensors, backend="auto"):
    state = (tensors["green_in"], tensors["memory_in"]) if "green_in" in tensors else None
    inputs = [tensors[name] for name in NAMES]
    output, state = propagate_modulus(*inputs, erase=tensors.get("erase"), initial_state=state, backend=backend)
    return output, *state


def oracle(query, key, value, potential, hopping, absorption, green_in=None, memory_in=None, erase=None):
    gamma = propagator(dense_operator(potential, hopping, absorption, green_in))
    size = gamma.abs()
    if erase is not None:
        output, memory = erasing_oracle(query, key, value, size, hopping, memory_in, erase)
        return output, gamma[..., -1, -1], memory
    output = torch.einsum("bthk,bjhk,bhtj,bjhv->bthv", query, key, size, value)
    memory = torch.einsum("bhj,bjhk,bjhv->bhkv", size[..., -1, :], key, value)
    if memory_in is not None:
        kept = size[..., 0] * hopping[:, 0, :, None]
        output = output + torch.einsum("bthk,bht,bhkv->bthv", query, kept, memory_in)
        memory = memory + kept[..., -1, None, None] * memory_in
    return output, gamma[..., -1, -1], memory


def erasing_oracle(query, key, value, size, hopping, memory, erase):
    """y and the last S by products of dense matrices [K, K], from each site that writes to each that reads."""
    sites, unit = key.shape[1], torch.eye(key.shape[3], dtype=key.dtype)
    passing = unit - erase[..., None, None] * key[..., :, None] * key[..., None, :]
    gain = size.diagonal(dim1=-2, dim2=-1).mT[..., None, None]
    step = gain * hopping[..., None, None] * passing
    y = []
    for t in range(sites):
        arriving = torch.zeros_like(passing[:, 0, :, :, :1] * value[:, 0, :, None])
        through = unit.expand_as(passing[:, 0])
        for j in range(t, -1, -1):
            arriving = arriving + through @ (gain[:, j] * key[:, j, :, :, None] * value[:, j, :, None])
            through = through @ step[:, j]
        if memory is not None:
            arriving = arriving + through @ memory
        y.append((query[:, t, :, None] @ arriving).squeeze(-2))
    return torch.stack(y, 1), arriving


@functools.cache
def expected_of(sites, dtype, state, erase):
    """Results and gradients of the oracle, for all backends."""
    tensors = drawn(sites, dtype=dtype, state=state, erase=erase)
    exact = with_gradients({name: x.to(torch.promote_types(x.dtype, torch.float64)) for name, x in tensors.items()})
    outputs = oracle(**exact)
    return [y.detach() for y in outputs], of(outputs, exact)


def check(backend, sites, dtype, state, erase):
    tensors = with_gradients(drawn(sites, dtype=dtype, state=state, erase=erase))
    outputs = run(tensors, backend)
    expected, of_expected = expected_of(sites, dtype, state, erase)
    assert [y.dtype for y in outputs] == [dtype, dtype.to_complex(), dtype]
    for y, z in zip(outputs, expected, strict=True):
        assert y.shape == z.shape
        assert relative_error(y, z) < TOLERANCE[dtype]
    for name, g, h in zip(tensors, of(outputs, tensors), of_expected, strict=True):
        assert g.dtype == tensors[name].dtype, name
        assert relative_error(g, h) < TOLERANCE[dtype], name


def of(outputs, leaves):
    """Gradients of a random real functional of outputs of which some are real."""
    return gradients(tuple(y if y.is_complex() else torch.complex(y, torch.zeros_like(y)) for y in outputs), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sites", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "state"])
@each_rule
def test_oracle(backend, sites, dtype, state, erase):
    check(backend, sites, dtype, state, erase)


@pytest.mark.kernels
@each_rule
def test_oracle_in_a_few_sites(erase):
    """What the uncompiled kernels, which take seconds for a long chain, have time for: a chunk and a site."""
    check("numba", PROPAGATE_CHUNK + 1, torch.float32, True, erase)


@pytest.mark.parametrize(("keys", "values"), [(1, 1), (2, 16), (17, 3), (16, 33), (33, 17)])
@pytest.mark.parametrize("backend", [pytest.param("numba", marks=pytest.mark.kernels), "chunked"])
@each_rule
def test_key_and_value_sizes_match_reference(keys, values, backend, erase):
    """Keys and columns of the state that fill vectors, tiles of vectors, and neither; two chunks, behind a state."""
    tensors = drawn(PROPAGATE_CHUNK + 5, dtype=torch.float32)
    generator = torch.Generator().manual_seed(keys)
    grid = tensors["potential"].shape
    tensors["memory_in"] = torch.randn(grid[0], grid[2], keys, values, generator=generator)
    for name, size in (("query", keys), ("key", keys), ("value", values)):
        tensors[name] = torch.randn(*grid, size, generator=generator)
    if erase:
        tensors["erase"] = torch.rand(grid, generator=generator) / tensors["key"].square().sum(-1)
    tensors = with_gradients(tensors)
    results = []
    for name in (backend, "reference"):
        outputs = run(tensors, name)
        results.append((*outputs, *of(outputs, tensors)))
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < TOLERANCE[torch.float32]


@pytest.mark.kernels
@pytest.mark.parametrize("chains", [1, 5, 17])
@each_rule
def test_heads_in_groups(chains, erase):
    tensors = with_gradients(drawn(40, dtype=torch.float32, chains=chains, erase=erase))
    results = []
    for name in ("numba", "reference"):
        outputs = run(tensors, name)
        results.append((*outputs, *of(outputs, tensors)))
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < TOLERANCE[torch.float32]


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_do_not_change_a_bit_of_what_is_erased():
    """`test_threads.py` has the rule that adds."""
    tensors = with_gradients(drawn(40, batch=1, chains=40, dtype=torch.float32, erase=True))

    def compute():
        outputs = run(tensors, "numba")
        return *outputs, *of(outputs, tensors)

    assert_threads_change_nothing(compute)


@each_rule
def test_registration(erase):
    """Schema, fake tensors and derivatives of the registered functions, as test_library checks the others."""
    registered = torch.ops.resnet_bk
    tensors = drawn(3, erase=True)
    gain = torch.rand(2, 3, 2, dtype=torch.float64)
    erased = tensors["erase"] if erase else gain.new_empty(0)
    inputs = [tensors[name] for name in NAMES[:3]] + [gain, 0.5 * gain, erased, tensors["memory_in"]]
    leaves = [x.clone().requires_grad_() for x in inputs]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    torch.library.opcheck(registered.carry_matrix, [*leaves, True], test_utils=tests)
    torch.library.opcheck(registered.carry_matrix, [*inputs, False], test_utils=tests[:2])
    y, memory, checkpoints = registered.carry_matrix(*inputs, True)
    for bars in ([torch.randn_like(y), torch.randn_like(memory)], [None, torch.randn_like(memory)]):
        torch.library.opcheck(registered.carry_matrix_backward, [*bars, *inputs[:6], checkpoints], test_utils=tests[:2])
    output, _, _ = registered.carry_matrix(*leaves, False)
    with pytest.raises(RuntimeError, match=r"kept nothing for a gradient.*; trace it with"):
        output.sum().backward()


@each_rule
def test_operations_are_counted(erase):
    tensors = with_gradients(drawn(4, batch=3, chains=2, state=False, erase=erase))
    with FlopCounterMode(display=False) as counter:
        output = run(tensors)[0]
        forward = counter.get_total_flops()
        output.sum().backward()
    chain, head = 3 * 4 * 2, KEYS * VALUES
    backward = counter.get_total_flops() - forward
    if erase:
        assert forward == chain * (work.GREEN_FORWARD + 7 * head + 4 * VALUES + 2)
        assert backward == chain * (work.GREEN_BACKWARD + 20 * head + 20 * VALUES + 4)
    else:
        assert forward == chain * (work.GREEN_FORWARD + 5 * head + VALUES + 2)
        # Four sites of a chunk are ten pairs j <= t.
        pairs, sites = 10 * (6 * KEYS + 4 * VALUES + 12), 4 * (8 * head + 8 * KEYS + 4 * VALUES + 7)
        assert backward == chain * work.GREEN_BACKWARD + 3 * 2 * (pairs + sites + 3 * head)


@each_backend
@each_rule
def test_gradcheck(backend, erase):
    tensors = with_gradients(drawn(4, batch=1, erase=erase))

    def call(*leaves):
        output, green, memory = run(dict(zip(tensors, leaves, strict=True)), backend)
        return output, torch.view_as_real(green), memory

    assert torch.autograd.gradcheck(call, tuple(tensors.values()))


@each_backend
@each_rule
def test_two_calls_are_one(backend, erase):
    tensors = drawn(40, erase=erase)
    whole = run(tensors, backend)

    def part(sites, state):
        return run({name: x if name.endswith("_in") else x[:, sites] for name, x in tensors.items()} | state, backend)

    first = part(slice(0, 23), {})
    second = part(slice(23, None), {"green_in": first[1], "memory_in": first[2]})
    assert relative_error(torch.cat([first[0], second[0]], 1), whole[0]) < TOLERANCE[torch.float64]
    for y, z in zip(second[1:], whole[1:], strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]


@each_backend
@each_rule
def test_a_hopping_of_zero_cuts(backend, erase):
    tensors = drawn(9, erase=erase)
    tensors["hopping"][:, 5] = 0
    changed = {name: x.clone() for name, x in tensors.items()}
    for name in ("key", "value", "potential"):
        changed[name][:, :5] += 1
    assert torch.equal(run(tensors, backend)[0][:, 5:], run(changed, backend)[0][:, 5:])


@each_backend
@each_rule
def test_later_sites_change_nothing(backend, erase):
    tensors = drawn(70, dtype=torch.float32, erase=erase)
    changed = {name: x.clone() for name, x in tensors.items()}
    for name in NAMES:
        changed[name][:, 50] += 1
    assert torch.equal(run(tensors, backend)[0][:, :50], run(changed, backend)[0][:, :50])


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_impurity_that_nothing_passes_forgets_its_key_alone(backend):
    """e = 1 along a unit key: what is read along it is what was written there last, what is orthogonal stays."""
    tensors = drawn(6, state=False)
    basis = torch.eye(KEYS, dtype=torch.float64)
    tensors["key"] = basis[[0, 1, 0, 1, 0, 1]][None, :, None].expand_as(tensors["key"]).clone()
    tensors["query"] = basis[0].expand_as(tensors["query"]).clone()
    tensors["erase"] = torch.ones_like(tensors["potential"])
    gamma = propagator(dense_operator(*(tensors[name] for name in NAMES[3:]))).abs()
    output = run(tensors, backend)[0]
    for t, last in ((2, 2), (3, 2), (4, 4), (5, 4)):
        expected = gamma[..., t, last][..., None] * tensors["value"][:, last]
        assert relative_error(output[:, t], expected) < TOLERANCE[torch.float64]


@pytest.mark.kernels
def test_nothing_erased_is_adding():
    tensors = drawn(40, state=True)
    nothing = torch.zeros_like(tensors["potential"])
    for y, z in zip(run(tensors | {"erase": nothing}), run(tensors), strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]


def test_shares_that_do_not_fit():
    tensors = drawn(3, erase=True)
    with pytest.raises(ValueError, match=r"erase must be \[batch, sites, chains\]"):
        run(tensors | {"erase": tensors["erase"][..., None]})
    with pytest.raises(ValueError, match="potential, hopping, absorption, erase must have one shape"):
        run(tensors | {"erase": tensors["erase"][:, :2]})
    with pytest.raises(ValueError, match="must all be float64 or none of them"):
        run(tensors | {"erase": tensors["erase"].float()})


def test_it_is_the_size_of_the_propagator_of_the_matrix_state():
    """One source, one key: what arrives is the modulus of what `propagate` brings."""
    tensors = drawn(30, state=False)
    tensors["query"], tensors["key"] = torch.ones_like(tensors["query"]), torch.ones_like(tensors["key"])
    tensors["value"][:, 1:] = 0
    complex_output, _ = ops.propagate(*(tensors[name] for name in NAMES))
    output = run(tensors)[0]
    assert relative_error(output.abs(), complex_output.abs()) < TOLERANCE[torch.float64]


def test_the_record_names_what_ran():
    with record_backends() as seen:
        run(drawn(3))
    assert seen == {"propagate_modulus": {"numba"}, "surface_green": {"numba"}}
    for backend in ("chunked", "reference"):
        with record_backends() as seen:
            run(drawn(3), backend)
        assert seen == {"propagate_modulus": {backend}}


@pytest.mark.sweep
@pytest.mark.parametrize(("backend", "dtype"), [("numba", torch.float32), ("chunked", torch.float64)])
@each_rule
def test_compile(backend, dtype, erase):
    """One graph, gradients included, the same numbers as without it."""
    tensors = with_gradients(drawn(4, dtype=dtype, erase=erase))

    def call(*leaves):
        return run(dict(zip(tensors, leaves, strict=True)), backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors.values())
    expected = call(*tensors.values())
    for y, z in zip((*compiled, *of(compiled, tensors)), (*expected, *of(expected, tensors)), strict=True):
        assert relative_error(y, z) < TOLERANCE[dtype]


@each_backend
@each_rule
def test_layouts_and_cotangents(backend, erase):
    """Strided inputs, cotangents of stride 0, and parts of the outputs that nothing uses."""
    tensors = with_gradients(drawn(5, batch=3, erase=erase))
    strided = with_gradients({name: x.detach().mT.contiguous().mT for name, x in tensors.items()})
    assert not any(x.is_contiguous() for x in strided.values())
    leaves = {"plain": list(tensors.values()), "strided": list(strided.values())}
    first = torch.autograd.grad(run(tensors, backend)[0].sum(), leaves["plain"])
    again = torch.autograd.grad(run(strided, "reference")[0].sum(), leaves["strided"])
    for g, h in zip(first, again, strict=True):
        assert relative_error(g, h) < TOLERANCE[torch.float64]
    for place in (1, 2):
        of_state = [run(x, name)[place].abs().sum() for x, name in ((tensors, backend), (strided, "reference"))]
        first = torch.autograd.grad(of_state[0], leaves["plain"], allow_unused=True, materialize_grads=True)
        again = torch.autograd.grad(of_state[1], leaves["strided"], allow_unused=True, materialize_grads=True)
        for g, h in zip(first, again, strict=True):
            assert relative_error(g, h) < TOLERANCE[torch.float64]


@each_backend
@each_rule
def test_second_derivative_is_right_or_raises(backend, erase):
    tensors = with_gradients(drawn(3, batch=1, erase=erase))
    names, leaves = list(tensors), list(tensors.values())
    if backend == "numba":
        first = torch.autograd.grad(run(tensors, backend)[0].square().sum(), leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="autograd"):
            torch.autograd.grad(sum(bar.abs().sum() for bar in first), leaves, allow_unused=True)
    else:
        torch.autograd.gradgradcheck(
            lambda *leaves: run(dict(zip(names, leaves, strict=True)), backend)[::2], leaves, fast_mode=True
        )


@each_backend
@each_rule
def test_state_holds_no_chain(backend, erase):
    for part in run(drawn(50, state=False, erase=erase), backend)[1:]:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


@each_backend
@each_rule
def test_empty_batch(backend, erase):
    tensors = with_gradients(drawn(3, batch=0, erase=erase))
    outputs = run(tensors, backend)
    assert all(y.numel() == 0 for y in outputs)
    assert all(g.numel() == 0 for g in of(outputs, tensors))


def test_a_complex_state_is_refused():
    tensors = draw(MATRIX, 3, state=True, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"initial_state\[1\] \(S\) must be torch.float32"):
        run(tensors)
