"""Threads that compute shares of a kernel beside the caller.

They are Python threads, so that a kernel is compiled once, for one thread, and a thread that waits for a share sleeps,
where those of OpenMP would spin on the cores that PyTorch needs. While a kernel runs the GIL is free.
"""

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple


class _Share(NamedTuple):
    function: Callable[..., None]
    begin: int
    end: int
    arguments: tuple[Any, ...]
    outcomes: list[tuple[int, BaseException | None]]  # of the shares of a call: where it begins, what it raised
    done: "SimpleQueue[None]"  # something for each outcome, to wake who waits


class _Workers:
    """As many threads as were ever asked for, each with its own queue of shares."""

    def __init__(self) -> None:
        self.queues: list[SimpleQueue[_Share]] = []
        self._lock = Lock()

    def at_least(self, count: int) -> None:
        if len(self.queues) >= count:
            return
        with self._lock:
            while len(self.queues) < count:
                queue: SimpleQueue[_Share] = SimpleQueue()
                Thread(target=_work, args=(queue,), name=f"resnet-bk-{len(self.queues)}", daemon=True).start()
                self.queues.append(queue)


def _work(queue: "SimpleQueue[_Share]") -> None:
    while True:
        share = queue.get()
        error = None
        try:
            share.function(share.begin, share.end, *share.arguments)
        except BaseException as raised:
            error = raised
        share.outcomes.append((share.begin, error))
        share.done.put(None)
        del share, error  # arrays are not kept until the next share comes, nor by the traceback of an error


_workers = _Workers()


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)


def share_out(function: Callable[..., None], tasks: int, threads: int, arguments: tuple[Any, ...]) -> None:
    """Calls `function(begin, end, *arguments)` on `threads` threads, the calling one among them; at least 1.

    Each has its stretch of the tasks, the same in every call with as many threads: it finds in its cache what it left.
    Whatever happens, an interrupt too, nothing is at work any more when this returns.

    Raises:
        The first of what the function raised: in the calling thread, or in those behind it in their order.
    """
    workers = _workers
    workers.at_least(threads - 1)
    outcomes: list[tuple[int, BaseException | None]] = []
    done: SimpleQueue[None] = SimpleQueue()
    own, *others = pairwise(tasks * share // threads for share in range(threads + 1))
    given = 0
    try:
        for queue, (begin, end) in zip(workers.queues, others, strict=False):
            queue.put(_Share(function, begin, end, arguments, outcomes, done))
            given += 1
        function(*own, *arguments)
    finally:
        _wait(outcomes, given, done)
    error = next((error for _, error in sorted(outcomes, key=itemgetter(0)) if error is not None), None)
    if error is not None:
        outcomes.clear()
        try:
            raise error
        finally:
            del error  # whose traceback has this frame, and with it the arrays


def _wait(outcomes: Sequence[Any], count: int, done: "SimpleQueue[None]") -> None:
    """Returns when there are so many outcomes; what interrupts it meanwhile is raised then.

    An interrupt may come when `get` has taken something and not yet returned it: from then on the outcomes are watched.
    """
    interrupt = None
    while len(outcomes) < count:
        try:
            if interrupt is None:
                done.get()
            else:
                time.sleep(0.001)
        except BaseException as raised:
            interrupt = raised
    if interrupt is not None:
        raise interrupt
