"""Which backend runs, and the record of it."""

import sys
from types import SimpleNamespace

import numba
import pytest
import torch
from llvmlite.binding import get_host_cpu_features

from resnet_bk.ops import available_backends, dispatch, record_backends, starts
from resnet_bk.ops.dispatch import OPERATORS as NAMES
from tests.ops.cases import OPERATORS, WITH_MODULUS, draw, each_backend, each_operator, with_modulus


def test_table_is_complete():
    # propagate_modulus has a table of its own (test_propagate_modulus.py): its results are real.
    assert {operator.name for operator in OPERATORS} | {"propagate_modulus"} == set(NAMES)


@with_modulus
def test_available_backends(operator):
    assert available_backends(operator.name, "cpu") == ("numba", "chunked", "reference")
    assert available_backends(operator.name, "meta") == ("chunked", "reference")


@with_modulus
@pytest.mark.parametrize("installed", [False, True])
def test_gpus_take_triton_where_it_is_installed(operator, installed, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", installed)
    expected = ("triton", "chunked", "reference") if installed else ("chunked", "reference")
    assert available_backends(operator.name, "cuda") == expected


@with_modulus
def test_amd_gpus_take_plain_pytorch(operator, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert available_backends(operator.name, "cuda") == ("chunked", "reference")


@with_modulus
def test_older_gpus_take_plain_pytorch(operator, monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dispatch, "triton_starts", lambda: True)
    for capability, first in (((7, 5), "chunked"), ((8, 0), "triton"), ((12, 0), "triton")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None, capability=capability: capability)
        assert available_backends(operator.name, "cuda")[0] == first
    # Two GPUs in a machine: that of the inputs is asked.
    ability = {None: (9, 0), torch.device("cuda", 0): (9, 0), torch.device("cuda", 1): (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", ability.__getitem__)
    for place, first in ((0, "triton"), (1, "chunked")):
        like = SimpleNamespace(device=torch.device("cuda", place), dtype=torch.float32)
        assert dispatch.choose(operator.name, "auto", like) == first


def test_plain_pytorch_where_triton_cannot_start(monkeypatch):
    """As on a machine without a C compiler, which builds what starts its kernels."""

    class Active:
        def get_current_target(self):
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setitem(sys.modules, "triton.runtime", SimpleNamespace(driver=SimpleNamespace(active=Active())))
    starts.triton_starts.cache_clear()
    try:
        with pytest.warns(
            RuntimeWarning, match=r"cannot start kernels here \(RuntimeError: Failed to .*; install a C c"
        ):
            assert available_backends("propagate", "cuda") == ("chunked", "reference")
        assert available_backends("propagate", "cuda") == ("chunked", "reference")  # told once
        with monkeypatch.context() as traced:
            traced.setattr(torch.compiler, "is_compiling", lambda: True)
            assert available_backends("propagate", "cuda")[0] == "triton"  # nothing can be tried out
        like = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
        with pytest.raises(
            ValueError, match=r"got 'triton'; triton needs .*, a C compiler and Python's headers; 'auto'"
        ):
            dispatch.choose("propagate", "triton", like)
    finally:
        starts.triton_starts.cache_clear()


@pytest.mark.parametrize("backend", ["auto", "chunked", "reference"])
@with_modulus
def test_a_forward_derivative_is_right_or_refused(operator, backend):
    tensors = draw(operator, 5, state=True)
    check_forward_derivative(operator, backend, tensors, [name for name in tensors if name not in operator.states])


@pytest.mark.parametrize("backend", ["auto", "chunked", "reference"])
@pytest.mark.parametrize("operator", [op for op in WITH_MODULUS if op.states], ids=lambda operator: operator.name)
def test_a_forward_derivative_by_the_state_is_right_or_refused(operator, backend):
    check_forward_derivative(operator, backend, draw(operator, 5, state=True), operator.states)


def check_forward_derivative(operator, backend, tensors, names):
    values = tuple(tensors[name] for name in names)
    directions = tuple(torch.randn_like(value) for value in values)

    def outputs(*given):
        return operator.run(tensors | dict(zip(names, given, strict=True)), backend)[0]

    if backend == "reference":
        _, found = torch.func.jvp(outputs, values, directions)
        step = 1e-6
        ahead, behind = (
            outputs(*(value + sign * step * way for value, way in zip(values, directions, strict=True)))
            for sign in (1, -1)
        )
        torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
    else:
        with pytest.raises(ValueError, match=r"no forward-mode derivative, .* take backend='reference'"):
            torch.func.jvp(outputs, values, directions)
        outputs(*values)


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
@each_operator
def test_a_functional_gradient_is_right_or_refused(operator, backend):
    tensors = draw(operator, 5, state=False)
    names = [name for name in tensors if name not in operator.states]

    def total(*given):
        return operator.run(tensors | dict(zip(names, given, strict=True)), backend)[0].abs().sum()

    values = tuple(tensors[name].detach().requires_grad_() for name in names)
    functional = torch.func.grad(total, argnums=tuple(range(len(names))))
    if backend == "reference":
        torch.testing.assert_close(functional(*values), torch.autograd.grad(total(*values), values))
    else:
        with pytest.raises(RuntimeError, match="functorch transforms"):  # of PyTorch, for all operators like these
            functional(*values)


def test_features_are_those_that_numba_compiles_for(monkeypatch):
    feature = next((name for name, there in get_host_cpu_features().items() if there), None)
    if feature is None:
        pytest.skip("LLVM knows no feature of this processor")
    has = dispatch.cpu_has.__wrapped__
    for asked, expected in ((None, True), (f"-nothing,+{feature}", True), ("", False), (f"-{feature}", False)):
        monkeypatch.setattr(numba.config, "CPU_FEATURES", asked)
        monkeypatch.setattr(numba.config, "ENABLE_AVX", 1)
        assert has(feature) is expected
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(numba.config, "ENABLE_AVX", 0)
    assert has(feature) is not feature.startswith("avx")
    assert not has("avx512f")
    assert not has("no-such-feature")


def test_avx2_without_multiply_adds_is_not_enough(monkeypatch):
    for features, expected in (({"avx2", "fma"}, True), ({"avx2"}, False), ({"fma"}, False)):
        monkeypatch.setattr(dispatch, "cpu_has", features.__contains__)
        assert dispatch.has_avx2() is expected
        assert ("numba" in available_backends("linear_cross_entropy", "cpu")) is expected


def test_which_half_types_are_fast(monkeypatch):
    fast = dispatch.cpu_multiplies.__wrapped__
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for bf16, fp16 in ((True, False), (False, True)):
        has = {"_is_mkldnn_bf16_supported": lambda: bf16, "_is_mkldnn_fp16_supported": lambda: fp16}  # noqa: B023
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**has))
        assert (fast(torch.bfloat16), fast(torch.float16)) == (bf16, fp16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not any(map(fast, (torch.bfloat16, torch.float16)))


def test_no_such_operator():
    with pytest.raises(ValueError, match=r"op must be one of surface_green.*propagate_tokens.*but got 'greens'"):
        available_backends("greens", "cpu")


@each_operator
def test_auto_takes_the_first(operator):
    tensors = draw(operator, 3)
    with record_backends() as seen:
        operator.run(tensors, "auto")
    assert seen == {operator.name: {"numba"}}


@each_backend
def test_record(operator, backend):
    tensors = draw(operator, 3)
    with record_backends() as outer:
        with record_backends() as inner:
            operator.run(tensors, backend)
        assert inner == {operator.name: {backend}}
        operator.run(tensors, "reference")
    operator.run(tensors, "chunked")  # after the end of both
    assert inner == {operator.name: {backend}}
    assert outer == {operator.name: {backend, "reference"}}


def test_record_in_a_compiled_graph():
    operator = OPERATORS[0]
    tensors = draw(operator, 3)
    compiled = torch.compile(lambda: operator.run(tensors, "auto")[0], fullgraph=True, backend="eager")
    compiled()
    with record_backends() as seen:
        compiled()
    assert seen == {"surface_green": {"numba"}}


@with_modulus
def test_unknown_backend(operator):
    with pytest.raises(ValueError, match=rf"'auto' or one of numba, chunked, reference for {operator.name} on cpu"):
        operator.run(draw(operator, 3), "cudnn")


@with_modulus
def test_compiled_kernels_are_for_the_cpu(operator):
    tensors = {name: x.to("meta") for name, x in draw(operator, 3).items()}
    message = rf"'auto' or one of chunked, reference for {operator.name} on meta, but got 'numba'"
    with pytest.raises(ValueError, match=message):
        operator.run(tensors, "numba")


@with_modulus
def test_other_devices_take_plain_pytorch(operator):
    """`meta` stands for any device that is not a CPU."""
    tensors = {name: x.to("meta") for name, x in draw(operator, 3).items()}
    with record_backends() as seen:
        outputs = operator.run(tensors, "auto")
    assert seen == {operator.name: {"chunked"}}
    assert {y.device.type for y in outputs} == {"meta"}


def test_when_a_kernel_without_backends_runs(monkeypatch):
    few, many = torch.zeros(2), torch.zeros(dispatch.FEW)
    assert dispatch.runs_compiled(few)
    assert dispatch.runs_compiled(many, None, few=False)
    assert not dispatch.runs_compiled(few, None, few=False)
    assert dispatch.runs_compiled(few, torch.zeros(1, requires_grad=True), few=False)
    assert not dispatch.runs_compiled(torch.zeros(2, device="meta"))
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", False)
    assert not dispatch.runs_compiled(many)


@torch.no_grad()
def test_where_kernels_of_one_token_are_not_taken(monkeypatch):
    token = torch.zeros(1, 1, 4)
    assert dispatch.takes_token(token)
    with torch.enable_grad():
        assert not dispatch.takes_token(token)
    assert not dispatch.takes_token(token.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not dispatch.takes_token(token)
    with torch.autograd.forward_ad.dual_level():
        assert not dispatch.takes_token(token)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not dispatch.takes_token(token)
    monkeypatch.setattr(dispatch, "_HAS_NUMBA", False)
    assert not dispatch.takes_token(token)


def test_what_kernels_of_one_token_take_beside_it():
    token, weight = torch.zeros(1, 1, 4), torch.zeros(4, 2)
    assert dispatch.beside_token(token)
    assert dispatch.beside_token(token, weight, None, weight[:0])
    for other in (weight.double(), weight.to("meta"), weight.to_sparse(), weight.t(), weight[:, 0]):
        assert not dispatch.beside_token(token, weight, other)
