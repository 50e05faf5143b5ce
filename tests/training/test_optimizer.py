"""The optimizers and their schedule."""

import math

import pytest
import torch

from resnet_bk.training.optimizer import build_optimizer, build_schedule, muon_flops
from resnet_bk.training.spec import RunSpec
from tests.training.tiny import tiny_gpt2, tiny_resnet_bk


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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("build", [tiny_gpt2, tiny_resnet_bk])
def test_the_table_of_embeddings_has_a_rate_of_its_own(build, optimizer):
    model = build()
    spec = RunSpec("x", 10, 1e-2, optimizer=optimizer, weight_decay=0.3, embedding_rate=4.0, warmup_steps=2)
    found = build_optimizer(model, spec)
    build_schedule(found, spec)
    *others, own = found.param_groups
    assert [id(parameter) for parameter in own["params"]] == [id(model.get_input_embeddings().weight)]
    assert (own["lr"], own["weight_decay"]) == (pytest.approx(4 * others[0]["lr"]), pytest.approx(0.3 / 4))
    assert {group["lr"] for group in others} == {5e-3}  # the first of two steps of warm-up
    assert sum(len(group["params"]) for group in found.param_groups) == len(list(model.parameters()))


def test_a_table_of_embeddings_that_refuses_decay_keeps_its_rate():
    model = tiny_gpt2()
    model.get_input_embeddings().weight._no_weight_decay = True
    own = build_optimizer(model, RunSpec("x", 1, 1e-2, weight_decay=0.3, embedding_rate=4.0)).param_groups[-1]
    assert (own["lr"], own["weight_decay"]) == (4e-2, 0.0)


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_learned_faster_are_smaller_ones_multiplied(tied):
    """AdamW does not see the size of a gradient: a table that is 4 times as large and learned 4 times as fast gives
    what one gives whose vectors are multiplied by 4, but for a head that shares it."""
    losses = []
    for multiplier, rate in ((4.0, 1.0), (1.0, 4.0)):
        model = tiny_resnet_bk(embedding_multiplier=multiplier, tie_word_embeddings=tied).double()
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(rate)
        optimizer = build_optimizer(model, RunSpec("x", 5, 1e-2, weight_decay=0.3, embedding_rate=rate))
        ids = torch.randint(50, (4, 8), generator=torch.Generator().manual_seed(1))
        losses.append([])
        for _ in range(5):
            loss = model(input_ids=ids, labels=ids).loss
            losses[-1].append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (losses[0] == pytest.approx(losses[1], rel=1e-4)) is not tied


class WithoutTable(torch.nn.Linear):
    def get_input_embeddings(self):
        raise NotImplementedError


def test_a_rate_of_embeddings_that_there_are_not():
    frozen = tiny_gpt2()
    frozen.get_input_embeddings().requires_grad_(False)
    for model in (torch.nn.Linear(3, 3), WithoutTable(3, 3), frozen):
        with pytest.raises(ValueError, match=r"^embedding_rate=2.0: .* has no trained table of .*; set it to 1$"):
            build_optimizer(model, RunSpec("x", 1, 1e-3, embedding_rate=2.0))


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_resnet_bk])
def test_muon_takes_the_weights_of_linear_maps_alone(build):
    model = build()
    optimizer = build_optimizer(model, RunSpec("x", 1, 1e-3, optimizer="muon", weight_decay=0.3))
    muon, *rest = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken = {names[id(parameter)] for parameter in muon["params"]}
    assert muon["weight_decay"] == 0.3
    assert taken
    assert all(name.endswith("weight") and (".layers." in name or ".h." in name) for name in taken)
    assert not any(
        word in name for name in taken for word in ("embed", "wte", "lm_head", "norm", "ln_", "chain", "conv.")
    )
    others = [parameter for group in rest for parameter in group["params"]]
    assert len(taken) + len(others) == len(list(model.parameters()))
    # Orthogonal steps of the size of AdamW's: about 0.2 a weight, root mean square, before the rate.
    before = {id(parameter): parameter.detach().clone() for parameter in model.parameters()}
    ids = torch.randint(50, (4, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    optimizer.step()
    for parameter in muon["params"]:
        moved = (parameter - before[id(parameter)]).square().mean().sqrt() / 1e-3
        assert 0.1 < moved < 0.3, names[id(parameter)]


def test_muon_leaves_the_gates_of_the_pointer():
    model = tiny_resnet_bk(pointer_heads=2)
    muon, *_ = build_optimizer(model, RunSpec("x", 1, 1e-3, optimizer="muon")).param_groups
    taken = {id(parameter) for parameter in muon["params"]}
    assert id(model.pointer.key.weight) in taken
    assert id(model.pointer.gates.weight) not in taken


def test_several_optimizers_are_saved_loaded_and_scheduled_as_one():
    torch.manual_seed(0)
    spec = RunSpec("x", steps=6, learning_rate=0.1, optimizer="muon", warmup_steps=2)
    results = []
    for stops in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        optimizer = build_optimizer(model, spec)
        schedule = build_schedule(optimizer, spec)
        for step in range(6):
            if stops and step == 3:
                saved = optimizer.state_dict(), schedule.state_dict()
                optimizer = build_optimizer(model, spec)
                schedule = build_schedule(optimizer, spec)
                optimizer.load_state_dict(saved[0])
                schedule.load_state_dict(saved[1])
            model(torch.ones(2, 4) * step).square().sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            assert len({group["lr"] for group in optimizer.param_groups}) == 1
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))
    with pytest.raises(ValueError, match=r"closure=.*cannot share one"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_betas_reach_adamw(kind):
    found = build_optimizer(tiny_resnet_bk(), RunSpec("x", 1, 1e-3, optimizer=kind, betas=(0.5, 0.6)))
    assert {group["betas"] for group in found.param_groups if "betas" in group} == {(0.5, 0.6)}


def test_flops_of_the_newton_schulz_iteration():
    def iteration(small, large):
        """5 times: X X^T (3 x 7 by 7 x 3), a 3 x 3 square, 3 x 3 by 3 x 7; two operations a multiply-add."""
        return 5 * 2 * (small * large * small + small**3 + small * small * large)

    flat, tall = torch.nn.Linear(3, 7), torch.nn.Linear(7, 3)
    assert muon_flops(flat, "muon") == muon_flops(tall, "muon") == iteration(3, 7)
    assert muon_flops(flat, "adamw") == 0
    flat.output_parts = (2, 5)
    assert muon_flops(flat, "muon-parts") == iteration(2, 3) + iteration(3, 5)


def test_warm_up_then_cosine_to_the_final_ratio():
    spec = RunSpec("x", steps=10, learning_rate=2.0, warmup_steps=4, final_lr_ratio=0.3)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), spec)
    schedule = build_schedule(optimizer, spec)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    cosine = [0.6 + 1.4 * 0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(1, 7)]
    assert rates[4:] == pytest.approx(cosine)
    assert rates[-1] == pytest.approx(0.6)
