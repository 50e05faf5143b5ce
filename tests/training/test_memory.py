"""Peak memory of a stretch."""

import sys
from types import SimpleNamespace

import pytest
import torch

from resnet_bk.training import memory
from resnet_bk.training.memory import peak_memory_mb, reset_peak_memory

CPU = torch.device("cpu")


def test_peak_sees_what_was_freed():
    if reset_peak_memory(CPU) == memory.OF_PROCESS:
        pytest.skip("the mark cannot be reset here, and an earlier test may have set it higher")
    before = peak_memory_mb(CPU)
    block = torch.ones(64 * 2**20 // 4)
    del block
    # 64 MiB were touched; other threads may free a little at the same time.
    assert peak_memory_mb(CPU) - before > 56


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the high-water mark of a process")
def test_reset_forgets_the_peak():
    block = torch.ones(128 * 2**20 // 4)
    high = peak_memory_mb(CPU)
    del block
    if reset_peak_memory(CPU) == memory.OF_PROCESS:
        pytest.skip("this kernel does not let a process reset its mark")
    assert peak_memory_mb(CPU) < high - 64


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no mark to reset")
def test_a_mark_that_cannot_be_reset_is_said_to_be_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "no" / "such" / "file")
    assert reset_peak_memory(CPU) == memory.OF_PROCESS


def test_where_there_is_no_module_resource(monkeypatch):
    import psutil  # of accelerate; the package itself needs it on Windows alone

    class Process:
        def memory_info(self):
            return SimpleNamespace(peak_wset=96 * 2**20)

    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setitem(sys.modules, "resource", None)  # an import of it fails
    assert reset_peak_memory(CPU) == memory.OF_PROCESS
    assert peak_memory_mb(CPU) == 96
