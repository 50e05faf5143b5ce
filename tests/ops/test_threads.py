"""Kernels over threads: their shares, what they raise, and the same bits whatever their number."""

import os
import subprocess
import sys
import threading

import numba
import pytest
import torch

from resnet_bk.ops import kernels, shares, surface_green
from tests.ops.cases import draw, gradients, with_gradients, with_modulus
from tests.ops.threads import assert_threads_change_nothing, torch_threads


@pytest.fixture
def asked(monkeypatch):
    """The numbers of threads that work is shared out to."""
    seen = []

    def recorded(function, tasks, threads, arguments):
        seen.append(threads)
        shares.share_out(function, tasks, threads, arguments)

    monkeypatch.setattr(kernels, "share_out", recorded)
    return seen


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


def test_as_many_threads_as_pay(asked, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    calls = []
    with torch_threads(4):
        for tasks, operations in ((8, 0), (8, 2 * kernels.PER_THREAD - 1), (8, 2 * kernels.PER_THREAD), (3, 10**12)):
            kernels.launch(lambda begin, end: calls.append((begin, end)), tasks, operations)
        kernels.launch(lambda begin, end: calls.append((begin, end)), 0, 0)
    assert asked == [2, 3]
    assert sorted(calls) == sorted([(0, 8), (0, 8), (0, 4), (4, 8), (0, 1), (1, 2), (2, 3), (0, 0)])
    with torch_threads(1):
        kernels.launch(lambda begin, end: None, 8, 10**12)
    assert asked == [2, 3]


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
def test_two_python_threads_may_call_kernels(asked, monkeypatch):
    monkeypatch.setattr(kernels, "PER_THREAD", 1)
    chain = [torch.rand(4, 4096, 64) + 0.1 for _ in range(3)]
    expected, _ = surface_green(*chain, backend="numba")
    same = []

    def call():
        for _ in range(20):
            found, _ = surface_green(*chain, backend="numba")
            same.append(torch.equal(found, expected))

    with torch_threads(2):
        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert same == [True] * 40
    assert set(asked) == {2}


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
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout == "4 2\n", done.stderr
