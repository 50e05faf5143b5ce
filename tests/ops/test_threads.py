"""Kernels over threads: their shares, what they raise, and the same bits whatever their number."""

import os
import subprocess
import sys
import threading
import weakref

import numba
import pytest
import torch

from resnet_bk.ops import (
    available_backends,
    kernels,
    linear_cross_entropy,
    propagate_modulus,
    shares,
    surface_green,
)
from tests.ops.cases import draw, gradients, with_gradients, with_modulus
from tests.ops.threads import assert_threads_change_nothing, shared_out, torch_threads


@pytest.mark.parametrize(("tasks", "threads"), [(7, 3), (2, 2), (64, 5), (1, 1)])
def test_every_task_is_done_once_and_by_the_same_thread(tasks, threads):
    calls = []
    for _ in range(2):
        found = []
        shares.share_out(lambda *call, to=found: to.append((*call, threading.get_ident())), tasks, threads, ("x",))
        calls.append(sorted(found))
    assert calls[0] == calls[1]
    assert [task for begin, end, *_ in calls[0] for task in range(begin, end)] == list(range(tasks))
    assert len({thread for *_, thread in calls[0]}) == threads
    assert threading.get_ident() == calls[0][0][-1]  # the caller has the first stretch
    assert {argument for _, _, argument, _ in calls[0]} == {"x"}


@pytest.mark.parametrize("stretch", [0, 1, 2])
def test_what_a_thread_raises_reaches_the_caller(stretch):
    """After all others are done; the next call finds every thread at work."""
    done = []

    def function(begin, end):
        if begin == stretch:
            raise ArithmeticError(f"task {begin}")
        done.append(begin)

    with pytest.raises(ArithmeticError, match=f"task {stretch}"):
        shares.share_out(function, 3, 3, ())
    assert sorted(done) == sorted({0, 1, 2} - {stretch})
    test_every_task_is_done_once_and_by_the_same_thread(3, 3)


def test_arrays_are_let_go():
    """Also where a thread raised: its error holds the arguments by its traceback."""

    class Array:
        pass

    def function(begin, end, array):
        if begin:
            raise MemoryError

    array = Array()
    held = weakref.ref(array)
    try:
        shares.share_out(function, 2, 2, (array,))
    except MemoryError:
        del array
    else:
        pytest.fail("the error was lost")
    assert held() is None


# An interrupt while the caller waits for the other half, which goes on after it.
INTERRUPTED = """
import signal, threading, time
from resnet_bk.ops import shares
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
done, begun, interrupted = [], threading.Event(), threading.Event()

def function(begin, end):
    if begin:
        begun.set()
        interrupted.wait()
        time.sleep(0.3)
        done.append(begin)

def interrupt():
    begun.wait()
    time.sleep(0.3)  # by now the caller waits
    signal.raise_signal(signal.SIGINT)
    interrupted.set()

threading.Thread(target=interrupt).start()
try:
    shares.share_out(function, 2, 2, ())
except KeyboardInterrupt:
    print("interrupted after", done)
shares.share_out(lambda begin, end: done.append(begin + 5), 2, 2, ())
print(sorted(done))
"""


def run(code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)


def test_an_interrupt_waits_for_the_others():
    """Nothing is written behind the back of who goes on after it."""
    done = run(INTERRUPTED)
    assert done.stdout == "interrupted after [1]\n[1, 5, 6]\n", done.stderr


def test_as_many_threads_as_pay(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    calls = []

    def function(begin, end):
        calls.append((begin, end))

    with torch_threads(4), shared_out() as shared:
        for tasks, operations in ((8, 0), (8, 2 * kernels.PER_THREAD - 1), (0, 10**12), (1, 10**12)):
            kernels.launch(function, tasks, operations)
        assert list(shared.values()) == [set()]
        for tasks, operations in ((8, 2 * kernels.PER_THREAD), (3, 10**12)):
            kernels.launch(function, tasks, operations)
    assert list(shared.values()) == [{2, 3}]
    assert sorted(calls) == sorted([(0, 8), (0, 8), (0, 0), (0, 1), (0, 4), (4, 8), (0, 1), (1, 2), (2, 3)])
    with torch_threads(1), shared_out() as shared:
        kernels.launch(function, 8, 10**12)
    assert list(shared.values()) == [set()]


compiled = pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="uncompiled kernels have no threads")


@compiled
@with_modulus
@pytest.mark.parametrize(
    ("sites", "batch", "chains"), [(40, 3, 70), (40, 1, 40), (2048, 3, 5)], ids=["rows", "one row", "long chains"]
)
def test_threads_do_not_change_a_bit(operator, sites, batch, chains):
    tensors = with_gradients(draw(operator, sites, batch=batch, chains=chains, dtype=torch.float32, low=1e-3))

    def compute():
        outputs = operator.run(tensors, "numba")
        return *outputs, *gradients(outputs, tensors)

    assert_threads_change_nothing(compute)


@compiled
def test_kernels_take_threads_of_their_own_accord():
    """A head of 4,000 words and chains of matrices, at sizes that a small training has."""
    x, weight = torch.randn(300, 64, requires_grad=True), torch.randn(4000, 64, requires_grad=True)
    heads = [torch.rand(8, 256, 4, 16, requires_grad=True) for _ in range(3)]
    sites = [torch.rand(8, 256, 4, requires_grad=True) for _ in range(3)]
    with torch_threads(2), shared_out() as shared:
        linear_cross_entropy(x, weight, torch.arange(300)).backward()
        propagate_modulus(*heads, *sites)[0].sum().backward()
    names = ["propagate_modulus.cpu.forward", "propagate_modulus.cpu_adjoint.backward"]
    if "numba" in available_backends("linear_cross_entropy", "cpu"):
        names += ["linear_cross_entropy.cpu.first_walk", "linear_cross_entropy.cpu.second_walk"]
    for name in names:
        assert shared[f"resnet_bk.ops.{name}"] == {2}


@compiled
def test_two_python_threads_may_call_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "PER_THREAD", 1)
    chain = [torch.rand(4, 4096, 64) + 0.1 for _ in range(3)]
    same = []
    with torch_threads(1):
        expected, _ = surface_green(*chain, backend="numba")

    def call():
        for _ in range(20):
            found, _ = surface_green(*chain, backend="numba")
            same.append(torch.equal(found, expected))

    with torch_threads(2), shared_out() as shared:
        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert same == [True] * 40
    assert list(shared.values()) == [{2}]


# A parent whose threads have worked; a child that has none of them.
FORKED = """
import os, sys, torch
from resnet_bk.ops import shares
ran = []
shares.share_out(lambda begin, end: ran.append(begin), 2, 2, ())
child = os.fork()
if child == 0:
    shares.share_out(lambda begin, end: ran.append(begin), 2, 2, ())
    os._exit(len(ran))
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(ran))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_starts_its_own_threads():
    done = run(FORKED)
    assert done.stdout == "4 2\n", done.stderr
