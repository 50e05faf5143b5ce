"""What the compiler makes of the kernels: whole vectors, nothing lane by lane."""

import os
import platform
import re
import subprocess
import sys

import numba
import pytest
import torch

from resnet_bk.ops import dispatch

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no machine code"),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64") or not dispatch.cpu_has("avx512f"),
        reason="the instructions are named for x86 with AVX-512",
    ),
]


def machine_code(kernel) -> str:
    """Of the build for float32, compiled afresh: numba does not show code that it has read from disk."""
    # Other tests of the process may have compiled it for float64.
    (signature,) = [found for found in kernel.signatures if "float32" in str(found)]
    fresh = numba.njit(error_model="numpy", boundscheck=False)(kernel.py_func)
    fresh.compile(signature)
    (text,) = fresh.inspect_asm().values()
    return text


def compiled(operator: str):
    """Kernels after a forward and backward pass in float32."""
    tensors = [torch.rand(1, 20, 3).add(0.5).requires_grad_() for _ in range(4)]
    from resnet_bk import ops
    from resnet_bk.ops.propagate_vector import cpu as vector
    from resnet_bk.ops.resolvent_diagonal import cpu as diagonal
    from resnet_bk.ops.surface_green import cpu as green

    if operator == "surface_green":
        ops.surface_green(*tensors[1:])[0].abs().sum().backward()
        return green
    if operator == "resolvent_diagonal":
        ops.resolvent_diagonal(*tensors[1:]).abs().sum().backward()
        return diagonal
    ops.propagate_vector(*tensors)[0].abs().sum().backward()
    return vector


@pytest.mark.parametrize("operator", ["surface_green", "propagate_vector", "resolvent_diagonal"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_sweeps_are_vectors_throughout(operator, direction):
    """The divisions fill 512-bit registers, none is scalar, and nothing is gathered or scattered."""
    code = machine_code(getattr(compiled(operator), direction))
    assert re.search(r"vdivpd\s.*%zmm", code)
    assert not re.search(r"v?divs[sd]\s", code)
    assert not re.search(r"v(p?gather|p?scatter)", code)


def test_the_head_multiplies_in_whole_vectors():
    from resnet_bk.ops import linear_cross_entropy
    from resnet_bk.ops.linear_cross_entropy import cpu

    x, weight = torch.randn(3, 16, requires_grad=True), torch.randn(5, 16)
    linear_cross_entropy(x, weight, torch.tensor([0, 1, 2]), backend="numba").backward()
    # Sixteen sums to a tile: one for the logits, and tiles of three widths in either `multiply`.
    for walk, least in ((cpu.first_walk, 64), (cpu.second_walk, 48)):
        code = machine_code(walk)
        assert len(re.findall(r"vfmadd\d+ps\s.*%zmm", code)) >= least
        assert not re.search(r"vfmadd\d+ss\s", code)


@pytest.mark.skipif(not dispatch.cpu_has("avx512bf16"), reason="no AVX512-BF16 on this processor")
@pytest.mark.parametrize("unit", ["vectors", "amx"])
def test_the_head_multiplies_pairs_of_bfloat16(unit, monkeypatch):
    from resnet_bk.ops import linear_cross_entropy
    from resnet_bk.ops.amx import has_amx
    from resnet_bk.ops.linear_cross_entropy import compiled, cpu_amx, cpu_bfloat16

    if unit == "amx" and not has_amx():
        pytest.skip("no AMX on this processor")
    monkeypatch.setattr(compiled, "has_amx", lambda: unit == "amx")
    x, weight = torch.randn(3, 16).bfloat16().requires_grad_(), torch.randn(5, 16).bfloat16()
    linear_cross_entropy(x, weight, torch.tensor([0, 1, 2]), backend="numba").backward()
    if unit == "amx":
        # Four registers to a square, in each of three products.
        for walk, least in ((cpu_amx.first_walk, 8), (cpu_amx.second_walk, 4)):
            assert len(re.findall(r"tdpbf16ps\s", machine_code(walk))) >= least
    else:
        # Sixteen sums to a tile, and four to a narrow one behind.
        for walk, least in ((cpu_bfloat16.first_walk, 32), (cpu_bfloat16.second_walk, 20)):
            assert len(re.findall(r"vdpbf16ps\s.*%zmm", machine_code(walk))) >= least


WITHOUT_AVX512 = """
import torch
from resnet_bk.ops.unit_query_key import cpu, unit_query_key
x = torch.randn(1, 3, 2, 2, 16).bfloat16().requires_grad_()
unit_query_key(x, torch.ones(64))[0].sum().backward()
(code,) = cpu.backward.inspect_asm().values()
print("zmm" in code, "ymm" in code, "truncsfbf2" in code)
"""


def test_bfloat16_is_written_without_the_c_library(tmp_path):
    """Older ones have no conversion that LLVM could call for processors without one."""
    features = "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2"
    environment = os.environ | {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", WITHOUT_AVX512], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
