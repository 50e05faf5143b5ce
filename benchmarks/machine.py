"""On what a benchmark ran: what `resnet_bk.bench.environment` records, and what decides the speed of operators."""

import os
from typing import Any

import torch

from resnet_bk.bench.environment import environment


def machine() -> dict[str, Any]:
    """JSON-able. memory_gib and load are None where the system does not tell."""
    return environment() | {
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": _memory_gib(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def describe(found: dict[str, Any]) -> list[str]:
    """Lines for a reader; of the libraries, those whose speed is measured."""
    memory = "" if found["memory_gib"] is None else f", {found['memory_gib']:.0f} GiB"
    load = "" if found["load_before"] is None else f", load {found['load_before']:.1f} before"
    commit = found["git_commit"]
    dirty = " with uncommitted changes" if found["git_dirty"] else ""
    timed = [name for name in ("torch", "transformers", "numba") if name in found["versions"]]
    memory_settings = found.get("memory_settings", "default")  # of before they were noted
    return [
        f"{found['cpu']}, {found['cores_allowed']} of {found['cpu_count']} cores{memory}, {found['simd']}",
        f"{found['threads']} {'thread' if found['threads'] == 1 else 'threads'}{load}"
        + ("" if memory_settings == "default" else f", {memory_settings}"),
        ", ".join([f"python {found['python']}", *(f"{name} {found['versions'][name]}" for name in timed)]),
        "no git checkout" if commit is None else f"commit {commit[:12]}{dirty}",
    ]


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    except (AttributeError, ValueError, OSError):
        return None
