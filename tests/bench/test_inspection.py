"""What `inspect` says of models whose answers are known."""

import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.inspection import (
    generation_state,
    inspect_model,
    inspection_tables,
    parameters_by_part,
    sample_text,
)
from resnet_bk.bench.time_scales import time_scales
from resnet_bk.models import (
    PointerConfig,
    PointerForCausalLM,
    ResNetBKConfig,
    ResNetBKForCausalLM,
    ResNetBKSeedConfig,
    ResNetBKSeedForCausalLM,
)
from tests.bench.own_model import RecurrentConfig, RecurrentForCausalLM

WORDS = 50


def ours(**fields):
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2}
    return ResNetBKForCausalLM(ResNetBKConfig(**(shape | fields))).eval()


def seed(**fields):
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 32}
    return ResNetBKSeedForCausalLM(ResNetBKSeedConfig(**(shape | fields))).eval()


def peer(model_type, **fields):
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(shape | fields))).eval()


def periodic(model, potential, hopping, absorption):
    """All chains of the model undisturbed: the same site for every token."""
    with torch.no_grad():
        for layer in model.model.layers:
            chain = layer.mixer.chain
            chain.weight.zero_()
            values = [
                torch.tensor(value, dtype=torch.float64) for value in (hopping, absorption - chain.absorption_min)
            ]
            softplus_inverse = [torch.log(torch.expm1(value)) for value in values]
            chain.bias.copy_(torch.stack([torch.tensor(potential), *softplus_inverse]).repeat_interleave(chain.chains))
    return model


@pytest.mark.parametrize(("potential", "inside"), [(0.0, 1.0), (1.0, 1.0), (3.0, 0.0), (-5.0, 0.0)])
def test_time_scale_of_a_periodic_chain(potential, inside):
    """The decay is that of the root of b^2 L^2 - (a - i eta) L + 1 = 0 with Im L > 0."""
    hopping, absorption = 1.25, 0.3
    model = periodic(ours(), potential, hopping, absorption)
    first, second = time_scales(model, torch.zeros(2, 2000, dtype=torch.int64))
    assert (first["layer"], second["layer"]) == ("model.layers.0.mixer.chain", "model.layers.1.mixer.chain")
    d = complex(potential, -absorption)
    roots = [(d + sign * (d * d - 4 * hopping**2) ** 0.5) / (2 * hopping**2) for sign in (1, -1)]
    (green,) = [root for root in roots if abs(hopping * root) < 1]
    assert green.imag > 0
    # The first sites of 2,000 are on the way to the fixed point.
    assert first["memory"] == pytest.approx([-1 / math.log(abs(hopping * green))] * 2, rel=2e-2)
    assert first["in_band"] == [inside] * 2
    assert first["absorption"] == pytest.approx([absorption] * 3, rel=1e-4)
    assert first["energy"] == pytest.approx([potential / (2 * hopping)] * 3, abs=1e-5)
    assert not model.training


def test_memory_counts_tokens_where_a_site_is_a_group_of_them():
    models = [periodic(ours(multi_scale=scales), 1.0, 1.25, 0.3) for scales in (None, [1, 4])]
    plain, coarse = (time_scales(model, torch.zeros(1, 2000, dtype=torch.int64)) for model in models)
    assert coarse[0]["memory"] == pytest.approx(plain[0]["memory"])
    assert coarse[1]["memory"] == pytest.approx([4 * value for value in plain[1]["memory"]], rel=1e-2)


def test_time_scales_of_the_seed_and_of_others():
    found = time_scales(seed().train(), torch.arange(20)[None])
    assert [layer["layer"] for layer in found] == ["model.layers.0.chain", "model.layers.1.chain"]
    for layer in found:
        assert layer["absorption"] == [1.0] * 3
        assert -2.5 <= layer["energy"][0] <= layer["energy"][2] <= 0.5  # v - 2 over 2, v within +-3
    assert len(time_scales(ours(state="vector", state_channels=5), torch.arange(20)[None])[0]["memory"]) == 5
    assert time_scales(peer("gpt2"), torch.arange(20)[None]) == []


def test_parameters_by_part():
    model = ours()
    parts = parameters_by_part(model)
    assert sum(parts.values()) == model.num_parameters()
    assert parts["model.embed_tokens"] == parts["lm_head"] == WORDS * 16
    assert parts["model.layers.*.mixer_norm"] == 2 * 16
    assert set(parts) == {
        "model.embed_tokens",
        "model.layers.*.mixer_norm",
        "model.layers.*.mixer",
        "model.layers.*.feed_forward_norm",
        "model.layers.*.feed_forward",
        "model.norm",
        "lm_head",
    }
    assert parameters_by_part(seed())["model.layers.*.scale"] == 2


def test_state_in_generation():
    found = generation_state(ours())
    # A head: S of 8 x 8 numbers and complex L; a layer: two heads and three inputs of a convolution over 48 channels.
    heads, tail = 2 * (4 * 8 * 8 + 8), 4 * 3 * 48
    assert found == {"kind": "ResNetBKCache", "constant_bytes": 2 * (heads + tail), "bytes_per_token": 0}
    complex_heads = 2 * (8 * 8 * 8 + 8)
    assert generation_state(ours(state="matrix"))["constant_bytes"] == 2 * (complex_heads + tail)
    found = generation_state(peer("gpt2"))
    assert (found["constant_bytes"], found["bytes_per_token"]) == (0, 2 * 2 * 16 * 4)  # key and value of each layer
    assert generation_state(peer("gpt2", n_positions=3)) == found
    assert generation_state(peer("gpt2", n_positions=1)) is None
    assert generation_state(RecurrentForCausalLM(RecurrentConfig()))["constant_bytes"] == 4 * 24
    assert generation_state(seed()) is None
    assert generation_state(seed(green="surface")) is None


def test_state_of_linear_attention():
    heads = {f"linear_num_{part}_heads": 2 for part in ("key", "value")}
    sizes = {"linear_key_head_dim": 4, "linear_value_head_dim": 8}
    found = generation_state(peer("qwen3_5_text", layer_types=["linear_attention"] * 2, **heads, **sizes))
    # A layer: 4 x 8 numbers a head, and as many inputs as a filter has taps, 4, of all queries, keys and values.
    assert found["constant_bytes"] == 2 * 4 * (2 * 4 * 8 + 4 * 2 * (4 + 4 + 8))
    assert found["bytes_per_token"] == 0


def test_the_whole():
    found = inspect_model(seed())
    json.dumps(found, allow_nan=False)
    assert (found["weights"], found["causal"], found["state"]) == ("fresh", False, None)
    assert found["measured_on"] == "random words"
    assert found["parameters"] == sum(found["parameters_by_part"].values())
    assert found["config"]["green"] == "two_sided"
    lines = [part for part in inspection_tables("m", found) if isinstance(part, str)]
    assert lines[0] == "m: resnet_bk_seed, NOT causal, weights fresh"
    assert lines[-1] == "time scales on random words"
    found = inspect_model(peer("mamba2", num_heads=4, head_dim=8, state_size=8, n_groups=1))
    json.dumps(found, allow_nan=False)  # its configuration holds an infinity
    assert (found["time_scales"], found["measured_on"], found["causal"]) == ([], None, None)
    assert found["state"]["bytes_per_token"] == 0
    assert len([part for part in inspection_tables("m", found) if isinstance(part, str)]) == 3


def test_a_pointer_on_a_language_model():
    config = PointerConfig(language_model=peer("gpt2").config.to_dict(), pointer_heads=2, pointer_key_dim=2)
    found = inspect_model(PointerForCausalLM(config))
    assert [part["layer"] for part in found["time_scales"]] == ["pointer.chain"]
    assert found["state"] is None


def test_no_text_is_read_where_nothing_is_measured_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr("resnet_bk.bench.inspection.sample_text", None)
    assert inspect_model(peer("gpt2"), str(tmp_path), tmp_path)["time_scales"] == []


def test_the_mode_is_put_back():
    for model in (ours().train(), seed().train(), peer("gpt2").train()):
        generation_state(model)
        assert model.training


def test_text_that_cannot_be_read_is_said_so(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"protocol": {"name": "p"}}))
    ids, name = sample_text(seed(), tmp_path)
    assert ids.shape == (8, 32)
    assert name.startswith("random words (the text of the run cannot be read: protocol")
