"""Every operator on every backend against the dense oracle and against each other.

Tolerances. Rounding of the inputs alone moves a resolvent G by eps |A| |G| relative, and |A| |G| <=
|A| / eta_min = kappa. The inputs of `draw` have |A| <= 9 and eta_min >= 0.3, so kappa <= 30; a recurrence rounds a few
times a site, and errors die out over 1/eta sites. 4 kappa eps leaves room for a gradient, which multiplies two
resolvents. Errors are relative to the largest entry.
"""

import pytest
import torch

from resnet_bk.ops.propagate.chunked import CHUNK
from resnet_bk.ops.sizes import PROPAGATE_CHUNK
from tests.ops.cases import (
    OPERATORS,
    draw,
    each_backend,
    each_causal_backend,
    each_fast_backend,
    gradients,
    relative_error,
    with_gradients,
)

KAPPA = 30
TOLERANCE = {dtype: 4 * KAPPA * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}
# Both chunked evaluations have the same chunk, so that these lengths are the edges of both.
assert CHUNK == PROPAGATE_CHUNK
LENGTHS = (1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5)


def check(operator, backend, sites, dtype, **options):
    tensors = with_gradients(draw(operator, sites, dtype=dtype, **options))
    exact = {name: x.detach().to(torch.promote_types(x.dtype, torch.float64)) for name, x in tensors.items()}
    exact = with_gradients(exact)
    outputs = operator.run(tensors, backend)
    expected = operator.oracle(*(exact[name] for name in exact))
    assert [y.dtype for y in outputs] == [dtype.to_complex()] * len(outputs)
    assert [y.shape for y in outputs] == [y.shape for y in expected]
    for y, z in zip(outputs, expected, strict=True):
        assert relative_error(y, z) < TOLERANCE[dtype]
    named = zip(tensors, gradients(outputs, tensors), gradients(expected, exact), strict=True)
    for name, g, h in named:
        assert g.dtype == tensors[name].dtype, name
        assert relative_error(g, h) < TOLERANCE[dtype], name


@each_backend
def test_oracle_without_a_state(operator, backend):
    check(operator, backend, 3, torch.float64, state=False)


@pytest.mark.parametrize("sites", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@each_backend
def test_oracle(operator, backend, sites, dtype):
    check(operator, backend, sites, dtype, state=bool(operator.states))


@each_fast_backend
@pytest.mark.parametrize("chains", [1, 15, 16, 17, 70])
def test_widths_match_reference(operator, backend, chains):
    """Full vectors, rests and several blocks of channels."""
    tensors = with_gradients(draw(operator, 5, chains=chains, dtype=torch.float32, state=bool(operator.states)))
    results = []
    for name in (backend, "reference"):
        outputs = operator.run(tensors, name)
        results.append((*outputs, *gradients(outputs, tensors)))
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(("keys", "values"), [(1, 1), (2, 16), (17, 3), (16, 33), (33, 17)])
@pytest.mark.parametrize("backend", [pytest.param("numba", marks=pytest.mark.kernels), "chunked"])
def test_key_and_value_sizes_match_reference(keys, values, backend):
    """Keys and columns of the matrix state that fill vectors, tiles of vectors, and neither."""
    operator = OPERATORS[-1]
    tensors = draw(operator, 4, dtype=torch.float32)
    generator = torch.Generator().manual_seed(keys)
    for name, size in (("query", keys), ("key", keys), ("value", values)):
        tensors[name] = torch.randn(2, 4, 2, size, generator=generator)
    tensors = with_gradients(tensors)
    results = []
    for name in (backend, "reference"):
        outputs = operator.run(tensors, name)
        results.append((*outputs, *gradients(outputs, tensors)))
    for actual, expected in zip(*results, strict=True):
        # Sums over up to 33 keys or columns: a random walk of roundings, sqrt(33) < 6, on top.
        assert relative_error(actual, expected) < 6 * TOLERANCE[torch.float32]


@each_backend
def test_gradcheck(operator, backend):
    """Full Jacobians against finite differences, final states included in the outputs, initial ones in the inputs."""
    tensors = with_gradients(draw(operator, 4, batch=1, state=bool(operator.states)))
    names = list(tensors)
    torch.autograd.gradcheck(
        lambda *leaves: operator.run(dict(zip(names, leaves, strict=True)), backend), list(tensors.values())
    )


@each_fast_backend
def test_gradcheck_across_chunks(operator, backend):
    tensors = with_gradients(draw(operator, CHUNK + 2, batch=1, chains=1, state=bool(operator.states)))
    names = list(tensors)
    torch.autograd.gradcheck(
        lambda *leaves: operator.run(dict(zip(names, leaves, strict=True)), backend),
        list(tensors.values()),
        fast_mode=True,
    )


@each_backend
def test_second_derivative_is_right_or_raises(operator, backend):
    tensors = with_gradients(draw(operator, 3, batch=1, state=bool(operator.states)))
    names, leaves = list(tensors), list(tensors.values())
    if backend == "numba":
        output = operator.run(tensors, backend)[0].abs().square().sum()
        first = torch.autograd.grad(output, leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="autograd"):
            torch.autograd.grad(sum(bar.abs().sum() for bar in first), leaves, allow_unused=True)
    else:
        torch.autograd.gradgradcheck(
            lambda *leaves: operator.run(dict(zip(names, leaves, strict=True)), backend), leaves, fast_mode=True
        )


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_second_derivative_in_float32(operator, batch):
    """Against float64; the widened state comes back conjugated, and dense where there is one row."""
    found = []
    drawn = draw(operator, 3, batch=batch, state=bool(operator.states), dtype=torch.float32)
    for precision in (torch.float32, torch.float64):
        tensors = with_gradients({name: x.to(torch.promote_types(x.dtype, precision)) for name, x in drawn.items()})
        leaves = list(tensors.values())
        output = operator.run(tensors, "chunked")[0].abs().square().sum()
        first = torch.autograd.grad(output, leaves, create_graph=True)
        size = sum(bar.abs().square().sum() for bar in first)
        found.append(torch.autograd.grad(size, leaves, allow_unused=True))
    for small, large in zip(*found, strict=True):
        if large is not None:
            assert (small - large).abs().max() <= 1e-4 * large.abs().max()


@each_backend
def test_no_gradient_for_the_first_hopping(operator, backend):
    tensors = with_gradients(draw(operator, 4))
    outputs = operator.run(tensors, backend)
    bar = gradients(outputs, tensors)[list(tensors).index("hopping")]
    assert (bar[:, 0] == 0).all()
    assert (bar[:, 1:] != 0).all()
    moved = dict(tensors, hopping=torch.cat([tensors["hopping"][:, :1] + 1, tensors["hopping"][:, 1:]], 1))
    for y, z in zip(outputs, operator.run(moved, backend), strict=True):
        assert torch.equal(y, z)


@each_backend
@pytest.mark.parametrize("cut", [1, CHUNK, CHUNK + 3])
def test_zero_hopping_cuts_exactly(operator, backend, cut):
    """Two documents packed in one chain equal the two apart, bit for bit, and pass no gradient to each other."""
    sites = cut + CHUNK + 2
    tensors = draw(operator, sites, batch=1, chains=3, dtype=torch.float32)
    tensors["hopping"][:, cut] = 0
    packed = operator.run(tensors, backend)[0]
    tail = {name: x[:, cut:] for name, x in tensors.items()}
    # Plain PyTorch scans reach other sites in other rounds where a piece stands elsewhere; the compiled sweeps do not.
    aligned = backend != "chunked" or operator.name in ("surface_green", "resolvent_diagonal")
    if aligned:
        assert torch.equal(packed[:, cut:], operator.run(tail, backend)[0])
    else:
        assert relative_error(packed[:, cut:], operator.run(tail, backend)[0]) < TOLERANCE[torch.float32]

    # What stands before the cut has no effect at all behind it, and the other way round for the two-sided operator.
    leaves = with_gradients(tensors)
    behind = operator.run(leaves, backend)[0][:, cut:]
    for name, bar in zip(leaves, torch.autograd.grad(behind.abs().sum(), list(leaves.values())), strict=True):
        assert (bar[:, :cut] == 0).all(), name
    changed = {name: torch.cat([2 * x[:, :cut], x[:, cut:]], 1) for name, x in tensors.items()}
    assert torch.equal(packed[:, cut:], operator.run(changed, backend)[0][:, cut:])


@each_causal_backend
@pytest.mark.parametrize("changed", [1, CHUNK - 1, CHUNK])
def test_causal_bitwise(operator, backend, changed):
    tensors = draw(operator, CHUNK + 4, dtype=torch.float32)
    before = operator.run(tensors, backend)[0]
    for name in operator.inputs:
        other = {key: x.clone() for key, x in tensors.items()}
        other[name][:, changed] *= 2
        after = operator.run(other, backend)[0]
        assert torch.equal(before[:, :changed], after[:, :changed]), name
        assert not torch.equal(before[:, changed], after[:, changed]), name


@each_causal_backend
def test_pieces_with_state_equal_the_whole(operator, backend):
    """Values and gradients, which flow back through the carried state."""
    tensors = with_gradients(draw(operator, 2 * CHUNK + 3, dtype=torch.float32, state=True))
    whole = operator.run(tensors, backend)
    states = {name: tensors[name] for name in operator.states}
    outputs, start = [], 0
    for stop in (1, CHUNK, CHUNK + 1, 2 * CHUNK + 3):
        piece = {name: tensors[name][:, start:stop] for name in operator.inputs}
        output, *parts = operator.run({**piece, **states}, backend)
        outputs.append(output)
        states = dict(zip(operator.states, parts, strict=True))
        start = stop
    pieces = (torch.cat(outputs, 1), *states.values())
    # The others carry L in float64, and a state between two calls is rounded to complex64.
    if backend == "reference":
        for y, z in zip(pieces, whole, strict=True):
            assert torch.equal(y, z)
    pairs = zip((*pieces, *gradients(pieces, tensors)), (*whole, *gradients(whole, tensors)), strict=True)
    for actual, expected in pairs:
        assert relative_error(actual, expected) < TOLERANCE[torch.float32]


@each_causal_backend
def test_state_holds_no_chain(operator, backend):
    """A state kept for generation must not keep the sequence in memory."""
    _, *state = operator.run(draw(operator, 50), backend)
    for part in state:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


@each_backend
def test_not_contiguous(operator, backend):
    tensors = draw(operator, 5, batch=3, state=bool(operator.states))
    expected = operator.run(tensors, backend)
    strided = {name: x.mT.contiguous().mT if x.ndim > 2 else x.t().contiguous().t() for name, x in tensors.items()}
    # Also the lazy conjugate of a conjugate, which torch stores as a flag.
    strided |= {name: strided[name].conj().resolve_conj().conj() for name in operator.states}
    assert not any(x.is_contiguous() for x in strided.values())
    for y, z in zip(operator.run(strided, backend), expected, strict=True):
        assert relative_error(y, z) < TOLERANCE[torch.float64]


@each_backend
def test_expanded_cotangent(operator, backend):
    """`sum` and `real` hand back cotangents with stride 0, and conjugate or negative views."""
    tensors = with_gradients(draw(operator, 3))
    leaves = list(tensors.values())
    outputs = operator.run(tensors, backend)
    first = torch.autograd.grad(outputs[0].conj().imag.sum(), leaves)
    again = torch.autograd.grad(operator.run(tensors, "reference")[0].conj().imag.sum(), leaves)
    for g, h in zip(first, again, strict=True):
        assert relative_error(g, h) < TOLERANCE[torch.float64]


@each_backend
def test_empty_batch(operator, backend):
    tensors = with_gradients(draw(operator, 3, batch=0, state=bool(operator.states)))
    outputs = operator.run(tensors, backend)
    assert outputs[0].shape[:2] == (0, 3)
    for tensor, bar in zip(tensors.values(), gradients(outputs, tensors), strict=True):
        assert bar.shape == tensor.shape


@each_causal_backend
def test_unused_outputs(operator, backend):
    """The gradient of one output alone, be it the last state."""
    tensors = with_gradients(draw(operator, 3, state=True))
    for k in range(1 + len(operator.states)):
        results = []
        for name in (backend, "reference"):
            y = operator.run(tensors, name)[k].abs().sum()
            results.append(torch.autograd.grad(y, list(tensors.values()), allow_unused=True, materialize_grads=True))
        for actual, expected in zip(*results, strict=True):
            assert relative_error(actual, expected) < TOLERANCE[torch.float64]
