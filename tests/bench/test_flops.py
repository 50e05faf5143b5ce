"""Operations of a step against counts made by hand."""

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from resnet_bk.bench.flops import step_flops
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM

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


def test_linear_in_the_rows_and_leaves_no_gradients():
    config = ResNetBKConfig(vocab_size=V, hidden_size=D, num_hidden_layers=1, num_heads=HEADS)
    model = ResNetBKForCausalLM(config)
    one, five = step_flops(model, 1, T), step_flops(model, 5, T)
    assert five.forward_flops == 5 * one.forward_flops > 5 * 2 * T * D * V
    assert five.backward_flops == 5 * one.backward_flops > five.forward_flops
    assert all(parameter.grad is None for parameter in model.parameters())
