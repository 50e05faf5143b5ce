"""The earlier report's table of operations, to the last digit, and what stands beside it."""

import pytest
from transformers import AutoConfig

from resnet_bk.bench.flops.convention import convention_flops
from resnet_bk.bench.flops.report import comparison_table, model_flops, model_tables, protocol_steps
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import check_protocol, load_protocol
from resnet_bk.bench.resolve import protocol_config
from resnet_bk.models import ResNetBKConfig, ResNetBKForCausalLM, ResNetBKSeedConfig

B, T, D, V = 16, 128, 64, 30000
PARAMETERS, STEPS = 4_146_120, 9764
# Forward and backward of one occurrence, and how many there are.
REPORT = {
    "embedding": (131_072, 262_144, 1),
    "layer norm": (655_360, 655_360, 4),
    "gate": (1_048_576, 2_097_152, 4),
    "gate softmax": (24_576, 49_152, 4),
    "expert": (67_371_008, 134_742_016, 4),
    "BK-core": (69_632, 20_480, 4),
    "output": (524_288, 1_048_576, 4),
    "final norm": (655_360, 655_360, 1),
    "head": (7_864_320_000, 15_728_640_000, 1),
}


@pytest.fixture(scope="module")
def counted():
    protocol = load_protocol("seed")
    return model_flops(build_model(protocol_config(protocol, "resnet-bk-seed"), 0), protocol)


def test_every_row_of_the_report():
    found = convention_flops(ResNetBKSeedConfig(), PARAMETERS, B, T)
    assert {row.name: (row.forward, row.backward, row.times) for row in found.rows} == REPORT
    assert found.layer_forward_flops() == 69_693_440
    assert found.forward_flops == 8_143_880_192
    assert found.backward_flops == 16_284_008_448
    assert found.optimizer_flops == 62_191_800
    assert found.total_flops_per_step == 24_490_080_440
    assert STEPS * found.total_flops_per_step == 239_121_145_416_160


def test_backward_is_twice_forward_but_for_norms_and_the_core():
    found = convention_flops(ResNetBKSeedConfig(), PARAMETERS, B, T)
    missing = 2 * found.forward_flops - found.backward_flops
    assert missing == 3_751_936 == B * T * (5 * 5 * D + 4 * (2 * 34 - 10))


def test_shapes_enter_as_the_formulas_say():
    config = ResNetBKSeedConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_experts=8, intermediate_size=40
    )
    found = {row.name: row for row in convention_flops(config, 1000, 2, 10).rows}
    assert found["gate"].forward == 2 * 20 * 32 * 8
    assert found["gate softmax"].forward == 3 * 20 * 8
    assert found["expert"].forward == 20 * (4 * 32 * 40 + 40)
    assert found["BK-core"].times == 3
    assert found["head"].forward == 2 * 20 * 32 * 100


def test_other_models_have_no_such_count():
    for config in (ResNetBKConfig(), AutoConfig.for_model("gpt2")):
        assert convention_flops(config, 1, B, T) is None


def test_both_counts_side_by_side(counted):
    assert (counted["parameters"], counted["steps"]) == (PARAMETERS, STEPS)
    convention = counted["flops_convention"]
    assert convention["total_training_flops"] == 239_121_145_416_160
    assert [row["component"] for row in convention["components"]] == list(REPORT)
    # By hand: two for each multiply-add of gate, expert, potential, output and head, and the operator's own count.
    matmuls = 4 * (D * 4 + 2 * D * 2 * D + D + 2 * D) + D * V
    operators = counted["by_operator"]
    core = operators["resnet_bk.resolvent_diagonal"]["forward_flops"]
    assert counted["forward_flops"] == 2 * B * T * matmuls + core
    assert operators["aten._grouped_mm"] == {"forward_flops": 268_435_456, "backward_flops": 536_870_912}
    core = operators["resnet_bk.resolvent_diagonal_backward"]["backward_flops"]
    assert counted["backward_flops"] == 2 * 2 * B * T * matmuls + core
    assert sum(row["forward_flops"] for row in operators.values()) == counted["forward_flops"]
    assert counted["total_training_flops"] == STEPS * counted["total_flops_per_step"]
    assert counted["total_flops_per_step"] == pytest.approx(convention["total_flops_per_step"], rel=1e-3)


def test_experts_of_resnet_bk_are_counted():
    fields = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "num_heads": 2}
    protocol = check_protocol(
        {"name": "p", "dataset": "x", "batch_size": 3, "sequence_length": 8, "models": {"a": {"learning_rate": 1.0}}},
        "p",
    )
    model = ResNetBKForCausalLM(ResNetBKConfig(num_experts=4, num_experts_per_tok=2, **fields))
    found = model_flops(model, protocol)["by_operator"]["aten._grouped_mm"]
    forward = 2 * 3 * 8 * 2 * (16 * 48 + 24 * 16)  # two experts a token
    assert found == {"forward_flops": forward, "backward_flops": 2 * forward}


def test_steps_that_a_protocol_alone_tells():
    raw = {"name": "p", "dataset": "x", "models": {"gpt2": {"learning_rate": 1.0}}}
    assert protocol_steps(check_protocol(raw, "p")) is None
    assert protocol_steps(check_protocol(raw | {"steps": 7, "data_limit": 10_000_000}, "p")) == 7
    assert protocol_steps(check_protocol(raw | {"epochs": 2, "data_limit": 10_000_000}, "p")) == STEPS


def test_tables_hold_the_numbers(counted):
    def cells(table):
        return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]

    report, operators, both = (part for part in model_tables("m", counted) if not isinstance(part, str))
    rows = {row[0]: row[1:] for row in cells(report)}
    for name, (forward, backward, times) in REPORT.items():
        assert rows[name] == [str(times), f"{times * forward:,}", f"{times * backward:,}"]
    assert rows["sum"] == ["", "8,143,880,192", "16,284,008,448"]
    assert ["sum", f"{counted['forward_flops']:,}", f"{counted['backward_flops']:,}"] in cells(operators)
    assert ["training of 9,764 steps", "239,121,145,416,160"] in [row[:2] for row in cells(both)]
    assert ["optimizer", "62,191,800", "62,191,800", "1.00000"] in cells(both)
    plain = comparison_table("t", {"m": counted, "n": counted | {"flops_convention": None, "steps": None}})
    assert [row[0] for row in cells(plain)] == ["m", "  as the report counts", "n"]
    alone = model_tables("m", counted | {"flops_convention": None, "total_training_flops": None})
    assert len(alone) == 4
    assert [row[0] for row in cells(alone[3])] == ["forward", "backward", "optimizer", "total per step"]
