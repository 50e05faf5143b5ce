"""Where numba cannot be imported, or its first import is interrupted. Each in a process of its own."""

import subprocess
import sys

import pytest

CALL = """
import torch
from resnet_bk.ops import available_backends, record_backends, surface_green
sites = torch.ones(1, 2, 3)
def call():
    with record_backends() as seen:
        surface_green(sites, sites, sites)
    return seen
"""


def run(code):
    return subprocess.run([sys.executable, "-c", CALL + code], capture_output=True, text=True)


def test_plain_pytorch_where_numba_cannot_be_imported(tmp_path):
    """As one that does not know the NumPy beside it."""
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 2.0 or less')")
    done = run(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
print(call(), call())
print(torch.compile(lambda x: surface_green(x, x, x)[0], backend="eager")(sites).shape)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'surface_green': {'chunked'}} {'surface_green': {'chunked'}}\ntorch.Size([1, 2, 3])\n"
    told = (
        "RuntimeWarning: numba cannot be imported (ImportError: Numba needs NumPy 2.0 or less), so that plain PyTorch"
    )
    assert done.stderr.count(told) == 1


# What numba imports first, in the middle and last.
@pytest.mark.parametrize("module", ["numba.core.config", "numba.core.dispatcher", "numba.extending"])
def test_an_interrupt_of_the_first_call_leaves_numba_whole(module):
    done = run(f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, interrupt := Interrupt())
try:
    call()
except KeyboardInterrupt:
    print("interrupted")
sys.meta_path.remove(interrupt)
print(call())
""")
    assert done.stdout == "interrupted\n{'surface_green': {'numba'}}\n", done.stderr
