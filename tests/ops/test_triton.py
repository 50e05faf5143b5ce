"""The Triton kernels without a GPU: run by the interpreter, compiled for GPUs, refused on a CPU."""

import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from resnet_bk.ops import dispatch
from resnet_bk.ops.triton_sizes import MANY_CHAINS, PIECE, piece_length
from tests.ops.cases import OPERATORS, draw, relative_error, with_gradients, with_modulus

# 4 kappa eps with a condition number kappa <= 30 of what `draw` makes, as derived in `test_operators.py`.
FLOAT = 4 * 30 * torch.finfo(torch.float32).eps
HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton has no package for this machine")


@needs_triton
def test_kernels_in_the_interpreter():
    """`triton_interpreted.py` in a process whose Triton interprets; the rest of the suite keeps one that compiles."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_interpreted.py")]
    done = subprocess.run(
        command,
        env=environment | {"TRITON_INTERPRET": "1", "NUMBA_DISABLE_JIT": "0"},
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed in", done.stdout, re.MULTILINE), done.stdout  # none skipped, no warning


def test_places_within_a_piece_fit_32_bits():
    assert piece_length(1, 4_096, MANY_CHAINS) == 4_096  # so many chains need no pieces
    assert piece_length(1, 2**31 // MANY_CHAINS, MANY_CHAINS) == PIECE
    assert piece_length(1, 2**31 // MANY_CHAINS - 1, MANY_CHAINS) > PIECE


SWEEP = ("summarise", "enter", "run", "adjoint_summarise", "adjoint_enter", "adjoint_run")
LAUNCHED = (
    *SWEEP,
    *SWEEP,
    *SWEEP[1:],  # the diagonal takes the first from the surface Green's function
    *("write", "scan_states", "read", "adjoint_read", "adjoint_chain", "adjoint_heads"),
)
INTEGERS = {"sites", "chains", "heads", "count", "length", "lanes", "total", "keys", "values", "size"}
OF_LENGTH = {"sites", "count", "length", "lanes", "total"}
DOUBLES = {"entering", "summary", "behind", "carries"}
HALVES = {"query", "key", "value", "source", "potential", "hopping", "absorption", "query_bar", "key_bar", "value_bar"}


def kernels():
    """Every function of the operators' files that is launched, with its constants and options."""
    for operator in OPERATORS:
        module = import_module(f"resnet_bk.ops.{operator.name}.triton")
        for name, kernel in vars(module).items():
            arguments = getattr(kernel, "arg_names", ())
            if not str(getattr(kernel, "__module__", None)).startswith(module.__name__):  # triton, triton_adjoint
                continue
            if name == "scan_states":
                yield kernel, {"BLOCK": module.SCAN_BLOCK, "REVERSE": True}, {"num_warps": 4}
            elif "lanes" in arguments:
                yield kernel, {"BLOCK": triton_kernels().BLOCK}, {"num_warps": triton_kernels().WARPS}
            elif "count" in arguments and "BK" in arguments:
                constants = {key: module.CONSTANTS[key] for key in ("C", "BK", "BV")}
                yield kernel, constants, {key: module.CONSTANTS[key] for key in ("num_warps", "num_stages")}


def triton_kernels():
    return import_module("resnet_bk.ops.triton_kernels")


def kind(name, constants, half):
    if name in constants:
        return "constexpr"
    if name in INTEGERS:
        return "i32"
    if name in DOUBLES:
        return "*fp64"
    return "*bf16" if half and name in HALVES else "*fp32"


@needs_triton
@pytest.mark.parametrize(("capability", "half"), [(80, True), (90, False)], ids=["sm_80-bfloat16", "sm_90-float32"])
def test_kernels_compile_without_a_gpu(capability, half):
    """Down to machine code, for an A100 and for an H100."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    compiled = []
    for kernel, constants, options in kernels():
        signature = {name: kind(name, constants, half) for name in kernel.arg_names}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=places)
        options |= triton_kernels().OF_ALL
        # Compiled once for all lengths and batches: none of their sizes is part of what is compiled.
        sizes = {parameter.name for parameter in kernel.params if parameter.name in OF_LENGTH}
        assert sizes
        assert all(parameter.do_not_specialize == (parameter.name in sizes) for parameter in kernel.params)
        binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert re.search(rf"^\.target sm_{capability}", binary.asm["ptx"], re.MULTILINE), kernel.__name__
        assert binary.asm["cubin"].startswith(b"\x7fELF"), kernel.__name__
        # A kernel gets 48 KiB of shared memory without asking for more.
        assert binary.metadata.shared <= 48 * 1024, kernel.__name__
        stack = stack_bytes(binary.asm["cubin"])
        # The matmul kernels may keep a few registers in memory, a few percent of the 255 that a thread has.
        assert stack <= (80 if "BK" in constants else 0), f"{kernel.__name__} spills {stack} bytes a thread"
        compiled.append(kernel.__name__)
    assert len(compiled) == len(LAUNCHED)
    assert set(compiled) == set(LAUNCHED)


@needs_triton
def test_multiply_adds_are_asked_for():
    """Triton's default depends on its version."""
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: seen.append((grid, arguments, options))

    triton_kernels().launch(Kernel(), torch.device("cpu"), 3, 1, 2, num_warps=4)
    assert seen == [((3,), (1, 2), {"enable_fp_fusion": True, "num_warps": 4})]


def stack_bytes(cubin):
    """Memory of a thread for registers that did not fit, as `cuobjdump` reads it."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return max(int(found) for found in re.findall(r"STACK:(\d+)", report))


@with_modulus
def test_a_cpu_is_refused(operator):
    message = rf"backend 'triton' of {operator.name} needs inputs on a GPU, but they are on cpu; move them"
    with pytest.raises(ValueError, match=message):
        operator.run(draw(operator, 2), "triton")


def test_where_triton_is_not_installed(monkeypatch):
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    tensors = draw(OPERATORS[0], 2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"needs inputs on a GPU.*not installed either: pip install '.\[triton\]'"):
        OPERATORS[0].run(tensors, "triton")
    with pytest.raises(ValueError, match=r"one of chunked, reference .* got 'triton'; triton is not installed"):
        OPERATORS[0].run({name: x.to("meta") for name, x in tensors.items()}, "triton")


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_interpreter_is_asked_for(value, expected, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", value)
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    assert ("triton" in dispatch.available_backends("propagate", "cpu")) is expected


class OnGpu:
    """What `choose` looks at of a tensor on a GPU."""

    device = torch.device("cuda")

    def __init__(self, dtype):
        self.dtype = dtype


@with_modulus
def test_choice_on_a_gpu(operator, monkeypatch):
    """float64 goes to plain PyTorch, and is refused where Triton is asked for."""
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    for dtype, expected in ((torch.float32, "triton"), (torch.bfloat16, "triton"), (torch.float64, "chunked")):
        assert dispatch.choose(operator.name, "auto", OnGpu(dtype)) == expected
    with pytest.raises(
        ValueError, match=r"computes in float32, but got torch.float64 inputs; convert them with .float"
    ):
        dispatch.choose(operator.name, "triton", OnGpu(torch.float64))
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    assert dispatch.choose(operator.name, "auto", OnGpu(torch.float32)) == "chunked"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@with_modulus
def test_on_a_gpu(operator, dtype):
    """Several pieces and chunks against float64 on the CPU."""
    drawn = draw(operator, 200, chains=5, dtype=torch.float32, state=bool(operator.states))
    drawn = {name: x if x.is_complex() else x.to(dtype) for name, x in drawn.items()}
    there = with_gradients({name: x.cuda() for name, x in drawn.items()})
    here = with_gradients({name: x.to(torch.promote_types(x.dtype, torch.float64)) for name, x in drawn.items()})
    outputs, expected = operator.run(there, "triton"), operator.run(here, "reference")
    for y, z in zip(outputs, expected, strict=True):
        assert relative_error(y.cpu(), z) < FLOAT
    bars = [torch.ones_like(y) for y in outputs]
    found = torch.autograd.grad(outputs, list(there.values()), bars)
    exact = torch.autograd.grad(expected, list(here.values()), [torch.ones_like(z) for z in expected])
    rounding = FLOAT + (torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0)
    for g, h in zip(found, exact, strict=True):
        assert relative_error(g.cpu(), h) < rounding
