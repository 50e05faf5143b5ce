"""The Triton kernels in Triton's interpreter, on the CPU: `test_triton.py` runs this file in a process of its own.

Triton decides when it is imported whether it compiles or interprets, so these tests need TRITON_INTERPRET=1 from the
start of the process. The interpreter takes about a millisecond an operation: pieces, chunks and tiles are made small,
so that short chains have several. Fresh memory holds NaN throughout: an entry that no kernel wrote would show.
"""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from triton.runtime.interpreter import InterpretedFunction

from resnet_bk.ops import available_backends, propagate_modulus, record_backends, triton_sizes
from resnet_bk.ops.propagate import triton as matrix
from resnet_bk.ops.propagate import triton_library as matrix_library
from tests.ops.cases import CAUSAL, OPERATORS, draw, each_operator, gradients, relative_error, with_gradients

# The interpreter makes its patches of triton.language at each call from one kernel to another; those that it made when
# the kernel was launched still hold, and without the rest these tests take a fraction of the time.
_patch_and_call = InterpretedFunction.__call__


def _call(self, *args, **kwargs):
    if self.fn.__module__.startswith("resnet_bk."):
        return self.rewrite()(*args, **kwargs)
    return _patch_and_call(self, *args, **kwargs)


InterpretedFunction.__call__ = _call

# 4 kappa eps with a condition number kappa <= 30 of what `draw` makes, as derived in `test_operators.py`.
FLOAT = 4 * 30 * torch.finfo(torch.float32).eps
PIECE = CHUNK = 4
each_causal = pytest.mark.parametrize("operator", CAUSAL, ids=lambda operator: operator.name)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(triton_sizes, "PIECE", PIECE)
    monkeypatch.setattr(matrix, "CHUNK", CHUNK)
    monkeypatch.setattr(matrix_library, "CHUNK", CHUNK)
    monkeypatch.setattr(matrix, "CONSTANTS", matrix.CONSTANTS | {"C": CHUNK, "BK": 4, "BV": 8})


@pytest.fixture(autouse=True)
def _memory_of_nan(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def size(operator, sites=0):
    """The matrix state runs a program a head and chunk: several of each in the first case only."""
    return {"chains": 1, "batch": 1} if operator.name == "propagate" and sites != 1 else {}


def check(operator, tensors, tolerance=FLOAT):
    """Values and all gradients against the dense inverse in float64."""
    tensors = with_gradients(tensors)
    exact = with_gradients({name: x.to(torch.promote_types(x.dtype, torch.float64)) for name, x in tensors.items()})
    outputs = operator.run(tensors, "triton")
    expected = operator.oracle(*exact.values())
    assert [y.dtype for y in outputs] == [torch.complex64] * len(outputs)
    assert [y.shape for y in outputs] == [y.shape for y in expected]
    for y, z in zip(outputs, expected, strict=True):
        assert relative_error(y, z) < tolerance
    for name, g, h in zip(tensors, gradients(outputs, tensors), gradients(expected, exact), strict=True):
        assert g.dtype == tensors[name].dtype, name
        assert relative_error(g, h) < tolerance, name


# One site; the longest chain that is not cut; a last piece of one site, and of four; chunks alike.
@each_operator
@pytest.mark.parametrize("sites", [1, 2 * PIECE, 2 * PIECE + 1, 3 * PIECE])
def test_oracle(operator, sites):
    check(operator, draw(operator, sites, dtype=torch.float32, state=bool(operator.states), **size(operator, sites)))


@pytest.mark.sweep
@each_operator
def test_the_default_dtype_is_not_read(operator):
    tensors = draw(operator, CHUNK + 1, dtype=torch.float32, **size(operator))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            leaves = with_gradients(tensors)
            outputs = operator.run(leaves, "triton")
            results.append((*outputs, *gradients(outputs, leaves)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(torch.equal(y, z) for y, z in zip(*results, strict=True))


@each_operator
def test_oracle_without_a_state(operator):
    tensors = draw(operator, 2 * PIECE + 2, dtype=torch.float32, **size(operator))
    check(operator, tensors)
    leaves = with_gradients(tensors)
    assert (gradients(operator.run(leaves, "triton"), leaves)[list(leaves).index("hopping")][:, 0] == 0).all()


@pytest.mark.sweep
@each_operator
def test_more_lanes_than_a_program_has(operator):
    """2 rows of 35 chains in 3 pieces fill several programs and leave a rest, and the rows meet inside of a program."""
    chains, sites = (2, CHUNK + 1) if operator.name == "propagate" else (35, 2 * PIECE + 1)
    check(operator, draw(operator, sites, chains=chains, dtype=torch.float32))


@pytest.mark.sweep
@pytest.mark.parametrize(("keys", "values"), [(1, 1), (5, 9)])
def test_key_and_value_sizes(keys, values):
    """Sizes below a tile, and of several with a rest."""
    operator = OPERATORS[-1]
    tensors = draw(operator, CHUNK + 1, batch=1, chains=1, dtype=torch.float32)
    generator = torch.Generator().manual_seed(keys)
    for name, size in (("query", keys), ("key", keys), ("value", values)):
        tensors[name] = torch.randn(1, CHUNK + 1, 1, size, generator=generator)
    check(operator, tensors)


@pytest.mark.sweep
def test_matrix_state_with_the_sizes_of_a_gpu(monkeypatch):
    monkeypatch.undo()
    assert matrix.CONSTANTS["C"] == matrix.CHUNK == matrix_library.CHUNK == 32
    check(OPERATORS[-1], draw(OPERATORS[-1], 33, batch=1, chains=1, dtype=torch.float32))


@pytest.mark.sweep
@each_operator
def test_near_singular(operator):
    """eta = 1e-3 with the energy on an eigenvalue, over several pieces: a condition number of 4,000, at which float32
    throughout would miss by 4,000 eps = 5e-4. Sweeps are float64 inside and 1e-5 is promised."""
    tensors = draw(operator, 3 * PIECE + 1, batch=1, chains=1, dtype=torch.float32)
    sites = 3 * PIECE + 1
    # Eigenvalues of a uniform chain: 2 b cos(k pi / (T + 1)).
    tensors["potential"] = torch.full_like(tensors["potential"], 2 * math.cos(3 * math.pi / (sites + 1)))
    tensors["hopping"] = torch.ones_like(tensors["hopping"])
    tensors["absorption"] = torch.full_like(tensors["absorption"], 1e-3)
    check(operator, tensors, tolerance=1e-5)


@pytest.mark.sweep
@each_operator
def test_hopping_of_zero_cuts_exactly(operator):
    cut = PIECE + 1
    tensors = draw(operator, 2 * PIECE + 1, batch=1, chains=1, dtype=torch.float32)
    tensors["hopping"][:, cut] = 0
    leaves = with_gradients(tensors)
    behind = operator.run(leaves, "triton")[0][:, cut:]
    for name, bar in zip(leaves, torch.autograd.grad(behind.abs().sum(), list(leaves.values())), strict=True):
        assert (bar[:, :cut] == 0).all(), name
    changed = {name: torch.cat([2 * x[:, :cut], x[:, cut:]], 1) for name, x in tensors.items()}
    assert torch.equal(behind, operator.run(changed, "triton")[0][:, cut:])


@pytest.mark.sweep
@each_causal
def test_causal_bitwise(operator):
    changed = PIECE + 1
    tensors = draw(operator, 2 * PIECE + 1, batch=1, chains=1, dtype=torch.float32)
    before = operator.run(tensors, "triton")[0]
    other = {name: x.clone() for name, x in tensors.items()}
    for name in operator.inputs:
        other[name][:, changed] *= 2
    after = operator.run(other, "triton")[0]
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.equal(before[:, changed], after[:, changed])


@pytest.mark.sweep
@each_causal
def test_parts_with_state_equal_the_whole(operator):
    """Also between a chain that is cut into pieces and parts that are not."""
    tensors = with_gradients(draw(operator, 2 * PIECE + 1, batch=1, chains=1, dtype=torch.float32, state=True))
    whole = operator.run(tensors, "triton")
    states = {name: tensors[name] for name in operator.states}
    outputs, start = [], 0
    for stop in (3, 2 * PIECE + 1):
        part = {name: tensors[name][:, start:stop] for name in operator.inputs}
        output, *ends = operator.run({**part, **states}, "triton")
        outputs.append(output)
        states = dict(zip(operator.states, ends, strict=True))
        start = stop
    parts = (torch.cat(outputs, 1), *states.values())
    pairs = zip((*parts, *gradients(parts, tensors)), (*whole, *gradients(whole, tensors)), strict=True)
    for actual, expected in pairs:
        assert relative_error(actual, expected) < FLOAT


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("operator", "dtype"),
    [(operator, torch.bfloat16) for operator in OPERATORS] + [(OPERATORS[-1], torch.float16)],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_half_inputs_are_computed_in_float32(operator, dtype):
    """One input stays float32, as after a softplus under autocast."""
    half = {name: x.to(dtype) for name, x in draw(operator, 3, batch=1, chains=1, dtype=torch.float32).items()}
    half = with_gradients(half | {"absorption": half["absorption"].float()})
    single = with_gradients({name: x.float() for name, x in half.items()})
    outputs, expected = operator.run(half, "triton"), operator.run(single, "triton")
    for y, z in zip(outputs, expected, strict=True):
        assert relative_error(y, z) < FLOAT  # q k^T is summed by another unit than in float32
    for x, g, h in zip(half.values(), gradients(outputs, half), gradients(expected, single), strict=True):
        assert g.dtype == x.dtype
        assert relative_error(g, h) < torch.finfo(x.dtype).eps + FLOAT


@each_operator
def test_layouts_and_cotangents(operator):
    """Strided inputs, lazily conjugated states; cotangents with stride 0, conjugate and negative."""
    tensors = draw(operator, 3, batch=2, dtype=torch.float32, state=bool(operator.states))
    strided = {name: x.mT.contiguous().mT if x.ndim > 2 else x.t().contiguous().t() for name, x in tensors.items()}
    strided |= {name: strided[name].conj().resolve_conj().conj() for name in operator.states}
    results = []
    for leaves in (with_gradients(tensors), with_gradients(strided)):
        backend = "reference" if leaves["potential"].is_contiguous() else "triton"
        bars = torch.autograd.grad(operator.run(leaves, backend)[0].conj().imag.sum(), list(leaves.values()))
        results.append(bars)
    for g, h in zip(results[1], results[0], strict=True):
        assert relative_error(g, h) < FLOAT


@each_operator
def test_empty_batch(operator):
    tensors = with_gradients(draw(operator, 3, batch=0, dtype=torch.float32, state=bool(operator.states)))
    outputs = operator.run(tensors, "triton")
    assert outputs[0].shape[:2] == (0, 3)
    for tensor, bar in zip(tensors.values(), gradients(outputs, tensors), strict=True):
        assert bar.shape == tensor.shape


@pytest.mark.sweep
@each_causal
def test_unused_outputs(operator):
    """The gradient of one output alone, be it the last state."""
    tensors = with_gradients(draw(operator, 3, batch=1, chains=1, dtype=torch.float32, state=True))
    for k in range(1 + len(operator.states)):
        results = []
        for name in ("triton", "reference"):
            y = operator.run(tensors, name)[k].abs().sum()
            results.append(torch.autograd.grad(y, list(tensors.values()), allow_unused=True, materialize_grads=True))
        for actual, expected in zip(*results, strict=True):
            assert (actual == 0).all() if (expected == 0).all() else relative_error(actual, expected) < FLOAT


@pytest.mark.sweep
@each_operator
def test_sizes_from_1e_6_to_1e6_stay_finite(operator):
    """Random mixtures of sizes over several pieces, results and gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: x.shape for name, x in draw(operator, 2 * PIECE + 1, batch=1, chains=16).items()}
    if operator.name == "propagate":
        shapes = {name: (*shape[:2], 2, *shape[3:]) for name, shape in shapes.items()}
    leaves = {name: 10 ** (12 * torch.rand(shape, generator=generator) - 6) for name, shape in shapes.items()}
    leaves = with_gradients(leaves | {"potential": leaves["potential"] * (-1) ** torch.arange(2 * PIECE + 1)[:, None]})
    outputs = operator.run(leaves, "triton")
    for tensor in (*outputs, *gradients(outputs, leaves)):
        assert tensor.isfinite().all()


@each_operator
def test_fake_tensors(operator):
    """Shapes as PyTorch is told them are those of the kernels; nothing that is kept shares memory with a result."""
    real = with_gradients(
        draw(operator, 2 * PIECE + 1, batch=1, chains=1, dtype=torch.float32, state=bool(operator.states))
    )
    kept: list[list[torch.Tensor]] = [[], []]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept[0].append(x) or x, lambda x: x):
        outputs = operator.run(real, "triton")
    with (
        FakeTensorMode() as mode,
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept[1].append(x) or x, lambda x: x),
    ):
        fake_outputs = operator.run({name: mode.from_tensor(x) for name, x in real.items()}, "triton")
    assert len(kept[0]) == len(kept[1]) > 0
    for y, z in zip((*fake_outputs, *kept[1]), (*outputs, *kept[0]), strict=True):
        assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())
    results, memory = ({x.untyped_storage().data_ptr() for x in group} for group in (outputs, kept[0]))
    assert not results & memory


@pytest.mark.parametrize("operator", OPERATORS[2:], ids=lambda operator: operator.name)
def test_compile(operator):
    """One graph, gradients included, the same numbers as without it."""
    tensors = with_gradients(draw(operator, 2, batch=1, chains=1, dtype=torch.float32, state=bool(operator.states)))
    names = list(tensors)

    def call(*leaves):
        return operator.run(dict(zip(names, leaves, strict=True)), "triton")

    with record_backends() as seen:
        outputs = torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors.values())
    assert seen == {operator.name: {"triton"}}
    expected = call(*tensors.values())
    pairs = zip((*outputs, *gradients(outputs, tensors)), (*expected, *gradients(expected, tensors)), strict=True)
    for y, z in pairs:
        assert relative_error(y, z) < FLOAT


@each_operator
def test_second_derivative_raises(operator):
    tensors = with_gradients(draw(operator, 2, batch=1, chains=1, dtype=torch.float32))
    leaves = list(tensors.values())
    output = operator.run(tensors, "triton")[0].abs().square().sum()
    first = torch.autograd.grad(output, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        torch.autograd.grad(sum(bar.abs().sum() for bar in first), leaves, allow_unused=True)


@each_operator
def test_flops(operator):
    """FlopCounterMode counts the work of the operator, as for the compiled CPU kernels."""
    counted = []
    for backend in ("triton", "numba"):
        leaves = with_gradients(draw(operator, 2, batch=1, chains=1, dtype=torch.float32))
        with FlopCounterMode(display=False) as counter:
            operator.run(leaves, backend)[0].abs().sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


@each_operator
def test_dispatch(operator):
    """The interpreter is never taken unless it is asked for, and float64 not even then."""
    assert available_backends(operator.name, "cpu")[-1] == "triton"
    tensors = draw(operator, 2, batch=1)
    with record_backends() as seen:
        operator.run(tensors, "auto")
    assert "triton" not in seen[operator.name]
    with pytest.raises(ValueError, match=rf"'triton' of {operator.name} computes in float32, but got torch.float64"):
        operator.run(tensors, "triton")


@pytest.mark.parametrize("erases", [False, True], ids=["adding", "erasing"])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "state"])
def test_the_modulus_takes_the_kernel_for_its_green_function(state, erases):
    operator = OPERATORS[-1]
    drawn = draw(operator, 5, batch=1, dtype=torch.float32, state=state)
    drawn["hopping"][:, 3, 0] = 0.0  # a cut
    if erases:
        drawn["erase"] = 0.7 / drawn["key"].square().sum(-1)
    if state:
        drawn["memory_in"] = drawn["memory_in"].real.clone()
    results = []
    for backend in ("triton", "reference"):
        tensors = with_gradients(drawn)
        inputs = [tensors[name] for name in operator.inputs]
        before = (tensors["green_in"], tensors["memory_in"]) if state else None
        with record_backends() as seen:
            output, (green, memory) = propagate_modulus(
                *inputs, erase=tensors.get("erase"), initial_state=before, backend=backend
            )
        outputs = (torch.view_as_complex(torch.stack([output, output], -1)), green, memory.to(green.dtype))
        results.append((*outputs, *gradients(outputs, tensors)))
        kernel = {"surface_green": {"triton"}} if backend == "triton" else {}
        assert seen == {"propagate_modulus": {backend}} | kernel
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < FLOAT
