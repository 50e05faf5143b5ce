"""Step sizes of Gated DeltaNet at the start."""

import math

import pytest
import torch
from torch.nn.functional import softplus
from transformers import AutoConfig, AutoModelForCausalLM

from resnet_bk.bench.peers import build_model, resolve_configs
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.step_sizes import OF_THE_AUTHORS

SPECIAL = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
SHAPE = {"layer_types": ["linear_attention"] * 4, "linear_num_key_heads": 4, "linear_num_value_heads": 4}
SHAPE |= {"linear_key_head_dim": 4, "linear_value_head_dim": 4}
SHIPPED = {"transformers": "qwen3_5_text", "config": SHAPE}


def config_of(entry, name="gated-deltanet", **settings):
    shape = {"num_layers": 4, "num_heads": 4, "hidden_size": 16, "sequence_length": 16, "vocab_size": 400, **settings}
    models = {"resnet-bk": {}, name: entry}
    protocol = check_protocol({"name": "p", "dataset": "x", "learning_rates": [1e-3], "models": models, **shape}, "p")
    return resolve_configs(protocol, 400, SPECIAL)[name]


def step_sizes(model):
    found = [softplus(value.detach()) for key, value in model.named_parameters() if key.endswith("dt_bias")]
    assert len(found) == 4
    return torch.cat(found)


def test_gated_deltanet_starts_as_its_authors_have_it():
    steps = step_sizes(build_model(config_of({}, num_heads=16), 0))
    least, most = OF_THE_AUTHORS.values()
    assert ((steps > 0.999 * least) & (steps < 1.001 * most)).all()
    # Log-uniform: 64 draws lie within three standard deviations of the middle, and reach both outer fifths.
    places = (steps.log() - math.log(least)) / math.log(most / least)
    assert abs(places.mean().item() - 0.5) < 3 / math.sqrt(12 * 64)
    assert places.min() < 0.2
    assert places.max() > 0.8


def test_every_other_weight_is_that_of_transformers():
    ours, theirs = build_model(config_of({}), 0), build_model(config_of(SHIPPED, "as-shipped"), 0)
    assert (step_sizes(theirs) == softplus(torch.tensor(1.0))).all()
    theirs = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        assert name.endswith("dt_bias") != torch.equal(weight, theirs[name]), name


def test_the_range_is_a_setting_that_is_saved(tmp_path):
    config = config_of({"config": {"time_step_min": 0.25, "time_step_max": 0.25}})
    model = build_model(config, 0)
    torch.testing.assert_close(step_sizes(model), torch.full((16,), 0.25))
    model.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    torch.testing.assert_close(step_sizes(build_model(read, 1)), torch.full((16,), 0.25))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(step_sizes(loaded), step_sizes(model))


def test_the_same_seed_draws_the_same():
    config = config_of({})
    first, again, other = (step_sizes(build_model(config, seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_pointer_beside_it_changes_nothing():
    inner = {"model_type": "qwen3_5_text", **SHAPE, **OF_THE_AUTHORS}
    entry = {"transformers": "resnet_bk_pointer", "config": {"language_model": inner}}
    steps = step_sizes(build_model(config_of(entry, "deltanet-pointer"), 0))
    assert steps.max() < 0.11


@pytest.mark.parametrize(
    ("bounds", "given"),
    [
        ((0.1, 0.01), r"time_step_min=0.1, time_step_max=0.01"),
        ((0, 0.1), r"time_step_min=0, "),
        ((0.1, float("inf")), r"time_step_min=0.1, time_step_max=inf"),
        ((None, 0.1), r"time_step_min=None"),
        (("1e-3", 0.1), r"time_step_min='1e-3'"),
        ((True, 2), r"time_step_min=True"),
    ],
)
def test_step_sizes_that_cannot_be(bounds, given):
    config = dict(zip(OF_THE_AUTHORS, bounds, strict=True))
    with pytest.raises(ValueError, match=f"models.gated-deltanet: {given}.*: step sizes at the start .*; give both"):
        config_of({"config": config})


def test_one_bound_alone_is_refused_and_a_model_without_them_has_no_such_field():
    for bound in OF_THE_AUTHORS:
        entry = SHIPPED | {"config": SHAPE | {bound: 0.01}}
        with pytest.raises(ValueError, match=r"models\.own: .*None.*; give both, or neither"):
            config_of(entry, "own")
    with pytest.raises(ValueError, match=r"models\.llama: config\.time_step_min: llama has no such field"):
        config_of({"config": {"time_step_min": 0.01}}, "llama")
