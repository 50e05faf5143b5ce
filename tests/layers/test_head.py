"""The loss of a head, and its logits after a token: by an operator where it is plain, by a call where it is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close

from resnet_bk.layers import head as head_module
from resnet_bk.layers.head import MOST_ROWS, head_logits, head_loss
from resnet_bk.layers.plain import is_plain
from tests.layers.watched import each_change

WORDS = 11


class Called(nn.Linear):
    """The same map, which has to be called."""

    def forward(self, hidden):
        return super().forward(hidden)


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 8, dtype=dtype, generator=generator)
    targets = torch.randint(WORDS, (2, 7), generator=generator)
    targets[0, :3] = -100
    head = Called(8, WORDS, dtype=dtype)
    return hidden.requires_grad_(), head, targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("extra", [False, True])
def test_both_ways_agree(reduction, extra):
    hidden, head, targets = case()
    plain = nn.Linear(8, WORDS, dtype=torch.float64)
    plain.load_state_dict(head.state_dict())
    log_extra = torch.randn(2, 7, dtype=torch.float64).requires_grad_() if extra else None
    assert (is_plain(plain, nn.Linear), is_plain(head, nn.Linear)) == (True, False)
    found = []
    for layer in (plain, head):
        loss = head_loss(hidden, layer, targets, log_extra=log_extra, reduction=reduction)
        inputs = [hidden, layer.weight, layer.bias, *([log_extra] if extra else [])]
        found.append((loss, *torch.autograd.grad(loss.sum(), inputs)))
    assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


def test_mixed_precision():
    hidden, head, targets = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head_loss(hidden, head, targets)
    assert loss.dtype == torch.float32
    logits = F.linear(hidden, head.weight, head.bias).flatten(0, 1)
    assert_close(loss, F.cross_entropy(logits, targets.flatten()), rtol=2e-2, atol=0)  # bfloat16 has 3 digits


def test_what_a_plain_head_refuses_one_that_is_called_refuses():
    hidden, head, targets = case()
    with pytest.raises(ValueError, match=r"^reduction must be one of mean, sum, none, but got 'median'"):
        head_loss(hidden, head, targets, reduction="median")
    with pytest.raises(ValueError, match=rf"^target must hold indices in \[0, {WORDS}\) .*, but got {WORDS};"):
        head_loss(hidden, head, torch.full_like(targets, WORDS))


def test_a_mean_over_nothing():
    hidden, head, targets = case()
    nothing = torch.full_like(targets, -100)
    assert head_loss(hidden, head, nothing).isnan()
    assert head_loss(hidden, head, nothing, reduction="sum") == 0


def test_hooks_of_the_head_and_of_all_modules_run():
    hidden, _, targets = case()
    head, seen = nn.Linear(8, WORDS, dtype=torch.float64), []
    expected = head_loss(hidden, head, targets)
    for register in (head.register_forward_hook, register_module_forward_hook):
        handle = register(lambda module, inputs, logits: seen.append(module) or 2 * logits)
        try:
            changed = head_loss(hidden, head, targets)
        finally:
            handle.remove()
        assert seen.pop() is head
        assert not seen
        assert abs(changed - expected) > 0.01  # twice the logits


@pytest.fixture
def calls(monkeypatch):
    """As many entries as calls of `row_product`."""
    found = []
    kernel = head_module.row_product
    monkeypatch.setattr(head_module, "row_product", lambda *tensors: found.append(None) or kernel(*tensors))
    return found


def token_of(rows=2, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return torch.randn(rows, 1, 8, dtype=dtype), nn.Linear(8, WORDS, **{"bias": False, "dtype": dtype, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, MOST_ROWS])
@torch.no_grad()
def test_logits_of_a_token(rows, dtype, calls):
    hidden, head = token_of(rows, dtype)
    found = head_logits(hidden, head)
    assert calls == [None]
    assert found.dtype == dtype
    assert_close(found, head(hidden), rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_which_logits_are_of_a_call(calls):
    hidden, head = token_of()
    assert head_logits(hidden, head).requires_grad
    with torch.no_grad():
        more_rows, _ = token_of(MOST_ROWS + 1)
        half, half_head = token_of(dtype=torch.bfloat16)
        biased = nn.Linear(8, WORDS, dtype=torch.float64)
        wrapped = Called(8, WORDS, bias=False, dtype=torch.float64)
        others = [(more_rows, head), (hidden.expand(2, 3, 8), head), (half, half_head)]
        for tokens, layer in (*others, (hidden, biased), (hidden, wrapped)):
            assert torch.equal(head_logits(tokens, layer), layer(tokens))
        with torch.autocast("cpu", torch.bfloat16):
            assert head_logits(*token_of(dtype=torch.float32)).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            head_logits(hidden[..., :-1], head)
        with pytest.raises(RuntimeError):
            head_logits(hidden, head.float())
        sparse = nn.Linear(8, WORDS, bias=False, dtype=torch.float64)
        sparse.weight = nn.Parameter(sparse.weight.to_sparse())
        head_logits(hidden, sparse)
    assert not calls


@each_change
@torch.no_grad()
def test_what_runs_at_a_call_of_the_head_runs(change, calls):
    hidden, head = token_of()
    model, seen = nn.ModuleDict({"head": head}), []
    expected = head_logits(hidden, head)
    change(model, "head", seen)
    assert_close(head_logits(hidden, head), expected)
    assert (seen, calls) == (["head"], [None])


class Head(nn.Module):
    """What is exported."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, hidden):
        return head_logits(hidden, self.head)


def test_a_graph_is_of_any_number_of_rows(calls):
    hidden, head = token_of(dtype=torch.float32)
    rows = torch.export.Dim("rows", min=2, max=64)
    with torch.no_grad():
        exported = torch.export.export(Head(head), (hidden,), dynamic_shapes=({0: rows},))
        more = torch.randn(2 * MOST_ROWS, 1, 8)
        assert_close(exported.module()(more), head(more))
    assert not calls
