"""Linear maps that are several in one, and Muon on their parts."""

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import load_protocol
from resnet_bk.bench.resolve import protocol_config
from resnet_bk.layers.feed_forward import SwiGLU
from resnet_bk.layers.induction import QueryKeyValue
from resnet_bk.layers.readout import Readout
from resnet_bk.training.joint_maps import joint_maps
from resnet_bk.training.optimizer import build_optimizer, build_schedule
from resnet_bk.training.spec import RunSpec
from tests.training.tiny import tiny_gpt2, tiny_resnet_bk

SIZES = (4, 6, 2)


class Apart(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(5, size, bias=False) for size in SIZES)
        for one, rows in zip(self.maps, weight.split(SIZES), strict=True):
            one.weight.data.copy_(rows)

    def forward(self, hidden):
        return torch.cat([one(hidden) for one in self.maps], -1)


def train(model, optimizer, steps=4):
    spec = RunSpec("x", steps=steps, learning_rate=0.1, optimizer=optimizer, weight_decay=0.3, warmup_steps=2)
    found = build_optimizer(model, spec)
    schedule = build_schedule(found, spec)
    hidden = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for step in range(steps):
        (model(hidden) - step).square().sum().backward()
        found.step()
        schedule.step()
        found.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())
    return found


def test_parts_of_a_joint_map_are_trained_as_maps_that_stand_apart():
    torch.manual_seed(0)
    joint = nn.Linear(5, sum(SIZES), bias=False)
    apart, whole = Apart(joint.weight.detach()), nn.Linear(5, sum(SIZES), bias=False)
    whole.load_state_dict(joint.state_dict())
    joint.output_parts = SIZES
    train(joint, "muon-parts")
    train(apart, "muon")
    train(whole, "muon")
    assert torch.equal(joint.weight, torch.cat([one.weight for one in apart.maps]))
    assert not torch.allclose(joint.weight, whole.weight, atol=1e-3)


def test_a_joint_map_without_a_gradient_stays():
    joint = nn.Linear(5, sum(SIZES), bias=False)
    joint.output_parts = SIZES
    before = joint.weight.detach().clone()
    found = build_optimizer(joint, RunSpec("x", 1, 0.1, optimizer="muon-parts"))
    found.step()
    assert torch.equal(joint.weight, before)


def test_a_rate_that_is_moved_moves_the_parts():
    joint = nn.Linear(5, sum(SIZES), bias=False)
    joint.output_parts = SIZES
    found = train(joint, "muon-parts")
    (group,) = found.param_groups
    assert [tuple(part.shape) for part in group["params"]] == [(size, 5) for size in SIZES]
    assert group["lr"] == pytest.approx(0.055)  # half way from 0.1 to a tenth of it


def test_the_layers_of_this_package_name_their_parts():
    (network,) = joint_maps(SwiGLU(6, 9))
    assert network.sizes == (9, 9)
    (mixer,) = joint_maps(QueryKeyValue(6, num_heads=2, key_dim=3, value_dim=5, induction_heads=1))
    assert mixer.sizes == (3, 3, 3, 3, 5, 5)
    model = tiny_resnet_bk()
    assert len(list(joint_maps(model))) == 4 * model.config.num_hidden_layers  # also what is read, and its gate
    model.requires_grad_(False)
    assert not list(joint_maps(model))


def test_what_is_read_of_complex_heads_has_their_parts():
    readout = Readout(8, 6, gate="silu", num_heads=2)
    gate, out = joint_maps(readout)
    assert (gate.weight, gate.dim, gate.sizes) == (readout.gate_proj.weight, 0, (3, 3))
    assert (out.weight, out.dim, out.sizes) == (readout.out_proj.weight, 1, (6, 6))
    first_head = torch.zeros(1, 1, 6, dtype=torch.complex64)
    first_head[..., :3] = torch.randn(3, dtype=torch.complex64)
    hidden = torch.randn(1, 1, 8)
    before = readout(first_head, hidden)
    with torch.no_grad():
        for one in (gate, out):
            one.parts(one.weight)[1].zero_()  # the second head's
    assert before.abs().amax() > 0
    assert torch.equal(readout(first_head, hidden), before)


def test_channels_with_chains_of_their_own_are_no_heads():
    assert not list(joint_maps(Readout(8, 6, gate="silu")))


def test_gpt2_has_queries_keys_and_values_in_columns():
    model = tiny_gpt2()
    width, heads = model.config.n_embd, model.config.n_head
    maps = list(joint_maps(model))
    for into, out in zip(maps[::2], maps[1::2], strict=True):
        assert (into.dim, into.sizes) == (1, (width // heads,) * 3 * heads)
        assert tuple(into.weight.shape) == (width, 3 * width)
        assert (out.dim, out.sizes, tuple(out.weight.shape)) == (0, (width // heads,) * heads, (width, width))


def test_llama_has_heads_of_queries_and_fewer_of_keys_and_values():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    found = list(joint_maps(LlamaForCausalLM(config)))
    assert [(one.dim, one.sizes) for one in found] == [(0, (4,) * 4), (0, (4,) * 2), (0, (4,) * 2), (1, (4,) * 4)]


def test_the_pointer_has_heads_too():
    model = tiny_resnet_bk(pointer_heads=2)
    sizes = {id(one.weight): one.sizes for one in joint_maps(model)}
    for kinds in (model.pointer.query, model.pointer.key):
        assert sizes[id(kinds.weight)] == (model.config.pointer_key_dim,) * 2


def test_the_parts_of_mamba2():
    config = Mamba2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_heads=4, head_dim=8, state_size=3, n_groups=1
    )
    model = Mamba2ForCausalLM(config)
    one, out = joint_maps(model)
    assert (out.dim, out.sizes) == (1, (8,) * 4)
    assert one.sizes == (*(8,) * 8, 3, 3, 4)
    assert sum(one.sizes) == one.weight.shape[0]
    mixer = model.backbone.layers[0].mixer
    with torch.no_grad():
        for gate in one.parts(one.weight)[:4]:
            gate.zero_()  # its SiLU multiplies what is read
        assert not mixer(torch.randn(1, 5, 16)).any()


@pytest.mark.parametrize("name", ["resnet-bk", "gpt2", "llama", "mamba2", "gated-deltanet", "kimi-delta"])
def test_models_of_the_protocols_have_joint_maps(name):
    shape = ("vocab_size=200", "hidden_size=32", "num_heads=2", "num_layers=2", "parameter_tolerance=0.9")
    found = list(joint_maps(build_model(protocol_config(load_protocol("quick", shape), name), 0)))
    assert len(found) >= 4
    assert all(len(one.sizes) > 1 and sum(one.sizes) == one.weight.shape[one.dim] for one in found)


def test_the_parts_of_gated_delta_net_are_in_turn_for_each_head_of_keys():
    config = Qwen3NextConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=3,
        linear_value_head_dim=5,
        num_experts=0,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = Qwen3NextForCausalLM(config)
    one, out, *_ = joint_maps(model)
    assert (out.dim, out.sizes) == (1, (5,) * 4)
    layer = model.model.layers[0].linear_attn
    rows = torch.arange(one.weight.shape[0])
    parts = one.parts(rows[:, None])
    ordered = layer.fix_query_key_value_ordering(rows[None, None], torch.zeros(1, 1, layer.in_proj_ba.out_features))
    assert one.sizes == (3, 3, 5, 5, 5, 5) * 2
    for places, found in zip(((0,), (1,), (2, 3), (4, 5)), ordered[:4], strict=True):
        of_it = [part for place, part in enumerate(parts) if place % 6 in places]
        assert torch.equal(torch.cat(of_it).flatten(), found.flatten())


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        (
            {"output_parts": (2, 2)},
            r"^output_parts=\(2, 2\) must add up to 5 in Linear\(.*; give the size of every part$",
        ),
        ({"input_parts": (2, 2)}, r"^input_parts=\(2, 2\) must add up to 3 in Linear"),
        (
            {"output_parts": (2, 3), "input_parts": (2, 1)},
            r"^Linear\(.*: has output_parts and input_parts, .* leave one",
        ),
    ],
)
def test_parts_that_do_not_fit(sizes, rule):
    layer = nn.Linear(3, 5, bias=False)
    for name, value in sizes.items():
        setattr(layer, name, value)
    with pytest.raises(ValueError, match=rule):
        build_optimizer(layer, RunSpec("x", 1, 0.1, optimizer="muon-parts"))


def test_a_model_without_a_joint_map_has_no_use_for_parts():
    with pytest.raises(
        ValueError, match=r"^optimizer=muon-parts: Linear has no joint map .* set its optimizer to muon, "
    ):
        build_optimizer(nn.Linear(3, 3), RunSpec("x", 1, 0.1, optimizer="muon-parts"))
