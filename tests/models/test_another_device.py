"""The models on a stand-in for a GPU, which the machine of these tests need not have."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of PyTorch has no devices that are written in Python",
)
def test_models_on_another_device():
    """`on_another_device.py` in a process of its own, in which PyTorch knows the device."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_another_device.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    # None skipped; an experimental part of PyTorch may warn.
    assert re.search(r"^\d{2,} passed(, \d+ warnings?)? in", done.stdout, re.MULTILINE), done.stdout
