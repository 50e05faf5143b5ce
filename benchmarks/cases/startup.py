"""How long a fresh process waits: imports, first calls of compiled kernels with and without machine code on disk."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.row import Row, Table, Target

CASE = "startup"
OPERATORS = (
    "surface_green",
    "resolvent_diagonal",
    "propagate_vector",
    "propagate",
    "propagate_modulus",
    "propagate_tokens",
    "linear_cross_entropy",
    "parts of a mixer",
)
COMPILE_LIMIT, IMPORT_LIMIT = 10.0, 1.0  # seconds

# Small inputs: a call is compilation, or loading, and nothing else.
CODE = """
import json, sys, time
start = time.perf_counter()
import torch
torch_read = time.perf_counter()
from resnet_bk import ops
package_read = time.perf_counter()
seconds = {"import of torch": torch_read - start, "import of resnet_bk.ops": package_read - torch_read}
def real(*shape):
    return torch.rand(*shape).add(0.5).requires_grad_()
chain = [real(1, 40, 4) for _ in range(3)]
words = [torch.arange(40)[None] for _ in range(2)]
def mixer():
    from resnet_bk.ops.gated_norm import gated_norm
    from resnet_bk.ops.tap_sums import tap_sums
    from resnet_bk.ops.unit_query_key import unit_query_key
    query, key = unit_query_key(real(1, 40, 2, 4, 16), real(128))
    normed = gated_norm(query, real(16), real(1, 40, 64), eps=1e-5, dtype=torch.float32)
    return normed + key.flatten(2) + tap_sums(normed.detach(), normed.detach(), 4).sum()
calls = {
    "surface_green": lambda: ops.surface_green(*chain)[0],
    "resolvent_diagonal": lambda: ops.resolvent_diagonal(*chain),
    "propagate_vector": lambda: ops.propagate_vector(real(1, 40, 4), *chain)[0],
    "propagate": lambda: ops.propagate(*(real(1, 40, 4, 16) for _ in range(3)), *chain)[0],
    "propagate_modulus": lambda: ops.propagate_modulus(*(real(1, 40, 4, 16) for _ in range(3)), *chain)[0],
    "propagate_tokens": lambda: ops.propagate_tokens(real(1, 40, 4, 16), real(1, 40, 4, 16), chain[0], *words)[1],
    "linear_cross_entropy": lambda: ops.linear_cross_entropy(real(8, 16), real(20, 16), torch.zeros(8).long()),
    "parts of a mixer": mixer,
}
with ops.record_backends() as seen:
    for name in sys.argv[1].split(","):
        before = time.perf_counter()
        calls[name]().abs().sum().backward()
        seconds[name] = time.perf_counter() - before
print(json.dumps({"seconds": seconds, "backends": {name: sorted(ran) for name, ran in seen.items()}}))
"""


def rows(quick: bool) -> Iterator[Row]:
    operators = OPERATORS[:1] if quick else OPERATORS
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (_measure(operators, folder) for _ in range(2))
    lines = [
        (f"first {name}, forward and backward", cold["seconds"][name], warm["seconds"][name]) for name in operators
    ]
    totals = [sum(run["seconds"][name] for name in operators) for run in (cold, warm)]
    imports = [(name, None, warm["seconds"][name]) for name in warm["seconds"] if name.startswith("import")]
    yield Row(
        CASE,
        "seconds in a fresh process",
        targets=(
            Target("seconds to compile all operators", "at most", COMPILE_LIMIT, totals[0]),
            Target(
                "seconds to import, beyond torch", "at most", IMPORT_LIMIT, warm["seconds"]["import of resnet_bk.ops"]
            ),
        ),
        table=Table(
            ("what", "nothing on disk", "machine code on disk"), (*imports, *lines, ("all operators", *totals))
        ),
        notes=(
            "backends: " + ", ".join(f"{name} {'+'.join(ran)}" for name, ran in sorted(warm["backends"].items())),
            "the first operator's time includes the import of numba",
        ),
    )


def _measure(operators: tuple[str, ...], folder: str) -> dict[str, dict[str, Any]]:
    environment = os.environ | {"NUMBA_CACHE_DIR": folder}
    words = [sys.executable, "-c", CODE, ",".join(operators)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process whose first calls are timed failed with {done.returncode}:\n{done.stderr}")
    return dict(json.loads(done.stdout))
