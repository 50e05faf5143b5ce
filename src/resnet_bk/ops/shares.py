"""Threads that compute shares of a kernel beside the caller.

They are Python's: so a kernel is compiled once, for one thread, and what waits for a share sleeps, where OpenMP's
threads would spin on the cores that PyTorch needs. While a kernel runs the GIL is free.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple


class _Share(NamedTuple):
    function: Callable[..., None]
    begin: int
    end: int
    arguments: tuple[Any, ...]
    done: "SimpleQueue[BaseException | None]"  # receives what the function raised


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
        done = share.done
        del share  # its arrays are not kept until the next one comes
        done.put(error)


_workers = _Workers()


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)


def share_out(function: Callable[..., None], tasks: int, threads: int, arguments: tuple[Any, ...]) -> None:
    """Calls `function(begin, end, *arguments)` on so many threads, the calling one among them.

    Each has its stretch of the tasks, the same in every call with as many: what it left in its cache is its own.

    Raises:
        What the function raises in any of them.
    """
    workers = _workers
    workers.at_least(threads - 1)
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    own, *others = pairwise(tasks * share // threads for share in range(threads + 1))
    for queue, (begin, end) in zip(workers.queues, others, strict=False):
        queue.put(_Share(function, begin, end, arguments, done))
    try:
        function(*own, *arguments)
    finally:
        raised = [done.get() for _ in others]
    for error in raised:
        if error is not None:
            raise error
