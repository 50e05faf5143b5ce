"""AdamW and its schedule."""

import math

import pytest
import torch

from resnet_bk.training.optimizer import build_optimizer, build_schedule
from resnet_bk.training.spec import RunSpec
from tests.training.tiny import tiny_gpt2


def test_only_matrices_are_decayed():
    model = tiny_gpt2()
    matrices, others = build_optimizer(model, RunSpec("x", 1, 1e-3, weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {parameter.ndim for parameter in matrices["params"]} == {2}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert sum(len(group["params"]) for group in (matrices, others)) == len(list(model.parameters()))


def test_a_parameter_may_refuse_decay():
    model = torch.nn.Linear(3, 3, bias=False)
    model.weight._no_weight_decay = True
    (group,) = build_optimizer(model, RunSpec("x", 1, 1e-3, weight_decay=0.3)).param_groups
    assert group["weight_decay"] == 0.0


def test_warm_up_then_cosine_to_the_final_ratio():
    spec = RunSpec("x", steps=10, learning_rate=2.0, warmup_steps=4, final_lr_ratio=0.1)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), spec)
    schedule = build_schedule(optimizer, spec)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    cosine = [0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(1, 7)]
    assert rates[4:] == pytest.approx(cosine)
    assert rates[-1] == pytest.approx(0.2)
