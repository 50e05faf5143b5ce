"""Sparse experts against a loop over tokens, and the load-balancing loss against its formula."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from resnet_bk.layers import SparseMoE, load_balancing_loss
from resnet_bk.layers.moe import expert_ends


def build(experts=5, per_token=2, dtype=torch.float32):
    torch.manual_seed(0)
    moe = SparseMoE(16, 24, experts, per_token)
    torch.nn.init.normal_(moe.router.weight, std=0.5)
    moe.reset_parameters(0.2)
    return moe.to(dtype)


def definition(moe, hidden):
    """Every token through its experts, one at a time."""
    output = torch.zeros_like(hidden)
    for row, tokens in enumerate(hidden):
        for t, token in enumerate(tokens):
            probabilities = (moe.router.weight @ token).softmax(-1)
            weights, chosen = probabilities.topk(moe.num_experts_per_tok)
            for weight, expert in zip(weights / weights.sum(), chosen, strict=True):
                gate, up = (token @ moe.gate_up_proj[expert]).chunk(2)
                output[row, t] += weight * ((F.silu(gate) * up) @ moe.down_proj[expert])
    return output


@pytest.mark.parametrize("per_token", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (2, 40)])
def test_is_its_definition(per_token, shape):
    hidden = torch.randn(*shape, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moe = build(per_token=per_token, dtype=torch.float64)
    expected = definition(moe, hidden)
    assert_close(moe(hidden)[0], expected, rtol=1e-12, atol=1e-12)
    # The grouped matmul sums 16 to 24 products of order 1 in float32.
    assert_close(build(per_token=per_token)(hidden.float())[0], expected.float(), rtol=1e-4, atol=1e-5)


def test_gradients():
    moe = build(experts=3, dtype=torch.float64)
    hidden = torch.randn(1, 4, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda hidden: moe(hidden), (hidden,))
    # Those of the grouped matmul in float32 against those of float64, for the weights too.
    gradients = []
    for dtype in (torch.float32, torch.float64):
        moe = build(dtype=dtype)
        x = hidden.detach().to(dtype).requires_grad_()
        output, aux_loss = moe(x)
        (output.square().sum() + aux_loss).backward()
        gradients.append([x.grad, *(parameter.grad for parameter in moe.parameters())])
    for single, double in zip(*gradients, strict=True):
        assert_close(single, double.float(), rtol=1e-3, atol=1e-4 * double.abs().max().item())


def test_experts_without_tokens():
    moe = build(experts=8, per_token=1)
    hidden = torch.randn(1, 2, 16)
    output, _ = moe(hidden)
    assert_close(output, definition(moe, hidden), rtol=1e-4, atol=1e-5)
    output.sum().backward()
    used = moe.down_proj.grad.flatten(1).abs().sum(1) > 0
    assert used.sum() <= 2


def test_half_precision():
    moe = build()  # seeds
    hidden = torch.randn(2, 9, 16)
    expected = moe(hidden)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, aux_loss = moe(hidden)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert torch.equal(aux_loss, moe(hidden)[1])  # it depends on the router alone, which stays in float32
    assert moe.down_proj.grad.dtype == torch.float32
    # Two matmuls of rounding 4e-3 each.
    assert (output.float() - expected).norm() < 0.03 * expected.norm()


def test_load_balancing_loss_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(40, 6, generator=generator, dtype=torch.float64).softmax(-1)
    chosen = probabilities.topk(2).indices
    share = torch.stack([(chosen == expert).double().sum() / 80 for expert in range(6)])
    expected = 6 * (share * probabilities.mean(0)).sum()
    assert_close(load_balancing_loss(probabilities, chosen), expected)
    # Padding counts for nothing.
    real = torch.tensor([1.0] * 25 + [0.0] * 15)
    assert_close(load_balancing_loss(probabilities, chosen, real), load_balancing_loss(probabilities[:25], chosen[:25]))


def test_load_balancing_loss_is_one_when_balanced_and_the_number_of_experts_when_not():
    uniform = torch.full((8, 4), 0.25)
    spread = torch.arange(8).remainder(4)[:, None]
    assert_close(load_balancing_loss(uniform, spread), torch.tensor(1.0))
    one = F.one_hot(torch.zeros(8, dtype=torch.int64), 4).float()
    assert_close(load_balancing_loss(one, torch.zeros(8, 1, dtype=torch.int64)), torch.tensor(4.0))


def test_padding_takes_no_part_in_the_loss():
    moe = build()
    hidden = torch.randn(2, 6, 16)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    real = mask.unsqueeze(-1).float()
    other = torch.where(mask.bool().unsqueeze(-1), hidden, torch.randn(2, 6, 16))
    assert_close(moe(hidden, real)[1], moe(other, real)[1])
    assert moe(hidden)[1] != moe(other)[1]


def test_where_the_slots_of_an_expert_end():
    """An expert may have none."""
    experts = torch.tensor([1, 1, 3, 3, 3])
    assert expert_ends(experts, 5).tolist() == experts.bincount(minlength=5).cumsum(0).tolist() == [0, 2, 2, 5, 5]
    assert expert_ends(experts[:0], 2).tolist() == [0, 0]
