"""The models of the earlier report in a comparison: fixed in shape, one of them leaking."""

import io
import json
import math

import pytest
from rich.console import Console

from resnet_bk.bench.peers import build_model, resolve_configs
from resnet_bk.bench.protocol import check_protocol, load_protocol
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.runner import bench
from resnet_bk.bench.sizing import count_config
from tests.bench.tiny_bench import settings, write_text

SPECIAL = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
SEEDS = ("resnet-bk-seed", "resnet-bk-seed-causal")
SEED_SIZE = 4_146_120


def configs(models, **changes):
    raw = {"name": "p", "dataset": "x", "learning_rates": [1e-3], "models": models} | changes
    protocol = check_protocol(raw, "p")
    return resolve_configs(protocol, protocol.vocab_size, SPECIAL)


def test_first_in_a_protocol_they_set_the_budget():
    models = {name: {} for name in ("resnet-bk-seed", "resnet-bk-seed-causal", "resnet-bk", "gpt2", "llama")}
    found = {name: count_config(config) for name, config in configs(models).items()}
    for name in SEEDS:
        assert found[name].total == SEED_SIZE
    for name in ("resnet-bk", "gpt2", "llama"):
        assert found[name].total <= SEED_SIZE
        assert found[name].deviation(found["resnet-bk-seed"]) <= 0.02


@pytest.mark.parametrize("name", ["seed", "seed-local"])
def test_the_shipped_protocols_keep_to_the_budget(name):
    protocol = load_protocol(name)
    assert set(SEEDS) < set(protocol.models)
    for key, config in resolve_configs(protocol, 30000, SPECIAL).items():
        assert count_config(config).total <= SEED_SIZE, key


def test_anywhere_else_they_keep_their_shape():
    found = configs({"resnet-bk": {}, **{name: {} for name in SEEDS}})
    assert [count_config(found[name]).total for name in SEEDS] == [SEED_SIZE] * 2
    assert (found[SEEDS[0]].green, found[SEEDS[1]].green) == ("two_sided", "surface")
    assert (found[SEEDS[0]].causal, found[SEEDS[1]].causal) == (False, True)
    # Vocabulary, width, layers and length come from the protocol, as for every model.
    small = configs({name: {} for name in SEEDS}, vocab_size=90, sequence_length=32, num_layers=2, hidden_size=32)
    config = small["resnet-bk-seed"]
    assert (config.vocab_size, config.max_position_embeddings, config.num_hidden_layers) == (90, 32, 2)
    assert build_model(config, 0).num_parameters() == count_config(config).total


def test_other_fields_can_be_set_but_not_what_the_name_says():
    entry = {"config": {"gradient": "diagonal", "green": "two_sided"}}
    assert configs({"resnet-bk-seed": entry})["resnet-bk-seed"].gradient == "diagonal"
    other = {"published-gradient": {"transformers": "resnet_bk_seed", "config": {"gradient": "diagonal"}}}
    assert configs(other)["published-gradient"].green == "two_sided"
    for entry, message in (
        (
            {"config": {"green": "surface"}},
            r"config.green='surface': resnet-bk-seed is the model with green='two_sided'",
        ),
        ({"size_by": "intermediate_size"}, r"size_by='intermediate_size': resnet-bk-seed has a fixed shape"),
        ({"carry_state": True}, r"carry_state=true: the model has no state of constant size"),
        ({"config": {"num_expert": 4}}, r"config.num_expert: .*did you mean num_experts"),
    ):
        with pytest.raises(ValueError, match=f"models.resnet-bk-seed: {message}"):
            configs({"resnet-bk-seed": entry})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Both after 12 steps."""
    folder = tmp_path_factory.mktemp("seed")
    text = write_text(folder / "text.txt")
    models = {name: {"learning_rate": 3e-3} for name in SEEDS}
    paper = Console(file=io.StringIO(), width=200)
    protocol = check_protocol(settings(text, models=models), "tiny")
    found = bench(protocol, folder / "out", report=False, cache_dir=folder / "cache", console=paper)
    return found, paper.file.getvalue()


def test_the_leaking_one_has_its_number_under_its_own_name(results):
    found, lines = results
    parse_results(found)
    json.dumps(found, allow_nan=False)
    seed, causal = found["runs"]
    assert (seed["audit"], causal["audit"]) == ("leaks", "causal")
    assert seed["held_out_perplexity"] is seed["bits_per_character"] is None
    assert math.isfinite(seed["leaking_perplexity"])
    assert causal["leaking_perplexity"] is None
    assert causal["held_out_perplexity"] > 1
    assert (seed["config"]["causal"], causal["config"]["causal"]) == (False, True)
    assert f"no perplexity (leaks; {seed['leaking_perplexity']:.2f} with the answer in sight)" in lines


def test_operator_and_both_counts_are_recorded(results):
    for run, operator in zip(results[0]["runs"], ("resolvent_diagonal", "surface_green"), strict=True):
        assert operator in run["backend"]
        assert run["flops_convention"]["optimizer_flops"] == run["optimizer_flops"] == 15 * run["parameters"]
        assert run["head"] == "fused"
