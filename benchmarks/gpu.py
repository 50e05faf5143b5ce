"""The Triton kernels on a GPU, as a share of what copying their inputs and outputs takes.

    python -m benchmarks.gpu [--out FILE]

Shape legend: B batch, T sites, H chains, K key size, V value size.

A forward pass reads its inputs and writes its outputs; a step with its gradients reads the inputs twice, writes their
cotangents, and moves the outputs and their cotangents. A copy that moves as many bytes is the limit. No figure is
printed for an operator whose values or gradients miss the float64 result at any site.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.command import Parser, guarded, out_file
from benchmarks.machine import describe, machine
from resnet_bk.bench.json_files import write_json
from resnet_bk.ops import (
    available_backends,
    propagate,
    propagate_vector,
    record_backends,
    resolvent_diagonal,
    surface_green,
)

# (operator, B, T, H, K = V or 0)
CASES = (
    ("surface_green", 16, 128, 64, 0),
    ("surface_green", 1, 65_536, 256, 0),
    ("resolvent_diagonal", 1, 65_536, 256, 0),
    ("propagate_vector", 16, 128, 64, 0),
    ("propagate_vector", 1, 65_536, 256, 0),
    ("propagate", 1, 8_192, 4, 64),
    ("propagate", 1, 65_536, 4, 64),
    ("propagate", 16, 2_048, 16, 64),
)
# Errors relative to the largest entry. Inputs are as well conditioned as in the tests (kappa <= 30, 4 kappa eps). With
# inputs in bfloat16 the gradients are rounded to it: half a unit in its eighth digit, and as much in what they sum.
TOLERANCE = {torch.float32: 1.5e-5, torch.bfloat16: 8e-3}
ROUNDS = 20


@dataclass(frozen=True)
class Row:
    """Seconds are medians over rounds in which kernel and copy take turns.

    Attributes:
        forward_share, step_share: time of the copy over time of the kernel.
        chunked_step_seconds: forward and backward of the same operator in plain PyTorch.
    """

    operator: str
    batch: int
    sites: int
    chains: int
    size: int
    dtype: str
    forward_seconds: float
    forward_share: float
    step_seconds: float
    step_share: float
    chunked_step_seconds: float
    largest_error: float


def make_inputs(
    operator: str, batch: int, sites: int, chains: int, size: int, dtype: torch.dtype, device: str = "cuda"
) -> list[Tensor]:
    """Inputs of the operator in its order, leaves that want a gradient."""
    generator = torch.Generator(device).manual_seed(0)
    grid = (batch, sites, chains)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def uniform(low: float) -> Tensor:
        return low + torch.rand(grid, generator=generator, device=device)

    chain = [normal(*grid), uniform(0.2), uniform(0.3)]
    heads = {"propagate_vector": [normal(*grid)], "propagate": [normal(*grid, size) for _ in range(3 if size else 0)]}
    return [x.to(dtype).requires_grad_() for x in (*heads.get(operator, []), *chain)]


def run(operator: str, inputs: list[Tensor], backend: str) -> Tensor:
    """The operator's result over sites, without the state."""
    if operator == "resolvent_diagonal":
        return resolvent_diagonal(inputs[0], inputs[1], inputs[2], backend=backend)
    if operator == "surface_green":
        return surface_green(inputs[0], inputs[1], inputs[2], backend=backend)[0]
    if operator == "propagate_vector":
        return propagate_vector(inputs[0], inputs[1], inputs[2], inputs[3], backend=backend)[0]
    q, k, v, a, b, eta = inputs
    return propagate(q, k, v, a, b, eta, backend=backend)[0]


def with_gradients(operator: str, inputs: list[Tensor], backend: str) -> list[Tensor]:
    """The output, and the gradient of every input."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = run(operator, leaves, backend)
    return [output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))]


def largest_error(operator: str, inputs: list[Tensor]) -> float:
    """Of values and gradients in the precision of the inputs, against float64 of the same numbers in plain PyTorch, at
    all sites that are timed, relative to the largest entry of each; NaN where one is NaN."""
    found = with_gradients(operator, inputs, "triton")
    # One item of the batch at a time: all together would take more memory than anything that is timed.
    items = zip(*(x.double().split(1) for x in inputs), strict=True)
    truth = zip(*(with_gradients(operator, list(item), "chunked") for item in items), strict=True)
    errors = []
    for x, parts in zip(found, truth, strict=True):
        y = torch.cat(parts)
        errors.append(((x - y).abs().max() / y.abs().max()).double())
    return float(torch.stack(errors).max())  # Python's max would pass over a NaN


def interleaved(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each call, taken in turn, by the device's own clock; each was warmed."""
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):
        for call, seconds in zip(calls, samples, strict=True):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            if number >= 2:
                seconds.append(start.elapsed_time(end) / 1000)
    return [float(torch.tensor(seconds).median()) for seconds in samples]


def copy_of(moved: int) -> Callable[[], object]:
    """A call that reads and writes so many bytes together."""
    source, target = (torch.empty(moved // 2, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: target.copy_(source)


def measure(operator: str, batch: int, sites: int, chains: int, size: int, dtype: torch.dtype) -> Row:
    """Raises ValueError where the kernels are wrong; then nothing is timed."""
    inputs = make_inputs(operator, batch, sites, chains, size, dtype)
    error = largest_error(operator, inputs)
    if not error < TOLERANCE[dtype]:
        raise ValueError(f"{operator}: error {error:.1e} against float64, at most {TOLERANCE[dtype]:.1e} was expected")
    with torch.no_grad(), record_backends() as seen:
        output = run(operator, inputs, "auto")
    if seen != {operator: {"triton"}}:
        raise ValueError(f"{operator}: expected the triton backend, but {seen} ran")
    bar = torch.ones_like(output)

    @torch.no_grad()
    def forward() -> None:
        run(operator, inputs, "triton")

    def step(backend: str) -> None:
        torch.autograd.grad(run(operator, inputs, backend), inputs, bar)

    read, written = sum(x.nbytes for x in inputs), output.nbytes
    copy_forward, copy_step = copy_of(read + written), copy_of(3 * read + 2 * written)
    forward_seconds, copy_seconds = interleaved([forward, copy_forward], ROUNDS)
    step_seconds, copy_step_seconds = interleaved([lambda: step("triton"), copy_step], ROUNDS)
    # Plain PyTorch loops over the sites: seconds where the chain is long.
    chunked_seconds = interleaved([lambda: step("chunked")], 3)[0]
    return Row(
        operator=operator,
        batch=batch,
        sites=sites,
        chains=chains,
        size=size,
        dtype=str(dtype).removeprefix("torch."),
        forward_seconds=forward_seconds,
        forward_share=copy_seconds / forward_seconds,
        step_seconds=step_seconds,
        step_share=copy_step_seconds / step_seconds,
        chunked_step_seconds=chunked_seconds,
        largest_error=error,
    )


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: a bad call, or a machine without what it needs.
    """
    options = Parser(prog="python -m benchmarks.gpu", description=__doc__)
    options.add_argument("--out", metavar="FILE", help="JSON to write; by default none")
    given = options.parse_args(arguments)
    out = None if given.out is None else out_file(given.out, "gpu", whole=True)
    if not torch.cuda.is_available():
        raise ValueError("no CUDA GPU that this PyTorch can use; run it on a machine with one")
    if "triton" not in available_backends("propagate", "cuda"):
        raise ValueError("no triton for this GPU; it needs one of NVIDIA, and pip install '.[triton]' in the checkout")
    found = machine() | {"gpu": torch.cuda.get_device_name()}
    print("\n".join([*describe(found), found["gpu"]]))
    rows: list[Row] = []
    red = []
    for case in CASES:
        for dtype in TOLERANCE:
            try:
                row: Row | None = measure(*case, dtype)
            except Exception as error:  # also of a compiler, or of memory: the other cases are measured all the same
                row = None
                red.append(f"{type(error).__name__}: {error}")
                print(f"RED {case}, {dtype}: {error}", flush=True)
            if row is not None:
                rows.append(row)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                write_json(out, {"machine": found, "rows": [asdict(row) for row in rows], "red": red})
            if row is None:
                continue
            print(
                f"{row.operator:20} B={row.batch} T={row.sites} H={row.chains} K={row.size} {row.dtype:8} "
                f"forward {row.forward_seconds * 1e6:9.1f} us, {row.forward_share:4.0%} of copying; "
                f"with backward {row.step_seconds * 1e6:9.1f} us, {row.step_share:4.0%} of copying, "
                f"{row.chunked_step_seconds / row.step_seconds:5.1f} times faster than chunked; "
                f"error {row.largest_error:.1e}",
                flush=True,
            )
    return int(bool(red))


if __name__ == "__main__":
    guarded(main)
