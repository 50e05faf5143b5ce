"""The baselines compute what they are said to."""

import torch

from benchmarks.baselines import copy_of, determinant_diagonal, determinant_green, same_traffic
from benchmarks.cases.determinant import overflow
from benchmarks.gate import relative_error
from benchmarks.inputs import chain
from tests.ops import oracle

SHAPE = (2, 9, 3)


def test_determinants_equal_the_dense_inverse():
    tensors = chain(SHAPE, dtype=torch.float64)
    arguments = [tensors[name] for name in ("potential", "hopping", "absorption")]
    # Well-conditioned chains of nine sites: some hundred roundings.
    assert relative_error(determinant_diagonal(*arguments), oracle.resolvent_diagonal(*arguments)[0]) < 1e-13
    assert relative_error(determinant_green(*arguments), oracle.surface_green(*arguments)[0]) < 1e-13


def test_determinants_return_zeros_when_they_overflow():
    *_, (sites, outputs, gradients, ours, our_gradients) = overflow((512, 1024)).table.rows
    assert (sites, outputs, gradients) == (1024, 0, 0)
    assert (ours, our_gradients) == (1024, 1024)
    assert overflow((512,)).table.rows == ((512,) * 5,)


def test_copies_are_copies(monkeypatch):
    made = []
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda tensor: made.append(empty_like(tensor)) or made[-1])
    tensors = [torch.rand(5), torch.rand(2, 3, dtype=torch.complex64)]
    copy_of(tensors)()
    assert all(torch.equal(copied, tensor) for copied, tensor in zip(made, tensors, strict=True))
    made.clear()
    read, written = [torch.zeros(100)], [torch.zeros(50, dtype=torch.complex64)]
    same_traffic(read, written)()
    # 800 bytes move: 400 are read and 400 written.
    assert sum(tensor.numel() * tensor.element_size() for tensor in made) == 400
