"""The operators as PyTorch knows them: registration, torch.compile, fake tensors, half precision, autocast."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import (
    CAUSAL,
    OPERATORS,
    draw,
    each_backend_with_modulus,
    each_fast_backend,
    gradients,
    relative_error,
    with_gradients,
    with_modulus,
)

REGISTERED = torch.ops.resnet_bk


def forward_arguments(operator, **options):
    tensors = with_gradients(draw(operator, 3, state=bool(operator.states), **options))
    return [tensors[name] for name in (*operator.inputs, *operator.states)]


def registered_calls():
    """Every registered function with arguments it may meet."""
    green, diagonal, vector, matrix = (forward_arguments(operator) for operator in OPERATORS)
    yield "resolvent_diagonal", diagonal
    for name, arguments in (("surface_green", green), ("propagate_vector", vector), ("propagate", matrix)):
        yield name, [*arguments, True]
        yield name, [*(x.detach() for x in arguments), False]
    with torch.no_grad():
        a, b, eta, state = (x.detach() for x in green)
        output, checkpoints = REGISTERED.surface_green(a, b, eta, state, True)
        yield "surface_green_backward", [torch.randn_like(output), a, b, eta, checkpoints]
        output, *kept = REGISTERED.resolvent_diagonal(a, b, eta)
        yield "resolvent_diagonal_backward", [torch.randn_like(output), *kept, a, b, eta]
        vector = [x.detach() for x in vector]
        psi, last, checkpoints = REGISTERED.propagate_vector(*vector, True)
        for bars in ([torch.randn_like(psi), torch.randn_like(last)], [None, torch.randn_like(last)]):
            yield "propagate_vector_backward", [*bars, *vector[:4], checkpoints]
        y, last, memory, output, checkpoints = REGISTERED.propagate(*matrix, True)
        kept = [x.detach() for x in (*matrix[:3], matrix[4], matrix[6], output, checkpoints)]
        yield "propagate_backward", [torch.randn_like(y), torch.randn_like(last), torch.randn_like(memory), *kept]
        yield "propagate_backward", [None, None, torch.randn_like(memory), *kept]


each_registered = pytest.mark.parametrize(
    "name", [f"{operator.name}{part}" for operator in OPERATORS for part in ("", "_backward")]
)
# The last two are about derivatives. The backward functions have none on purpose.
CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")


@each_registered
def test_opcheck(name):
    calls = [arguments for called, arguments in registered_calls() if called == name]
    assert calls
    for arguments in calls:
        differentiable = any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments)
        checks = CHECKS if differentiable else CHECKS[:2]
        torch.library.opcheck(getattr(REGISTERED, name), arguments, test_utils=checks)


@pytest.mark.parametrize("operator", CAUSAL, ids=lambda operator: operator.name)
def test_no_gradient_without_checkpoints(operator):
    """A kernel that read checkpoints which were not kept would read foreign memory."""
    output = getattr(REGISTERED, operator.name)(*forward_arguments(operator), False)[0]
    with pytest.raises(RuntimeError, match=r"kept nothing for a gradient.*; trace it with inputs"):
        output.abs().sum().backward()


@pytest.mark.sweep
@each_fast_backend
def test_compile(operator, backend):
    """One graph, gradients included, the same numbers as without it."""
    tensors = with_gradients(draw(operator, 4, state=bool(operator.states)))
    names = list(tensors)

    def call(*leaves):
        return operator.run(dict(zip(names, leaves, strict=True)), backend)

    outputs = torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors.values())
    expected = call(*tensors.values())
    pairs = zip((*outputs, *gradients(outputs, tensors)), (*expected, *gradients(expected, tensors)), strict=True)
    for y, z in pairs:
        assert relative_error(y, z) < 1e-13  # float64; the graph may order sums of gradients otherwise


@with_modulus
def test_nothing_kept_shares_memory_with_a_result(operator):
    """Inductor overwrites `view_as_real(y)` where it is kept for a gradient, and y with it if an operator keeps y."""
    tensors = with_gradients(draw(operator, 4, state=bool(operator.states)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        outputs = operator.run(tensors, "numba")
    assert kept
    results, memory = ({x.untyped_storage().data_ptr() for x in group} for group in (outputs, kept))
    assert not results & memory


@each_backend_with_modulus
def test_fake_tensors(operator, backend):
    """Shapes without values: nothing runs, and values are not looked at."""
    real = draw(operator, 3, state=bool(operator.states))
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(x) for name, x in real.items()}
        outputs = operator.run(fake, backend)
    for y, z in zip(outputs, operator.run(real, backend), strict=True):
        assert (y.shape, y.dtype, y.stride()) == (z.shape, z.dtype, z.stride())


@each_backend_with_modulus
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_inputs_are_computed_in_float32(operator, backend, dtype):
    half = {name: x.to(dtype).requires_grad_() for name, x in draw(operator, 5, dtype=torch.float32).items()}
    single = with_gradients({name: x.float() for name, x in half.items()})
    outputs, expected = operator.run(half, backend), operator.run(single, backend)
    for y, z in zip(outputs, expected, strict=True):
        assert y.dtype == torch.complex64
        assert torch.equal(y, z)
    for x, g, h in zip(half.values(), gradients(outputs, half), gradients(expected, single), strict=True):
        assert g.dtype == dtype
        assert torch.equal(g, h.to(dtype)), x.shape


@each_backend_with_modulus
def test_half_beside_float32(operator, backend):
    """Under autocast linear layers give half types and softplus gives float32: both may stand in one call."""
    tensors = draw(operator, 4, dtype=torch.float32)
    first = operator.inputs[0]
    mixed = dict(tensors, **{first: tensors[first].bfloat16()})
    rounded = dict(tensors, **{first: tensors[first].bfloat16().float()})
    for y, z in zip(operator.run(mixed, backend), operator.run(rounded, backend), strict=True):
        assert torch.equal(y, z)


@each_backend_with_modulus
def test_autocast_changes_nothing(operator, backend):
    tensors = with_gradients(draw(operator, 5, dtype=torch.float32))
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            outputs = operator.run(tensors, backend)
        results.append((*outputs, *gradients(outputs, tensors)))
    for y, z in zip(*results, strict=True):
        assert torch.equal(y, z)


def test_import_is_light():
    """Importing compiles nothing, and neither numba nor torch._dynamo nor a kernel of Triton is loaded."""
    code = (
        "import torch, sys; before = set(sys.modules); import resnet_bk.ops; "
        "print([name for name in ('numba', 'llvmlite', 'torch._dynamo', 'scipy') "
        "if name in sys.modules and name not in before], [name for name in sys.modules if name.endswith('.triton') "
        "and name.startswith('resnet_bk')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
