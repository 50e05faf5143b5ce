"""The same bits on any number of threads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from resnet_bk.ops import kernels, shares


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_threads_change_nothing(compute: Callable[[], Sequence[Tensor]]) -> None:
    """`compute` calls compiled kernels, whose work, however little, is shared out to 1, 2 and 3 threads in turn."""
    shared, results = [], []

    def recorded(function, tasks, threads, arguments):
        shared.append(threads)
        shares.share_out(function, tasks, threads, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "share_out", recorded)
        patch.setattr(kernels, "PER_THREAD", 1)
        for count in (1, 2, 3):
            with torch_threads(count):
                results.append([x.detach() for x in compute()])
    assert set(shared) == {2, 3}
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
