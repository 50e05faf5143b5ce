"""The head's CPU kernels against the plain PyTorch form in float64, and their independence of blocks and threads."""

import os
import subprocess
import sys

import numba
import pytest
import torch

from resnet_bk.ops import dispatch, linear_cross_entropy, record_backends
from resnet_bk.ops.amx import has_amx
from resnet_bk.ops.dispatch import available_backends, cpu_has
from resnet_bk.ops.linear_cross_entropy import compiled
from resnet_bk.ops.linear_cross_entropy.sizes import AMX_TOKENS, BLOCK, TOKENS
from resnet_bk.ops.sizes import SQUARE
from tests.ops.threads import assert_threads_change_nothing

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        "numba" not in available_backends("linear_cross_entropy", "cpu"),
        reason="the head's kernels need AVX2 and FMA; elsewhere PyTorch runs",
    ),
]


@pytest.fixture
def unit(request, monkeypatch):
    """The dtype of a problem, and with "amx" or "vectors" which of the kernels for bfloat16 runs."""
    name = request.param
    if numba.config.DISABLE_JIT:  # the products are NumPy's and run anywhere
        monkeypatch.setattr(dispatch, "cpu_has", lambda feature: True)
    elif name != "float32" and not cpu_has("avx512bf16"):
        pytest.skip("no AVX512-BF16 on this processor")
    elif name == "amx" and not has_amx():
        pytest.skip("no AMX on this processor")
    monkeypatch.setattr(compiled, "has_amx", lambda: name == "amx")
    return torch.float32 if name == "float32" else torch.bfloat16


UNITS = pytest.mark.parametrize("unit", ["float32", "vectors", "amx"], indirect=True)
HALF_UNITS = pytest.mark.parametrize("unit", ["vectors", "amx"], indirect=True)
# Half a unit in the last place of the operands (2^-24, 2^-9) in every term of every sum, and as much again for the
# rounding of the softmax: errors of different sign, so a norm over all entries stays near one unit.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3}

# (tokens that take part, width, vocabulary): less than a chunk, a block and a tile; one more than each; one word; a
# full tile's width.
SHAPES = [
    (1, 1, 1),
    (3, 16, 5),
    (TOKENS, 64, 4),
    (TOKENS + 1, 20, BLOCK + 1),
    (2, 80, 2 * BLOCK - 3),
    (SQUARE + 1, 2 * SQUARE, SQUARE + 1),
    (AMX_TOKENS + 3, SQUARE, BLOCK + 1),
]


def problem(tokens, width, vocabulary, dtype, *, bias=True):
    """Every fifth target is ignored, and is not among the `tokens`."""
    generator = torch.Generator().manual_seed(tokens + vocabulary)
    rows = tokens + (tokens - 1) // 4

    def draw(*shape):
        # Logits of size 1: their own rounding, which the exponential turns into relative error, stays at one unit.
        scale = width**-0.5 if len(shape) == 2 and shape[0] == vocabulary else 1.0
        return (scale * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()

    target = torch.randint(0, vocabulary, (rows,), generator=generator)
    target[4::5] = -100
    assert (target >= 0).sum() == tokens
    case = {"input": draw(rows, width), "weight": draw(vocabulary, width), "target": target}
    return case | {"bias": draw(vocabulary)} if bias else case


def gradients(case, **options):
    leaves = [value for value in case.values() if value.requires_grad]
    loss = linear_cross_entropy(**case, **options)
    cotangent = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return [loss, *torch.autograd.grad((loss * cotangent).sum(), leaves)]


# Rounding moves a logit of size 8 by 2^-9 of it where the logits themselves are rounded (chunked), which is 1.6% of
# 1 - p; elsewhere each of the other words' shares by 2^-9.
CONFIDENT = pytest.mark.parametrize("shape", [(TOKENS + 5, 64, BLOCK + 40), (3, 80, 53)])


@HALF_UNITS
@CONFIDENT
def test_confident_predictions_keep_their_digits(unit, shape):
    confident_gradients(shape, "numba", 8e-3)


@CONFIDENT
@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 4e-2), (torch.float16, 8e-3)], ids=str)
def test_confident_predictions_keep_some_digits_in_plain_pytorch(shape, half, tolerance):
    confident_gradients(shape, "chunked", tolerance, half)


def confident_gradients(shape, backend, tolerance, half=torch.bfloat16):
    """p = 0.8 to 0.98 at the label: what is left of W_y and x is a small part of them, and of the 0.4% of a rounding in
    bfloat16, 0.05% in float16, ten to fifty times the share."""
    tokens, width, vocabulary = shape
    generator = torch.Generator().manual_seed(vocabulary)
    weight = (torch.randn(vocabulary, width, generator=generator) * width**-0.5).to(half)
    target = torch.randint(0, vocabulary, (tokens,), generator=generator)
    rows = weight[target].float()
    words = (8.0 * rows / rows.square().sum(1, keepdim=True)).to(half)
    found = []
    for dtype, name in ((half, backend), (torch.float64, "chunked")):
        leaves = [words.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        with record_backends():
            loss = linear_cross_entropy(*leaves, target, reduction="sum", backend=name)
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    loss, *_ = found[1]
    assert 0.01 < loss / tokens < 0.4
    for small, large in zip(found[0][1:], found[1][1:], strict=True):
        assert (small.double() - large).norm() < tolerance * large.norm()


@UNITS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_equals_float64(unit, shape, reduction, extra):
    case = problem(*shape, unit)
    options = {"reduction": reduction, "label_smoothing": 0.0 if extra or reduction == "mean" else 0.1}
    if extra:
        # From nothing to e^20 times what the softmax can be: the odds against it overflow nothing.
        case["log_extra"] = torch.linspace(-30, 20, len(case["target"])).requires_grad_()
    exact = {name: (x.detach().double().requires_grad_() if x.requires_grad else x) for name, x in case.items()}
    with record_backends() as seen:
        results = gradients(case, backend="numba", **options)
    assert seen == {"linear_cross_entropy": {"numba"}}
    # Of one word the loss is zero and every gradient is: what is left is the rounding of logits of size 1.
    floor = 1e-6 if shape[2] == 1 else 0.0
    for got, want in zip(results, gradients(exact, backend="chunked", **options), strict=True):
        assert (got.double() - want).norm() <= TOLERANCE[unit] * want.norm() + floor


@UNITS
def test_without_bias_and_without_gradients(unit):
    case = problem(5, 16, 9, unit, bias=False)
    with torch.no_grad():
        loss = linear_cross_entropy(**case, backend="numba")
    assert not loss.requires_grad
    exact = linear_cross_entropy(case["input"].double(), case["weight"].double(), case["target"], backend="chunked")
    torch.testing.assert_close(loss, exact, rtol=TOLERANCE[unit], atol=0, check_dtype=False)


@UNITS
def test_all_ignored(unit):
    case = problem(3, 16, 9, unit)
    case["target"][:] = -100
    loss, *rest = gradients(case, backend="numba", reduction="sum")
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in rest)


@UNITS
def test_words_that_are_ruled_out(unit):
    """A bias of -inf takes a word out, a whole block of words included; padding to a tile takes words out so."""
    case = problem(3, 16, 2 * BLOCK, unit)
    with torch.no_grad():
        case["bias"][:BLOCK] = -torch.inf
        case["bias"][-1] = -torch.inf
        case["target"][:] = BLOCK + 1
    loss, grad_input, grad_weight, grad_bias = gradients(case, backend="numba")
    kept = slice(BLOCK, 2 * BLOCK - 1)
    left = {"input": case["input"], "weight": case["weight"][kept], "bias": case["bias"][kept]}
    exact = {name: x.detach().double().requires_grad_() for name, x in left.items()} | {
        "target": case["target"] - BLOCK
    }
    for got, want in zip((loss, grad_input), gradients(exact, backend="chunked")[:2], strict=True):
        assert (got.double() - want).norm() <= TOLERANCE[unit] * want.norm()
    # exp(-87) in the place of zero.
    for gradient in (grad_weight[:BLOCK], grad_weight[-1], grad_bias[:BLOCK]):
        assert gradient.abs().max() < 1e-30


@UNITS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(unit, bad):
    case = problem(3, 16, 9, unit)
    with torch.no_grad():
        case["input"][0, 0] = bad
    assert linear_cross_entropy(**case, backend="numba").isnan()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_large_and_small_inputs_are_finite(scale):
    case = problem(3, 16, 9, torch.float32)
    with torch.no_grad():
        case["input"] *= scale
    results = gradients(case, backend="numba")
    assert all(x.isfinite().all() for x in results)
    for got, want in zip(results, gradients(case, backend="chunked"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * float(want.detach().abs().max()))


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="uncompiled kernels have no threads")
@UNITS
def test_threads_do_not_change_a_bit(unit):
    case = problem(AMX_TOKENS + 5, 16, 2 * BLOCK + 4, unit)
    assert_threads_change_nothing(lambda: gradients(case, backend="numba"))


def test_auto_takes_the_kernels_where_they_can_run(monkeypatch):
    assert available_backends("linear_cross_entropy", "cpu")[0] == "numba"
    monkeypatch.setattr(dispatch, "cpu_multiplies", lambda half: True)
    for dtype, expected in ((torch.float32, "numba"), (torch.float64, "chunked"), (torch.float16, "chunked")):
        with record_backends() as seen:
            linear_cross_entropy(**problem(2, 16, 5, dtype, bias=False))
        assert seen == {"linear_cross_entropy": {expected}}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_nothing_is_rounded_where_the_processor_multiplies_no_half_type(half, monkeypatch):
    """PyTorch's matmuls of half types would be plain loops there."""
    monkeypatch.setattr(dispatch, "cpu_multiplies", lambda dtype: False)
    case = problem(2, 16, 5, half)
    with record_backends() as seen:
        found = gradients(case, backend="auto")
    assert seen == {"linear_cross_entropy": {"numba"}}
    wide = {
        key: value.detach().float().requires_grad_(value.requires_grad)
        for key, value in case.items()
        if key != "target"
    }
    expected = gradients(wide | {"target": case["target"]}, backend="numba")
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want.to(got.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_precisions_that_the_kernels_lack(dtype):
    with pytest.raises(ValueError, match=f"multiplies in float32.*{dtype}.*take 'chunked' or 'auto'"):
        linear_cross_entropy(**problem(2, 16, 5, dtype), backend="numba")


ON_AVX2 = """
import numba, re, torch
from resnet_bk.ops import linear_cross_entropy
from resnet_bk.ops.linear_cross_entropy import cpu
from tests.ops.test_linear_cross_entropy_kernels import gradients, problem
for shape in ((3, 16, 5), (70, 112, 600)):
    case = problem(*shape, torch.float32)
    wide = {key: x.detach().double().requires_grad_() if x.is_floating_point() else x for key, x in case.items()}
    for found, exact in zip(gradients(case, backend="numba"), gradients(wide, backend="chunked"), strict=True):
        assert (found - exact).norm() <= 1e-6 * exact.norm()
code = ""
for kernel in (cpu.first_walk, cpu.second_walk):
    fresh = numba.njit(error_model="numpy", boundscheck=False)(kernel.py_func)
    fresh.compile(kernel.signatures[0])
    code += "".join(fresh.inspect_asm().values())
print("zmm" in code, len(re.findall("vfmadd[0-9]+ps.*%ymm", code)) >= 24, "vfmadd231ss" in code)
"""


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="uncompiled kernels have no machine code")
def test_processors_with_avx2_alone(tmp_path):
    """Eight registers to a tile, three products. (Elsewhere in this file it is whatever this processor has.)"""
    environment = os.environ | {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", ON_AVX2], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
