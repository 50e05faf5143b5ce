"""When the kernels may use AMX: the processor has it and Linux permits it."""

import ctypes
import platform
import sys

import pytest

from resnet_bk.ops import amx


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with AMX under Linux, which grants what it is asked for; counts the requests."""
    requests = []

    class System:
        def syscall(self, *numbers):
            requests.append(numbers)
            return 0

    monkeypatch.setattr(amx, "cpu_has", lambda feature: feature == "amx-bf16")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: System())
    amx.has_amx.cache_clear()
    yield requests
    amx.has_amx.cache_clear()


def test_permission_is_asked_for_once(machine):
    assert amx.has_amx()
    assert amx.has_amx()
    # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA), of Linux's Documentation/arch/x86/xstate.rst
    assert machine == [(158, 0x1023, 18)]


def test_a_refusal_is_heeded(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: type("System", (), {"syscall": lambda self, *numbers: -1})())
    assert not amx.has_amx()


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (amx, "cpu_has", lambda feature: False),
        (sys, "platform", "win32"),
        (platform, "machine", lambda: "aarch64"),
    ],
    ids=["processor", "system", "architecture"],
)
def test_other_machines_are_not_asked(where, name, value, machine, monkeypatch):
    monkeypatch.setattr(where, name, value)
    assert not amx.has_amx()
    assert machine == []
