"""On what a run was made: versions, machine, commit."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import resnet_bk

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "datasets", "numpy", "numba", "triton", "safetensors")

# What makes two times figures of the same thing, by key of `machine`.
MACHINE = {
    "device": "devices",
    "cpu": "processors",
    "kernel_instructions": "processors, by the instructions that kernels are chosen by",
    "gpu": "GPUs",
    "threads": "numbers of threads",
    "memory_settings": "memory settings",
}
# Variables by which a process is told how to take memory from the system. Huge pages, or freed memory kept, change the
# time of a step by half where its buffers are large, and its peak memory by a tenth.
MEMORY_VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD")
# What a commit must hold for a run to be of it, in the checkout.
CODE = (":/src", ":/benchmarks", ":/pyproject.toml")


def environment() -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a time, JSON-able."""
    import torch  # here, for tables of finished runs are made without it

    commit, dirty = code_state()
    return {
        "resnet_bk": resnet_bk.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": sys.version.split()[0],
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "kernel_instructions": _kernel_instructions(),
        "threads": torch.get_num_threads(),
        "memory_settings": _memory_settings(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@cache
def code_state() -> tuple[str | None, bool | None]:
    """The commit, and whether the code had changes that were not in it, None where git cannot say.

    Asked once a process, before it trains: what was imported then is what runs, whatever is committed meanwhile.
    Results that are written into the checkout change nothing.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *CODE)
    return commit, None if commit is None or changes is None else bool(changes)


def machine(place: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """What decides how fast a run is, of its `environment`: the keys of `MACHINE`, as far as they are known.

    Args:
        place: the environment.
        device: on which the run was, such as "cuda:0"; a GPU that was there and not used decides nothing.
    """
    known: dict[str, Any] = {key: place.get(key) for key in MACHINE}
    known["device"] = None if device is None else device.partition(":")[0]
    if known["device"] != "cuda":
        known.pop("gpu", None)
    return {key: value for key, value in known.items() if value is not None}


def environments_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a run was trained, an entry a call; of before calls were noted that of the last one alone.

    Args:
        result: of the run.

    Returns:
        The environments; none for a result of before runs said so.
    """
    finished = result.get("environment")
    return [call["environment"] for call in result.get("calls") or ()] or ([] if finished is None else [finished])


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _kernel_instructions() -> str:
    """What the compiled CPU kernels choose by: of two kernels for one job these decide."""
    from resnet_bk.ops.amx import has_amx
    from resnet_bk.ops.dispatch import cpu_has, has_avx2

    known = {"AVX-512": cpu_has("avx512f"), "AVX512-BF16": cpu_has("avx512bf16"), "AMX": has_amx()}
    narrow = "AVX2" if has_avx2() else "neither AVX2 nor AVX-512"
    return ", ".join(name for name, there in known.items() if there) or narrow


def _memory_settings() -> str:
    """What was set for the C library's allocator, or another in its place; of a path the file name alone."""
    found = {
        name: value for name, value in os.environ.items() if name in MEMORY_VARIABLES or name.startswith("MALLOC_")
    }
    shown = {name: re.sub(r"[^ :=,]*/", "", value) for name, value in found.items()}
    return " ".join(f"{name}={value}" for name, value in sorted(shown.items()) if value) or "default"


def _git(*arguments: str) -> str | None:
    """Output of git in the checkout that this package is imported from; None outside of one."""
    package = Path(__file__).parents[1]
    # An installed copy may lie in a virtual environment inside some other repository.
    if not (package.parents[1] / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def other_code(result: Mapping[str, Any]) -> str:
    """What to say of a finished run that other code than the present may have trained: the code is no setting.

    Args:
        result: of the run.
    """
    now = environment()
    places = environments_of(result) or [dict(result)]
    commits = list(dict.fromkeys((place.get("git_commit") or "unknown")[:12] for place in places))
    if now["git_commit"] is None or commits != [now["git_commit"][:12]]:
        return f", trained at commit {', '.join(commits)}"
    dirty = [now["git_dirty"], *(place.get("git_dirty") for place in places)]
    if any(dirty):
        return ", trained at this commit, but for changes that are not committed"
    return ", trained at this commit, with or without changes: git cannot say" if None in dirty else ""
