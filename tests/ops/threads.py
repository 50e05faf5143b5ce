"""The same bits on any number of threads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from resnet_bk.ops import kernels


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def shared_out() -> Iterator[dict[str, set[int]]]:
    """Every kernel that is launched meanwhile, with the numbers of threads that its work was shared out to."""
    found: dict[str, set[int]] = {}
    launch, share_out = kernels.launch, kernels.share_out

    def name(function):
        return f"{function.__module__}.{function.__name__}"

    def launched(function, *arguments):
        found.setdefault(name(function), set())
        launch(function, *arguments)

    def shared(function, tasks, threads, arguments):
        found[name(arguments[0])].add(threads)  # the kernel, which `function` calls
        share_out(function, tasks, threads, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "launch", launched)
        patch.setattr(kernels, "share_out", shared)
        yield found


def assert_threads_change_nothing(compute: Callable[[], Sequence[Tensor]]) -> None:
    """`compute` calls compiled kernels, whose work, however little, is shared out to 1, 2 and 3 threads in turn."""
    results = []
    with pytest.MonkeyPatch.context() as patch, shared_out() as shared:
        patch.setattr(kernels, "PER_THREAD", 1)
        for count in (1, 2, 3):
            with torch_threads(count):
                results.append([x.detach() for x in compute()])
    assert shared
    for name, threads in shared.items():
        assert threads == {2, 3}, name
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
