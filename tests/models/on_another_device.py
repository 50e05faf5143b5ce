"""Models on a stand-in for a GPU: `test_another_device.py` runs this file in a process of its own.

What a GPU would refuse, a tensor that was left on the CPU, is refused by `tests/another_device.py` as well; and there
too plain PyTorch runs in the place of the kernels of the CPU, so that results are compared in float64.
"""

import copy

import pytest
import torch
from torch.testing import assert_close

from resnet_bk.ops import record_backends
from resnet_bk.training import RunSpec
from resnet_bk.training.loss import choose_head
from resnet_bk.training.optimizer import build_optimizer
from resnet_bk.training.step import training_step
from tests.another_device import NAME
from tests.models.configs import VOCAB_SIZE, build, tokens

THERE = torch.device(NAME)
ROUNDING = {"rtol": 1e-7, "atol": 1e-9}
# Every state, experts and the pointer; the last one has every switch.
each_kind = pytest.mark.parametrize(
    "name", ["vector-conv-gate-moe-untied", "delta-as-it-is", "pointer-modulus", "pointer-switched"]
)
LENGTH = 13


def pair(name, **fields):
    """The same model on both devices."""
    here = build(name, dtype=torch.float64, **fields)
    there = copy.deepcopy(here).to(THERE)
    there.tie_weights()  # PyTorch keeps weights tied on the way to a GPU, but not to a device of Python's
    for parameter in there.parameters():
        parameter.register_hook(torch.clone)  # two gradients may be views of one: see `tests/another_device.py`
    return here, there


def agree(here, there):
    for x, y in zip(there, here, strict=True):
        assert x.device.type == NAME
        assert_close(x.cpu(), y, **ROUNDING)


def compare(name, call, **fields):
    """Results of `call(model, to)`, where `to` brings a tensor to the model, and gradients where it leaves some."""
    here, there = pair(name, **fields)
    results = call(here, lambda x: x), call(there, lambda x: x.to(THERE))
    agree(*results)
    gradients = [[p.grad for p in model.parameters() if p.grad is not None] for model in (here, there)]
    agree(*gradients)
    return len(gradients[0])


def test_the_device_is_another():
    x, y = torch.arange(6.0).view(2, 3), torch.ones(3)
    for together in (
        lambda: x.to(THERE) + y,
        lambda: y @ x.to(THERE).T,
        lambda: torch.cat([x, x.to(THERE)]),
        lambda: x.to(THERE).index_put((torch.tensor([0]),), y),
    ):
        with pytest.raises(RuntimeError, match=r"(is|to be) on the (CPU|same device)"):
            together()
    there = x.to(THERE).requires_grad_()
    ((there @ there.T).softmax(-1)[0, 1] * 2).backward()
    here = x.clone().requires_grad_()
    ((here @ here.T).softmax(-1)[0, 1] * 2).backward()
    assert_close(there.grad.cpu(), here.grad)


@each_kind
def test_training_with_a_carried_state(name):
    def call(model, to):
        ids = to(tokens(2, LENGTH))
        first = model(ids, targets=ids, use_cache=True)
        second = model(ids, targets=ids, use_cache=True, past_key_values=first.past_key_values)
        (first.loss + second.loss).backward()
        return first.loss.detach(), second.loss.detach()

    assert compare(name, call)


@each_kind
@pytest.mark.parametrize("how", ["documents", "padding"])
def test_logits_and_gradients(name, how):
    def call(model, to):
        ids, place = to(tokens(2, LENGTH)), torch.arange(LENGTH)
        if how == "documents":
            options = {"document_ids": to((place // 5).expand(2, -1))}
        else:
            options = {"attention_mask": to((place >= torch.tensor([[0], [4]])).long())}
        output = model(ids, labels=ids, **options)
        output.loss.backward()
        return output.loss.detach(), output.logits.detach()

    assert compare(name, call)


@each_kind
def test_tokens_one_by_one(name):
    @torch.no_grad()
    def call(model, to):
        ids = to(tokens(2, LENGTH))
        output = model(ids, use_cache=True)
        results = [output.logits]
        for token in ids[:, :3].split(1, dim=1):
            output = model(token, use_cache=True, past_key_values=output.past_key_values)
            results.append(output.logits)
        return results

    compare(name, call)


@each_kind
def test_generation(name):
    def call(model, to):
        ids = to(tokens(2, 9))
        return [model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, num_beams=2)]

    compare(name, call, pad_token_id=0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_of_training(optimizer):
    """With rows that start from an empty state."""
    models = pair("pointer-modulus")
    spec = RunSpec(name="steps", steps=3, learning_rate=1e-2, optimizer=optimizer, carry_state=True)

    def train(model, to):
        steps, state, losses = build_optimizer(model, spec), None, []
        head = choose_head(model, to(tokens(2, 16)))
        for seed in range(3):
            ids = to(tokens(2, 17, seed=seed))
            if state is not None:
                state.start_anew(torch.tensor([True, False]))
            step = training_step(model, steps, (ids[:, :-1], ids[:, 1:]), head, spec, state=state)
            state = step.state
            losses.append(step.loss)
        return losses

    agree(*(train(model, to) for model, to in zip(models, (lambda x: x, lambda x: x.to(THERE)), strict=True)))
    agree(*([p.detach() for p in model.parameters()] for model in models))


def test_plain_pytorch_runs():
    _, there = pair("pointer-modulus")
    ids = torch.randint(VOCAB_SIZE, (1, 600)).to(THERE)
    with record_backends() as seen:
        there(ids[:, :40], targets=ids[:, :40])
        assert seen.pop("propagate_tokens") == {"pairs"}
        there(ids, targets=ids)
    assert seen.pop("propagate_tokens") == {"chunked"}
    assert set.union(*seen.values()) == {"chunked"}
