"""How kernels are compiled and run: vectors, tasks, what is kept on disk, and runs without compilation."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from resnet_bk.ops import kernels, simd
from resnet_bk.ops.simd import uncompiled
from tests.ops.cases import draw, gradients, with_gradients, with_modulus


def arrays(dtype):
    generator = np.random.default_rng(0)
    return generator.standard_normal(600).astype(dtype), np.zeros(600, dtype)


def exercise(source, target, count):
    """Every vector operation once, on both the compiled and the uncompiled functions."""
    wide = simd.lanes(source)
    x = simd.load(source, 3, count)
    simd.store(target, 0, count, x)
    re, im = simd.load_pairs(source, 5, count)
    simd.store_pairs(target, 40, count, re, im)
    seven = simd.spread(source, 7)
    product = (x + re) * im - seven / (seven * seven + x * x)
    simd.store(target, 100, wide, product)
    simd.store(target, 140, wide, seven + simd.zeros(source))
    simd.store(target, 180, wide, simd.row_sums(source, 11))


compiled_exercise = numba.njit(exercise)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 3, 8, 15, 16, 40])
def test_vector_operations(dtype, count):
    source, target = arrays(dtype)
    compiled_exercise(source, target, count)
    expected = np.zeros_like(target)
    n = min(count, uncompiled.lanes(source))
    expected[:n] = source[3 : 3 + n]
    expected[40 : 40 + 2 * n] = source[5 : 5 + 2 * n]
    wide = uncompiled.lanes(source)
    x, re, im = (uncompiled.zeros(source) for _ in range(3))
    x[:n], re[:n], im[:n] = source[3 : 3 + n], source[5 : 5 + 2 * n : 2], source[6 : 6 + 2 * n : 2]
    expected[100 : 100 + wide] = (x + re) * im - source[7] / (source[7] ** 2 + x * x)
    expected[140 : 140 + wide] = source[7]
    expected[180 : 180 + wide] = source[11 : 11 + wide * wide].reshape(wide, wide).sum(1)
    # Up to 16 numbers of size 1 are summed in another order.
    np.testing.assert_allclose(target, expected, rtol=0, atol=32 * np.finfo(dtype).eps)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="plain arrays take any dtype")
def test_vectors_of_integers_are_refused():
    with pytest.raises(
        (TypeError, numba.core.errors.NumbaError), match="contiguous one-dimensional array of float32 or float64"
    ):
        numba.njit(lambda array: simd.load(array, 0, 1))(np.arange(4))


@with_modulus
def test_every_output_is_written(operator, monkeypatch):
    """Fresh memory holds NaN in `deterministic` mode: an entry that no kernel wrote would show."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        tensors = with_gradients(draw(operator, 34, chains=18, dtype=torch.float32))
        outputs = operator.run(tensors, "numba")
        for tensor in (*outputs, *gradients(outputs, tensors)):
            assert tensor.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_tensor_as_an_array():
    """Its numbers in their order, complex ones as pairs, in its own memory where they lie so there."""
    x = torch.arange(12, dtype=torch.float64).view(3, 4)
    z = torch.complex(x, -x)
    of_itself = (x, x[:2], x.requires_grad_(), z, x[:0], torch.tensor(3.0), torch.arange(4))
    copied = (x.t(), x[:, 1], x[0].expand(2, 4), z.conj(), z.conj().imag, z.real, z[:, 1])
    for tensor in (*of_itself, *copied):
        array = kernels.flat(tensor)
        resolved = tensor.detach().resolve_conj().resolve_neg().contiguous()
        expected = (torch.view_as_real(resolved) if tensor.is_complex() else resolved).flatten()
        assert array.shape == expected.shape
        assert torch.equal(torch.from_numpy(array.copy()), expected)
        shared = array.ctypes.data == tensor.data_ptr()
        assert shared == any(tensor is other for other in of_itself) or not array.size
    numbers = torch.tensor([1.0, -2.5], dtype=torch.bfloat16)
    assert torch.equal(torch.from_numpy(kernels.flat_as_bits(numbers)).view(torch.bfloat16), numbers)


def test_channel_blocks_keep_threads_busy():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert kernels.channel_tasks(16, 70) == (32, 64)
        assert kernels.channel_tasks(1, 64) == (2, 32)
        assert kernels.channel_tasks(1, 32) == (2, 16)
        torch.set_num_threads(1)
        assert kernels.channel_tasks(1, 64) == (1, 64)
    finally:
        torch.set_num_threads(threads)


def test_head_groups_keep_threads_busy():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert kernels.head_tasks(16, 4) == (16, 4)
        assert kernels.head_tasks(2, 5) == (6, 2)
        assert kernels.head_tasks(1, 4) == (4, 1)
        assert kernels.head_tasks(1, 2) == (2, 1)
        assert kernels.head_tasks(0, 2) == (0, 1)
    finally:
        torch.set_num_threads(threads)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


# All inputs 1: L_1 = 1 / (1 - i), L_2 = 1 / (1 - i - L_1).
SECOND = 1 / (1 - 1j - 1 / (1 - 1j))
CODE = """
import torch
from resnet_bk.ops import surface_green
green, _ = surface_green(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 2, 3), backend="numba")
print(green[0, 1, 0].item())
"""


def test_the_digest_is_of_all_that_a_kernel_calls():
    """Every module that a kernel's file imports from is in the digest of its name, and what that imports from."""
    folder = Path(kernels.__file__).parent
    files = {*folder.glob("*/cpu*.py"), *kernels._SHARED}
    assert len(files) > len(kernels._SHARED)
    not_compiled = {"shares": "how tasks are shared out to threads", "dispatch": "what the processor has"}
    seen = set()
    for file in files:
        for name in re.findall(r"^from resnet_bk\.ops\.([\w.]+) import", file.read_text(), re.MULTILINE):
            module = folder.joinpath(*name.split("."))
            seen.add(name)
            path = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            assert path in kernels._SHARED or name in not_compiled, f"{file} imports from {path}"
    assert set(not_compiled) <= seen


@pytest.mark.sweep
def test_machine_code_is_kept_on_disk(tmp_path):
    """The second process loads what the first compiled."""
    kept = []
    for _ in range(2):
        done = run(CODE, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_DISABLE_JIT="0")
        assert done.returncode == 0, done.stderr
        assert abs(complex(done.stdout) - SECOND) < 1e-6
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")})
    assert kept[0]
    assert all(kernels._DIGEST in path.name for path in kept[0])  # so that a change of what they call renews them
    assert kept[0] == kept[1]


NO_FOLDER = """
from numba.core.caching import CacheImpl
CacheImpl._locator_classes = []  # none of them finds a folder that it can write to
"""
NO_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
"""


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(NO_FOLDER, "nor the user's cache can be written"), (NO_ROOM, "File too large")],
    ids=["no folder", "no room"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no process's files")
def test_kernels_that_cannot_be_kept_run(tmp_path, trouble, reason):
    """Without a folder to keep them in, or room in it, they run, and a warning tells the way out."""
    told = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        '    warnings.simplefilter("default")\n' + "".join(f"    {line}\n" for line in (trouble + CODE).splitlines())
    )
    told += "print([str(warning.message) for warning in caught])"
    done = run(told, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_DISABLE_JIT="0")
    assert done.returncode == 0, done.stderr
    number, messages = done.stdout.splitlines()
    assert abs(complex(number) - SECOND) < 1e-6
    (message,) = ast.literal_eval(messages)
    assert message.startswith("compiled kernels are not kept (")
    assert reason in message
    assert "set NUMBA_CACHE_DIR to a folder" in message
    assert not list(tmp_path.rglob("*.nbc"))


@pytest.mark.sweep
def test_kernels_run_uncompiled():
    done = run(CODE, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr
    assert abs(complex(done.stdout) - SECOND) < 1e-6
