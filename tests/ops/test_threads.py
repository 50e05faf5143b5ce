"""Results do not depend on the number of threads, at lengths at which kernels take several of their own accord."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_bk import ops
from resnet_bk.ops import available_backends
from tests.ops.cases import WITH_MODULUS

pytestmark = pytest.mark.sweep

# Three threads also where the process may use fewer cores: numba would else start one a core.
CODE = """
import hashlib, torch
from resnet_bk.ops import available_backends, kernels, linear_cross_entropy
from tests.ops.cases import WITH_MODULUS, draw, gradients, with_gradients
asked, set_threads = [], kernels.numba.set_num_threads
kernels.numba.set_num_threads = lambda count: (asked.append(count), set_threads(count))
for operator in WITH_MODULUS:
    tensors = with_gradients(draw(operator, 8192, batch=3, chains=40, dtype=torch.float32, low=1e-3))
    digests = set()
    asked.clear()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs = operator.run(tensors, "numba")
        digest = hashlib.sha256()
        for x in (*outputs, *gradients(outputs, tensors)):
            digest.update(x.detach().resolve_conj().contiguous().numpy().tobytes())
        digests.add(digest.hexdigest())
    print(operator.name, len(digests), sorted(set(asked)))

if "numba" in available_backends("linear_cross_entropy", "cpu"):
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((300, 64), (4000, 64), (4000,)))
    target = torch.arange(300)
    digests = set()
    asked.clear()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        loss = linear_cross_entropy(x, weight, target, bias, backend="numba")
        parts = (loss, *torch.autograd.grad(loss, (x, weight, bias)))
        digests.add(b"".join(part.detach().numpy().tobytes() for part in parts))
    print("head", len(digests), sorted(set(asked)))
"""


# Two callers whose kernels each go over threads: numba's work queue ends the process where they meet.
CALLERS = """
import threading, torch
from resnet_bk.ops import surface_green
torch.set_num_threads(2)
chain = [torch.rand(4, 8192, 64) + 0.1 for _ in range(3)]
expected, _ = surface_green(*chain, backend="numba")
same = []

def call():
    for _ in range(30):
        found, _ = surface_green(*chain, backend="numba")
        same.append(torch.equal(found, expected))

callers = [threading.Thread(target=call) for _ in range(2)]
[caller.start() for caller in callers]
[caller.join() for caller in callers]
print(len(same), all(same))
"""


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_two_python_threads_may_call_kernels():
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CALLERS], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "60 True\n"), done.stderr


# A parallel function of somebody else's, before ours and with numba's own choice of threads.
STRANGER = """
import warnings, numba, numpy, torch

@numba.njit(parallel=True)
def fill(array):
    for i in numba.prange(array.size):
        array[i] = i

fill(numpy.empty(100_000))
layer = numba.threading_layer()
from resnet_bk.ops import surface_green
torch.set_num_threads(2)
chain = [torch.rand(4, 8192, 64) + 0.1 for _ in range(3)]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        surface_green(*chain, backend="numba")
said = [str(warning.message) for warning in told if "NUMBA_THREADING_LAYER" in str(warning.message)]
print(layer, len(said), all(f"numba runs on its {layer} threads" in text for text in said))
"""


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_threads_of_another_kind_are_told():
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("NUMBA_THREADING_LAYER", None)
    done = subprocess.run([sys.executable, "-c", STRANGER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    layer, count, named = done.stdout.split()
    assert (int(count), named) == (int(layer != "workqueue"), "True")
    wanted = environment | {"NUMBA_THREADING_LAYER": layer}
    done = subprocess.run([sys.executable, "-c", STRANGER], env=wanted, capture_output=True, text=True)
    assert done.stdout == f"{layer} 0 True\n", done.stderr


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")
def test_long_chains_give_the_same_bits():
    environment = os.environ | {"NUMBA_NUM_THREADS": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # One digest for all numbers of threads; 2 and 3 threads ran, and numba's own number, 3, was put back.
    names = [operator.name for operator in WITH_MODULUS]
    if "numba" in available_backends("linear_cross_entropy", "cpu"):
        names.append("head")
    assert done.stdout.splitlines() == [f"{name} 1 [2, 3]" for name in names]


def test_every_parallel_loop_is_one_for_the_compiler():
    """numba takes `prange(a if b else c)` for `range`: the loop would run on one thread, without a word."""
    calls = [
        (path.name, node)
        for path in Path(ops.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "prange"
    ]
    assert len(calls) > 20
    for name, call in calls:
        conditions = [part for part in ast.walk(call) if isinstance(part, ast.IfExp | ast.BoolOp)]
        assert not conditions, f"{name}:{call.lineno}: compute the bound before the call"
