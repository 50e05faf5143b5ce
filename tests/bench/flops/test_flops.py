"""Operations of a step against counts made by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import AutoModelForCausalLM, GPT2Config

from resnet_bk.bench.flops.count import FORMULAS, step_flops
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM
from resnet_bk.training.optimizer import muon_flops

D, T, V, HEADS, INNER = 16, 12, 50, 2, 24


def gpt2(dtype=torch.float32):
    config = GPT2Config(vocab_size=V, n_positions=T, n_embd=D, n_layer=1, n_head=HEADS, n_inner=INNER)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def test_gpt2_by_hand():
    model = gpt2()
    found = step_flops(model, batch_size=3, sequence_length=T)
    projections = D * 3 * D + D * D + 2 * D * INNER  # query, key, value; output; feed-forward
    attention = 2 * T * D  # scores and weighted sum, over all T keys
    forward = 2 * 3 * T * (projections + attention + D * V)
    assert found.forward_flops == forward
    assert found.backward_flops == 2 * forward  # a gradient of each operand
    assert found.optimizer_flops == 15 * sum(parameter.numel() for parameter in model.parameters())
    assert found.total_flops_per_step == 3 * forward + found.optimizer_flops
    assert found.as_dict()["total_flops_per_step"] == found.total_flops_per_step


def test_muon_costs_its_iteration():
    adam, muon = (step_flops(gpt2(), 1, T, optimizer=kind).optimizer_flops for kind in ("adamw", "muon"))
    shapes = ((D, 3 * D), (D, D), (D, INNER), (INNER, D))
    assert muon > adam
    assert muon - adam == sum(muon_flops(torch.nn.Linear(*shape), "muon") for shape in shapes)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_by_hand(groups):
    """Forward and either gradient multiply every weight with every place; a filter a channel is no square of them."""
    convolution = torch.nn.Conv1d(8, 8, 4, groups=groups, bias=False)
    x = torch.randn(3, 8, 20, requires_grad=True)
    multiplied = 3 * 17 * (8 * 8 // groups) * 4
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as forward:
        y = convolution(x)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 2 * multiplied
    assert backward.get_total_flops() == 2 * 2 * multiplied


def test_the_short_convolution_costs_next_to_nothing():
    with_it, without = (
        step_flops(ResNetBKForCausalLM(ResNetBKConfig(vocab_size=V, hidden_size=D, conv_size=size)), 2, T)
        for size in (4, 0)
    )
    taps = 2 * 2 * T * 4 * (3 * D) * ResNetBKConfig().num_hidden_layers
    assert with_it.forward_flops - without.forward_flops == pytest.approx(taps, rel=0.3)  # places beyond the ends
    assert with_it.backward_flops - without.backward_flops == pytest.approx(2 * taps, rel=0.3)


def test_linear_in_the_rows_and_leaves_no_gradients():
    config = ResNetBKConfig(vocab_size=V, hidden_size=D, num_hidden_layers=1, num_heads=HEADS)
    model = ResNetBKForCausalLM(config)
    one, five = step_flops(model, 1, T), step_flops(model, 5, T)
    assert five.forward_flops == 5 * one.forward_flops > 5 * 2 * T * D * V
    assert five.backward_flops == 5 * one.backward_flops > five.forward_flops
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_operator_has_its_formula():
    """One without would count as nothing."""
    named = [name for name in dir(torch.ops.resnet_bk) if name != "name" and not name.startswith("_")]
    without = {name for name in named if getattr(torch.ops.resnet_bk, name) not in flop_registry}
    # Norms, and products with one number, which PyTorch's own do not count either.
    assert without == {"gated_norm", "gated_norm_backward", "unit_query_key", "unit_query_key_backward", "scale"}
