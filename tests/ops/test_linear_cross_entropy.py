"""The fused head against `F.cross_entropy(F.linear(...))`."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from resnet_bk.ops import available_backends, linear_cross_entropy
from resnet_bk.ops.dispatch import cpu_has
from resnet_bk.ops.linear_cross_entropy.chunked import CHUNK
from resnet_bk.ops.linear_cross_entropy.sweep import spread_labels

VOCABULARY, WIDTH = 53, 12


def problem(tokens: int, *, bias: bool, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(tokens)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    target = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    target[::5] = -100
    return {
        "input": draw(tokens, WIDTH),
        "weight": draw(VOCABULARY, WIDTH),
        "target": target,
        "bias": draw(VOCABULARY) if bias else None,
    }


def unfused(input, weight, target, bias=None, **options):
    return F.cross_entropy(F.linear(input, weight, bias), target, **options)


@pytest.mark.parametrize("tokens", [1, CHUNK["cpu"] - 1, CHUNK["cpu"], CHUNK["cpu"] + 1, 3 * CHUNK["cpu"] + 7])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_unfused(tokens, bias, label_smoothing, reduction):
    case = problem(tokens, bias=bias)
    case["target"][0] = 3  # at least one token takes part
    leaves = [case[name] for name in ("input", "weight", "bias") if case[name] is not None]
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    cotangent = torch.linspace(0.5, 2.0, tokens, dtype=torch.float64) if reduction == "none" else torch.tensor(1.7)
    results = []
    for function in (linear_cross_entropy, unfused):
        loss = function(**case, **options)
        results.append((loss, torch.autograd.grad((loss * cotangent).sum(), leaves)))
    # float64 rounding of sums over at most 200 tokens of size 10: errors stay below 1e-12 relative.
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-11)


def with_extra(input, weight, target, bias=None, *, log_extra, **options):
    """-log(p_y + e^u), by way of all logarithms of p."""
    logarithms = F.linear(input, weight, bias).log_softmax(-1)
    mixed = torch.logaddexp(logarithms, log_extra[:, None])
    return F.nll_loss(mixed, target, **options)


@pytest.mark.parametrize("tokens", [1, CHUNK["cpu"] + 1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_target_with_more_than_its_softmax(tokens, reduction):
    case = problem(tokens, bias=True)
    case["target"][0] = 3
    generator = torch.Generator().manual_seed(1)
    case["log_extra"] = (3 * torch.randn(tokens, generator=generator, dtype=torch.float64) - 4).requires_grad_()
    leaves = [case[name] for name in ("input", "weight", "bias", "log_extra")]
    cotangent = torch.linspace(0.5, 2.0, tokens, dtype=torch.float64) if reduction == "none" else torch.tensor(1.7)
    results = []
    for function in (linear_cross_entropy, with_extra):
        loss = function(**case, reduction=reduction)
        results.append((loss, torch.autograd.grad((loss * cotangent).sum(), leaves)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored_with_more_than_the_softmax(reduction):
    case = problem(4, bias=True)
    case["target"][:] = -100
    case["log_extra"] = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = linear_cross_entropy(**case, reduction=reduction)
    for gradient in torch.autograd.grad(loss.sum(), [case[name] for name in ("input", "weight", "bias", "log_extra")]):
        assert not gradient.any()


def test_nothing_more_is_what_it_was_without():
    case = problem(70, bias=True, dtype=torch.float32)
    nothing = torch.full((70,), -torch.inf)
    leaves = [case[name] for name in ("input", "weight", "bias")]
    for backend in available_backends("linear_cross_entropy", "cpu"):
        found = [linear_cross_entropy(**case, log_extra=extra, backend=backend) for extra in (nothing, None)]
        assert torch.equal(*found)
        assert all(map(torch.equal, *(torch.autograd.grad(loss, leaves) for loss in found)))


# One unit in the last place of the operands, 2^-24 and 2^-8, times the random-walk growth of a sum over 12 products.
@pytest.mark.parametrize(("autocast", "tolerance"), [(None, 1e-6), (torch.bfloat16, 2e-2)])
def test_precision(autocast, tolerance):
    case = problem(300, bias=True, dtype=torch.float32)
    exact = {name: value.double() if value.is_floating_point() else value for name, value in case.items()}
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        loss = linear_cross_entropy(**case)
    assert loss.dtype == torch.float32
    reference = unfused(**exact)
    leaves = ("input", "weight", "bias")
    gradients = torch.autograd.grad(loss, [case[name] for name in leaves])
    expected = torch.autograd.grad(reference, [exact[name] for name in leaves])
    assert abs(loss.item() - reference.item()) <= tolerance * reference.item()
    for name, got, want in zip(leaves, gradients, expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() <= tolerance * want.norm(), name


def test_small_shares_survive_in_float16():
    """x over 2,000 words and 2,048 tokens is a few times the smallest float16, which would keep a digit of it."""
    tokens, words, width = 2_048, 2_000, 8
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).half()
    weight = (0.01 * torch.randn(words, width, generator=generator)).half().requires_grad_()
    exact = weight.detach().double().requires_grad_()
    target = torch.randint(words // 2, (tokens,), generator=generator)
    for x, leaf in ((hidden, weight), (hidden.double(), exact)):
        linear_cross_entropy(x, leaf, target, reduction="none").mean().backward()
    # Words that are no target have their shares alone. A gradient in float16 is rounded to 3e-8 at the least.
    found, expected = weight.grad[words // 2 :].double(), exact.grad[words // 2 :]
    assert (found - expected).abs().max() < 3e-8 + 4e-3 * expected.abs().max()


def test_sums_over_many_words_stay_in_float16():
    """70,000 words of weight 1: their sum is beyond the largest float16."""
    hidden = torch.zeros(2, 4, dtype=torch.float16, requires_grad=True)
    weight = torch.ones(70_000, 4, dtype=torch.float16)
    linear_cross_entropy(hidden, weight, torch.tensor([0, 1]), reduction="sum").backward()
    # Every word pulls alike, and the target pulls back.
    assert hidden.grad.abs().max() < 2e-3


@pytest.mark.parametrize("words", [1, 3])
@pytest.mark.parametrize("tokens", [1, 65])
def test_certain_words_leave_float16_gradients_finite(tokens, words):
    """Nothing is left beside the label: no sum says how large its factor may be."""
    hidden = torch.full((tokens, 2), 50.0, dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[50.0, 50.0], [-50.0, 50.0], [-50.0, -50.0]], dtype=torch.float16)[:words].requires_grad_()
    linear_cross_entropy(hidden, weight, torch.zeros(tokens, dtype=torch.int64), reduction="sum").backward()
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_bfloat16_tensors_give_bfloat16_gradients_and_a_float32_loss():
    case = problem(20, bias=True, dtype=torch.bfloat16)
    loss = linear_cross_entropy(**case)
    loss.backward()
    assert loss.dtype == torch.float32
    assert {case[name].grad.dtype for name in ("input", "weight", "bias")} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_loss_of_a_certain_word_is_zero(dtype):
    """Whatever a matmul rounds its results to, the two terms of the loss see the same logits."""
    generator = torch.Generator().manual_seed(0)
    input, weight = (torch.randn(5, WIDTH, generator=generator).to(dtype) for _ in range(2))
    target = torch.zeros(5, dtype=torch.int64)
    assert linear_cross_entropy(input, weight[:1], target, backend="chunked", reduction="none").tolist() == [0.0] * 5


@pytest.mark.parametrize("backend", available_backends("linear_cross_entropy", "cpu"))
@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_a_wrong_target_is_reported_where_values_were_not_looked_at(backend, wrong):
    """As in a graph of torch.compile: a negative index must not count from the end."""
    case = problem(4, bias=True, dtype=torch.float32)
    target = torch.tensor([0, wrong, 1, 2])
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        torch.ops.resnet_bk.linear_cross_entropy_sum(
            case["input"], case["weight"], target, case["bias"], None, -100, 0.0, torch.float32, backend, False, False
        )


def test_tied_weights_and_leading_dimensions():
    embedding = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, requires_grad=True)
    words = torch.randint(0, VOCABULARY, (2, 5))
    losses = [function(embedding[words], embedding, words) for function in (linear_cross_entropy,)]
    losses.append(unfused(embedding[words].flatten(0, 1), embedding, words.flatten()))
    gradients = [torch.autograd.grad(loss, embedding)[0] for loss in losses]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(reduction):
    case = problem(7, bias=True)

    def function(input, weight, bias):
        return linear_cross_entropy(input, weight, case["target"], bias, label_smoothing=0.2, reduction=reduction)

    assert torch.autograd.gradcheck(function, (case["input"], case["weight"], case["bias"]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_with_more_than_the_softmax(reduction):
    case = problem(7, bias=True)
    extra = torch.linspace(-6, 1, 7, dtype=torch.float64).requires_grad_()

    def function(input, weight, bias, extra):
        return linear_cross_entropy(input, weight, case["target"], bias, log_extra=extra, reduction=reduction)

    assert torch.autograd.gradcheck(function, (case["input"], case["weight"], case["bias"], extra))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("backend", available_backends("linear_cross_entropy", "cpu"))
def test_a_second_derivative_raises(backend, reduction):
    case = problem(7, bias=False, dtype=torch.float32)
    loss = linear_cross_entropy(**case, reduction=reduction, backend=backend).sum()
    (gradient,) = torch.autograd.grad(loss, case["input"], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.sum().backward()


@pytest.mark.parametrize("backend", available_backends("linear_cross_entropy", "cpu"))
def test_what_is_kept_for_backward_grows_with_tokens_plus_vocabulary(backend):
    tokens, vocabulary, width, kept = 1024, 2000, 8, []
    hidden, weight = torch.randn(tokens, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        loss = linear_cross_entropy(hidden, weight, torch.arange(tokens), backend=backend)
    loss.backward()
    assert hidden.grad.abs().sum() > 0
    assert 0 < sum(kept) < 4 * (tokens + vocabulary) * width  # all probabilities are 2,048,000 numbers


def test_a_forward_derivative_is_refused():
    x, weight, target = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 4, 2])
    with pytest.raises(ValueError, match=r"linear_cross_entropy: no forward-mode derivative, .* F.cross_entropy"):
        torch.func.jvp(lambda x: linear_cross_entropy(x, weight, target), (x,), (torch.ones_like(x),))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_tokens_cost_nothing(reduction):
    """What they hold has no influence either, NaN included."""
    case = problem(20, bias=False)
    kept = case["target"] != -100
    case["input"] = case["input"].detach().masked_fill(~kept[:, None], torch.nan).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        loss = linear_cross_entropy(**case, reduction=reduction)
        forward = counter.get_total_flops()
    assert forward == (1 if reduction == "none" else 3) * 2 * int(kept.sum()) * WIDTH * VOCABULARY
    assert loss.isfinite().all()
    gradient, of_weight = torch.autograd.grad(loss.sum(), [case["input"], case["weight"]])
    assert torch.equal(gradient.abs().sum(1) > 0, kept)
    assert of_weight.isfinite().all()


def test_all_ignored():
    case = problem(4, bias=True)
    case["target"][:] = -100
    assert linear_cross_entropy(**case, reduction="sum").item() == 0.0
    mean = linear_cross_entropy(**case)
    assert mean.isnan()  # 0 / 0, as in PyTorch
    for gradient in torch.autograd.grad(mean, [case[name] for name in ("input", "weight", "bias")]):
        assert not gradient.any()  # and no NaN, as in PyTorch


def test_no_tokens():
    case = problem(4, bias=True)
    case["input"], case["target"] = case["input"][:0], case["target"][:0]
    loss = linear_cross_entropy(**case, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, case["weight"])
    assert loss.item() == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_large_and_small_inputs_are_finite(scale):
    case = problem(70, bias=False, dtype=torch.float32)
    loss = linear_cross_entropy(case["input"] * scale, case["weight"], case["target"])
    gradients = torch.autograd.grad(loss, [case["input"], case["weight"]])
    assert all(tensor.isfinite().all() for tensor in (loss, *gradients))


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_opcheck(transposed, extra):
    case = problem(9, bias=True)
    if transposed:  # gradients come contiguous all the same
        for name in ("input", "weight"):
            case[name] = case[name].detach().t().contiguous().t().requires_grad_()
    log_extra = torch.linspace(-6, 1, 9, dtype=torch.float64).requires_grad_() if extra else None
    tensors = (case["input"], case["weight"], case["target"], case["bias"], log_extra)
    arguments = (*tensors, -100, 0.0 if extra else 0.1, torch.float64, "chunked")
    torch.library.opcheck(torch.ops.resnet_bk.linear_cross_entropy_sum.default, (*arguments, True, True))
    case["weight"].requires_grad_(False)
    case["bias"].requires_grad_(False)
    torch.library.opcheck(torch.ops.resnet_bk.linear_cross_entropy_sum.default, (*arguments, True, False))
    torch.library.opcheck(torch.ops.resnet_bk.linear_cross_entropy_tokens.default, arguments)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra"])
def test_a_graph_leaves_out_what_is_ignored(reduction, extra):
    """Without a break; and what is ignored lies between what is not."""
    case, definition = problem(9, bias=True), with_extra if extra else unfused
    if extra:
        case["log_extra"] = torch.linspace(-6, 1, 9, dtype=torch.float64).requires_grad_()
    leaves = [x for x in case.values() if x.requires_grad]
    cotangent = torch.linspace(0.5, 2.0, 9, dtype=torch.float64) if reduction == "none" else torch.tensor(1.7)
    results = []
    for function in (torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager"), definition):
        loss = function(**case, reduction=reduction)
        results.append((loss, *torch.autograd.grad((loss * cotangent).sum(), leaves)))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


INVALID = [
    ({"input": [[1.0]]}, "input must be a tensor, but got list; wrap it"),
    ({"target": None}, "target must be a tensor, but got NoneType; wrap it"),
    ({"input": torch.zeros(4, WIDTH, dtype=torch.int64)}, "floating point.*int64"),
    ({"input": torch.zeros(4, WIDTH, dtype=torch.float32)}, "both be float64"),
    ({"weight": torch.zeros(VOCABULARY, WIDTH + 1, dtype=torch.float64)}, r"weight must be \[V, D\].*\(53, 13\)"),
    ({"weight": torch.zeros(0, WIDTH, dtype=torch.float64)}, r"at least one word and one column.*\(0, 12\)"),
    (
        {"input": torch.zeros(4, 0, dtype=torch.float64), "weight": torch.zeros(53, 0, dtype=torch.float64)},
        r"at least one word and one column.*\(53, 0\)",
    ),
    ({"target": torch.zeros(5, dtype=torch.int64)}, r"target must have the shape.*\(4,\).*\(5,\)"),
    ({"target": torch.zeros(4, dtype=torch.int32)}, "int64.*int32"),
    ({"target": torch.tensor([0, 1, VOCABULARY, 2])}, r"\[0, 53\).*got 53"),
    ({"target": torch.tensor([0, -1, 2, 2])}, "got -1"),
    ({"bias": torch.zeros(2, dtype=torch.float64)}, r"bias must be.*\(53,\).*\(2,\)"),
    ({"bias": torch.zeros(VOCABULARY, dtype=torch.float64, device="meta")}, "share a device.*meta"),
    ({"log_extra": torch.zeros(5, dtype=torch.float64)}, r"log_extra must be.*\(4,\).*\(5,\)"),
    ({"log_extra": torch.zeros(4), "label_smoothing": 0.1}, "label_smoothing must be 0 where log_extra.*0.1"),
    ({"bias": torch.zeros(53, dtype=torch.int64)}, r"bias must be floating point.*torch.int64 \(53,\)"),
    ({"log_extra": torch.zeros(4, dtype=torch.int64)}, r"log_extra must be floating point.*torch.int64 \(4,\)"),
    ({"label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\].*1.5"),
    ({"label_smoothing": "a"}, r"label_smoothing must lie in \[0, 1\], but got 'a'; 0 turns it off"),
    ({"reduction": "median"}, "reduction must be one of mean, sum, none.*'median'"),
    ({"backend": "cuda"}, "backend must be 'auto' or one of .*chunked for linear_cross_entropy on cpu.*'cuda'"),
    ({"backend": "triton"}, "backend must be 'auto' or one of .*chunked for .* on cpu, but got 'triton'; 'auto' takes"),
]


@pytest.mark.parametrize(("change", "message"), INVALID)
def test_invalid_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**(problem(4, bias=True) | change))


def test_shapes_without_values():
    """Nothing runs, and values are not looked at: a target that is no word is not refused."""
    case = problem(5, bias=True, dtype=torch.bfloat16)
    for reduction in ("mean", "none"):
        real = linear_cross_entropy(**case, reduction=reduction)
        plain = {name: x.detach() for name, x in case.items()}
        with FakeTensorMode() as mode:
            fake = {name: mode.from_tensor(x) for name, x in plain.items()}
            found = linear_cross_entropy(**fake, reduction=reduction)
        assert (found.shape, found.dtype) == (real.shape, real.dtype)


def test_the_fake_gradients_without_a_bias_are_those_of_the_real_function():
    case = problem(5, bias=False, dtype=torch.bfloat16)
    arguments = [torch.ones(5), case["input"].detach(), case["weight"].detach(), case["target"], None, None]
    arguments += [-100, 0.0, torch.bfloat16, "chunked"]
    backward = torch.ops.resnet_bk.linear_cross_entropy_tokens_backward
    for with_parameters in (True, False):
        torch.library.opcheck(backward, [*arguments, with_parameters], test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("backend", available_backends("linear_cross_entropy", "cpu"))
@pytest.mark.parametrize("matmul_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_frozen_head_costs_no_gradient_of_its_own(backend, matmul_dtype, smoothing):
    """As with adapters: what flows into the body is the same, bit for bit, and [V, D] is not held."""
    if backend == "numba" and matmul_dtype == torch.bfloat16 and not cpu_has("avx512bf16"):
        pytest.skip("needs AVX512-BF16")
    case = problem(70, bias=True, dtype=torch.float32)
    tensors = [case[name] for name in ("input", "weight", "target", "bias")]
    tensors += [None, -100, smoothing, matmul_dtype, backend]
    whole = torch.ops.resnet_bk.linear_cross_entropy_sum(*tensors, True, True)
    frozen = torch.ops.resnet_bk.linear_cross_entropy_sum(*tensors, True, False)
    assert torch.equal(frozen[0], whole[0])
    assert torch.equal(frozen[1], whole[1])
    assert [gradient.numel() for gradient in frozen[2:4]] == [0, 0]
    for reduction in ("mean", "none"):
        with torch.autocast("cpu", matmul_dtype, enabled=matmul_dtype != torch.float32):
            gradients = []
            for needed in (True, False):
                head = [case[name].detach().requires_grad_(needed) for name in ("weight", "bias")]
                arguments = {"label_smoothing": smoothing, "reduction": reduction, "backend": backend}
                loss = linear_cross_entropy(case["input"], head[0], case["target"], head[1], **arguments)
                gradients.append(torch.autograd.grad(loss.sum(), case["input"])[0])
        assert torch.equal(*gradients)


@pytest.mark.parametrize("alone", ["input", "weight", "bias", "log_extra"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_gradient_of_one_alone_is_that_among_all(alone, reduction):
    case = problem(9, bias=True) | {"log_extra": torch.linspace(-6, 1, 9, dtype=torch.float64).requires_grad_()}
    expected = torch.autograd.grad(linear_cross_entropy(**case, reduction=reduction).sum(), case[alone])[0]
    single = {
        name: x.detach().requires_grad_(name == alone) if x.is_floating_point() else x for name, x in case.items()
    }
    loss = linear_cross_entropy(**single, reduction=reduction).sum()
    loss.backward()
    torch.testing.assert_close(single[alone].grad, expected, rtol=0, atol=0)
    assert all(x.grad is None for name, x in single.items() if name != alone)


def test_where_nothing_is_predicted_labels_are_spread():
    target = torch.tensor([-100, -100, 2, -100, -100, 0, -100])
    assert spread_labels(target, target != -100, 3).tolist() == [0, 1, 2, 0, 1, 0, 0]
