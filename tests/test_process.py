"""Process settings of the command line."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from resnet_bk import process
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


@pytest.mark.parametrize(("highest", "kept"), [(1 << 30, True), (1 << 25, True), (0, False)])
def test_an_older_glibc_takes_lower_thresholds(monkeypatch, highest, kept):
    taken = {}

    def mallopt(option, value):
        if option == process.M_MMAP_THRESHOLD and value > highest:
            return 0
        taken[option] = value
        return 1

    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("glibc", "2.34"))
    monkeypatch.setattr(process.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() == kept
    # Where mapping is refused, glibc is left to adjust itself.
    assert taken == ({process.M_MMAP_THRESHOLD: highest, process.M_TRIM_THRESHOLD: 1 << 30} if kept else {})


def test_the_package_is_the_command():
    """`python -m resnet_bk`, where no script was installed."""
    done = subprocess.run([sys.executable, "-m", "resnet_bk", "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout


def test_nothing_heavy_is_imported():
    code = "import sys, resnet_bk.process, resnet_bk.cli; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reports_of_finished_runs_need_no_pytorch():
    """Which takes five seconds to import."""
    modules = ", ".join(f"resnet_bk.bench.report.{name}" for name in ("compare", "page", "publish", "table"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
