"""Process settings of the command line."""

import os
import platform
import subprocess
import sys

import pytest

from resnet_bk.process import SPIN, keep_freed_memory, tune_process


def test_spinning_is_short(monkeypatch):
    for name in ("OMP_WAIT_POLICY", SPIN[0]):
        monkeypatch.delenv(name, raising=False)
    tune_process()
    assert os.environ[SPIN[0]] == SPIN[1]


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), (SPIN[0], "7")])
def test_the_users_choice_stands(monkeypatch, name, value):
    for other in ("OMP_WAIT_POLICY", SPIN[0]):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    tune_process()
    assert dict(os.environ) == before


def test_freed_memory_is_kept_on_glibc_only():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_nothing_heavy_is_imported():
    code = "import sys, resnet_bk.process, resnet_bk.cli; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reports_of_finished_runs_need_no_pytorch():
    """Which takes five seconds to import."""
    modules = ", ".join(f"resnet_bk.bench.report.{name}" for name in ("compare", "page", "publish", "table"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
