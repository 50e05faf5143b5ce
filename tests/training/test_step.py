"""One training step against its parts."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

from resnet_bk.training import RunSpec
from resnet_bk.training.optimizer import build_optimizer, build_schedule
from resnet_bk.training.step import training_step
from tests.training.tiny import Tokens, equal_weights, tiny_gpt2, tiny_resnet_bk


def spec(**settings) -> RunSpec:
    return RunSpec(**({"name": "tiny", "steps": 3, "learning_rate": 1e-2} | settings))


@pytest.mark.parametrize("clip", [None, 0.1])
def test_equals_its_parts(clip):
    settings = spec(clip=clip)
    model, plain = tiny_gpt2(), tiny_gpt2()
    optimizer, other = build_optimizer(model, settings), build_optimizer(plain, settings)
    schedule, _ = build_schedule(optimizer, settings), build_schedule(other, settings)  # which set the first rate
    laps, ids, targets = [], *Tokens().next_batch()
    step = training_step(model, optimizer, (ids, targets), "model", settings, schedule=schedule, lap=laps.append)
    loss = F.cross_entropy(plain(ids, use_cache=False).logits.flatten(0, 1), targets.flatten())
    loss.backward()
    norm = clip_grad_norm_(plain.parameters(), float("inf") if clip is None else clip)
    other.step()
    assert (float(step.loss), float(step.grad_norm)) == (loss.item(), norm.item())
    assert equal_weights(model, plain)
    assert not step.loss.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert schedule.get_last_lr()[0] < settings.learning_rate
    assert laps == ["forward", "backward", "clip", "optimizer"]
    assert step.state is None


def test_a_state_is_handed_on_without_a_graph():
    model, settings = tiny_resnet_bk(), spec(carry_state=True)
    optimizer, tokens = build_optimizer(model, settings), Tokens()
    first = training_step(model, optimizer, tokens.next_batch(), "fused", settings)
    length = first.state.get_seq_length()
    assert not any(part.requires_grad for part in first.state.layers[0].state.chain)
    second = training_step(model, optimizer, tokens.next_batch(), "fused", settings, state=first.state)
    assert second.state.get_seq_length() == 2 * length


def test_what_a_model_adds_to_its_loss_is_trained_and_not_reported():
    losses, norms = set(), set()
    for coefficient in (0.0, 10.0):
        torch.manual_seed(0)
        model = tiny_resnet_bk(num_experts=2, num_experts_per_tok=1, router_aux_loss_coef=coefficient)
        settings = spec(clip=None)
        step = training_step(model, build_optimizer(model, settings), Tokens().next_batch(), "fused", settings)
        losses.add(float(step.loss))
        norms.add(float(step.grad_norm))
    assert len(losses) == 1
    assert len(norms) == 2
