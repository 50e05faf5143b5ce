"""A compiled model computes what it does uncompiled."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from resnet_bk import ops
from tests.models.configs import build, tokens

DENSE = ("matrix-conv-gate-dense-untied", "modulus-conv-silu", "matrix-bias-affine")
# The grouped matmul of experts stays outside of the graph; of the others the number of rows depends on the text.
SPLIT = ("vector-conv-gate-moe-untied", "adaptive-matrix", "sparse-matrix")


@pytest.mark.sweep
@pytest.mark.parametrize("name", [*DENSE, *SPLIT])
def test_compiled_is_the_same(name):
    # The fourth block of `adaptive-matrix` is compiled as its third.
    model = build(name, **({"num_hidden_layers": 3} if name == "adaptive-matrix" else {})).train()
    ids = tokens(2, 9)
    expected = model(ids, labels=ids).loss
    # Without a code generator, which would take a minute: the graph is captured, of a dense model in one piece.
    compiled = torch.compile(model.model, backend="eager", fullgraph=name in DENSE)
    output, targets = compiled(input_ids=ids), F.pad(ids[:, 1:], (0, 1), value=-100)
    loss = ops.linear_cross_entropy(output.last_hidden_state, model.lm_head.weight, targets)
    if name in SPLIT:
        loss = loss + output.aux_loss
    assert_close(loss, expected, rtol=1e-5, atol=0)
    named = dict(model.named_parameters())
    found, right = (torch.autograd.grad(x, list(named.values()), allow_unused=True) for x in (loss, expected))
    for parameter, gradient, other in zip(named, found, right, strict=True):
        assert_close(gradient, other, rtol=1e-4, atol=1e-6, msg=parameter)


@pytest.mark.sweep
def test_a_graph_for_every_length_trains_the_same():
    losses, gradients = [], []
    for compiled in (False, True):
        # One block: a second one would take as long again, and is in the graphs of the test below.
        model = build("modulus-as-it-is", num_hidden_layers=1).train()
        call = torch.compile(model, backend="aot_eager", dynamic=True) if compiled else model
        losses.append([])
        for length in (9, 12):
            losses[-1].append(call(tokens(2, length), targets=tokens(2, length)).loss)
            losses[-1][-1].backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    for name, expected in gradients[0].items():
        assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "blocks"), [("modulus-as-it-is", 2), ("pointer-modulus", 1)])
def test_lengths_share_a_graph(name, blocks):
    torch._dynamo.reset()  # which sizes vary is remembered by code, not by model
    model, counter = build(name, num_hidden_layers=blocks).train(), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for length in (9, 12, 15, 20):
        ids = tokens(2, length)
        compiled(ids, labels=ids)
    assert counter.frame_count == 2  # the second is of any length
