"""Code that coverage need not see."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import coverage


@contextmanager
def untraced() -> Iterator[None]:
    """No coverage within, nor in processes started there: until Python 3.12 tracing makes Python code take up to twice
    as long.

    A worker of pytest-xdist has two, one as a subprocess of a measured process and that of pytest-cov.
    """
    stopped: list[coverage.Coverage] = []
    handed_down = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    while (measured := coverage.Coverage.current()) is not None:
        measured.stop()
        stopped.append(measured)
    try:
        yield
    finally:
        if handed_down is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = handed_down
        for measured in reversed(stopped):
            measured.start()
