"""The GPU benchmark where there is no GPU: it says so in one line, and its inputs fit the operators."""

import json

import pytest
import torch

from benchmarks import gpu
from benchmarks.command import guarded
from tests.ops.cases import OPERATORS


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        guarded(lambda _: gpu.main(arguments))
    return ended.value.code


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run it on")
def test_no_gpu(capsys):
    assert call() == 2
    assert capsys.readouterr().err == "error: no CUDA GPU that this PyTorch can use; run it on a machine with one\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--output"], "unrecognized arguments: --output"), (["--out", "{file}/gpu.json"], "name a file that can be")],
)
def test_bad_calls(arguments, says, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert call(*(argument.format(file=tmp_path / "file") for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_every_operator_is_measured():
    assert {case[0] for case in gpu.CASES} == {operator.name for operator in OPERATORS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("operator", [operator.name for operator in OPERATORS])
def test_inputs(operator, dtype):
    inputs = gpu.make_inputs(operator, 2, 5, 3, 4 if operator == "propagate" else 0, dtype, device="cpu")
    output = gpu.run(operator, inputs, "auto")
    assert output.shape[:3] == (2, 5, 3)
    assert all(bar is not None for bar in torch.autograd.grad(output.abs().sum(), inputs))


def test_wrong_kernels_are_not_timed(monkeypatch):
    monkeypatch.setattr(gpu, "make_inputs", lambda *arguments: [])
    monkeypatch.setattr(gpu, "largest_error", lambda operator, inputs: 0.5)
    with pytest.raises(ValueError, match=r"^propagate: error 5.0e-01 against float64, at most .* was expected"):
        gpu.measure("propagate", 1, 2, 3, 4, torch.float32)


def test_a_gradient_that_is_no_number_is_an_error(monkeypatch):
    """Values alone say nothing of it, nor does any gradient but the last."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    def run(operator, inputs, backend):
        return sum(inputs[:-1]) + (Broken.apply(inputs[-1]) if backend == "triton" else inputs[-1])

    monkeypatch.setattr(gpu, "run", run)
    error = gpu.largest_error("propagate", [torch.rand(1, 5, 2) for _ in range(3)])
    assert error != error
    monkeypatch.setattr(gpu, "make_inputs", lambda *arguments: [torch.rand(1, 5, 2) for _ in range(3)])
    with pytest.raises(ValueError, match="error nan against float64"):
        gpu.measure("propagate", 1, 5, 2, 1, torch.float32)


@pytest.mark.parametrize("lossy", [False, True], ids=["right", "lossy"])
@pytest.mark.parametrize("sites", [300, 600])
def test_values_are_compared_at_all_sites_that_are_timed(sites, lossy, monkeypatch):
    """A kernel that loses what follows site 512, in plain PyTorch."""
    real = gpu.run

    def run(operator, inputs, backend):
        output = real(operator, inputs, "chunked")
        return torch.cat([output[:, :512], 0 * output[:, 512:]], 1) if lossy and backend == "triton" else output

    monkeypatch.setattr(gpu, "run", run)
    for operator in OPERATORS:
        size = 4 if operator.name == "propagate" else 0
        inputs = gpu.make_inputs(operator.name, 2, sites, 3, size, torch.float32, device="cpu")
        error = gpu.largest_error(operator.name, inputs)
        assert (error < gpu.TOLERANCE[torch.float32]) == (sites < 512 or not lossy), operator.name


def test_another_backend_than_triton_is_not_timed(monkeypatch):
    real = gpu.make_inputs
    monkeypatch.setattr(gpu, "make_inputs", lambda *arguments: real(*arguments, device="cpu"))
    monkeypatch.setattr(gpu, "largest_error", lambda operator, inputs: 0.0)
    with pytest.raises(ValueError, match=r"^surface_green: expected the triton backend, but .*numba.* ran"):
        gpu.measure("surface_green", 1, 2, 3, 0, torch.float32)


def test_what_was_red_last_is_written_too(monkeypatch, tmp_path):
    def measure(operator, *shape):
        done.append(operator)
        if len(done) > 1:
            raise (ValueError, RuntimeError)[len(done) % 2](f"{operator}: wrong")  # of a check, of a compiler
        return gpu.Row(operator, 1, 2, 3, 4, "float32", *[1.0] * (len(gpu.Row.__dataclass_fields__) - 6))

    done = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    monkeypatch.setattr(gpu, "available_backends", lambda op, device: ("triton",))
    monkeypatch.setattr(gpu, "measure", measure)
    assert call("--out", str(tmp_path / "gpu.json")) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["rows"]) == 1
    assert len(found["red"]) == len(done) - 1 > 1


def test_a_gpu_without_triton(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "available_backends", lambda op, device: ("chunked", "reference"))
    assert call() == 2
    assert "no triton for this GPU; it needs one of NVIDIA" in capsys.readouterr().err
