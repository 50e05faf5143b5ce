"""What all tests share."""

import gc
from collections.abc import Generator
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

from tests.tracing import untraced

# Files that take long, longest first, so that no worker is left with one of them at the end. The first two compile
# nearly all kernels between them.
LONG = (
    "ops/test_operators.py",
    "ops/test_triton.py",
    "models/test_invariants.py",
    "test_readme.py",
    "training/test_checkpoint.py",
    "benchmarks/test_cases.py",
    "bench/test_runner.py",
    "ops/test_propagate_modulus.py",
    "test_cli.py",
    "test_cli_calls.py",
    "models/test_modeling.py",
    "models/test_generation.py",
    "ops/test_kernels.py",
    "bench/audit/test_audit_full.py",
    "ops/test_threads.py",
    "ops/test_assembly.py",
    "ops/test_accuracy.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others in the order of their names."""
    last = len(LONG)

    def rank(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((place for place, name in enumerate(LONG) if path.endswith(f"tests/{name}")), last)

    items.sort(key=rank)


@pytest.fixture(scope="module", autouse=True)
def collected_once() -> None:
    """What is there now is left alone by the garbage collector. A training collects before it measures its memory,
    which takes half a second where all that pytest holds is looked through."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """Tests marked `sweep` are untraced."""
    if not item.get_closest_marker("sweep"):
        return (yield)
    with untraced():
        return (yield)


_compile = Dispatcher.compile


def _compile_untraced(dispatcher: Dispatcher, signature: Any) -> Any:
    with untraced():
        return _compile(dispatcher, signature)


def pytest_configure() -> None:
    """Numba compiles in Python, and nothing of that is ours."""
    Dispatcher.compile = _compile_untraced


def pytest_unconfigure() -> None:
    """At the end everything goes, or libraries complain of what they leave."""
    Dispatcher.compile = _compile
    gc.unfreeze()
