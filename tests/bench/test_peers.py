"""Models of equal size from the names in a protocol."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from resnet_bk.bench.peers import build_model, is_causal_lm, resolve_configs
from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.sizing import count_config, count_parameters
from tests.bench.own_model import OwnConfig, OwnForCausalLM, RecurrentConfig

SPECIAL = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
BASE = {"name": "p", "dataset": "x", "learning_rates": [1e-3], "vocab_size": 500, "sequence_length": 32}


def configs(models, **settings):
    protocol = check_protocol(BASE | settings | {"models": models}, "p")
    return resolve_configs(protocol, protocol.vocab_size, SPECIAL)


def test_parameters_with_and_without_embeddings():
    config = GPT2Config(
        vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2, n_inner=24, tie_word_embeddings=False
    )
    count = count_parameters(AutoModelForCausalLM.from_config(config))
    layer = 2 * 2 * 16 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 24 + 24) + (24 * 16 + 16)
    assert count.without_embeddings == 2 * layer + 2 * 16
    assert count.total == count.without_embeddings + 50 * 16 + 12 * 16 + 50 * 16  # words, positions, head
    assert count == count_config(config)


def test_a_tied_head_is_counted_once():
    config = GPT2Config(vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=True)
    count = count_config(config)
    assert count.total - count.without_embeddings == 50 * 16 + 12 * 16


@pytest.mark.parametrize("shape", [{}, {"hidden_size": 32, "num_layers": 2, "num_heads": 2}, {"vocab_size": 10000}])
@pytest.mark.parametrize("ours", [{}, {"state": "vector"}, {"num_experts": 4, "intermediate_size": 32}])
def test_peers_match_within_the_tolerance(shape, ours):
    settings = shape | {"sequence_length": 16}
    found = configs(
        {"resnet-bk": {"config": ours}, "gpt2": {}, "llama": {}, "mamba2": {}, "gated-deltanet": {}, "kimi-delta": {}},
        **settings,
    )
    reference = count_config(found["resnet-bk"])
    for name in ("gpt2", "llama", "mamba2", "gated-deltanet", "kimi-delta"):
        assert count_config(found[name]).deviation(reference) <= 0.02, name


@pytest.mark.parametrize("tied", [True, False])
def test_a_size_that_the_protocol_names(tied):
    """Then no model moves the size of another."""
    models = {"resnet-bk": {}, "gpt2": {}, "llama": {}, "mamba2": {}}
    settings = {"sequence_length": 16, "tie_word_embeddings": tied}
    of_the_first = configs(models, **settings)
    size = count_config(of_the_first["resnet-bk"]).without_embeddings
    named = configs(models, parameters_without_embeddings=size, **settings)
    assert {name: found.to_dict() for name, found in named.items()} == {
        name: found.to_dict() for name, found in of_the_first.items()
    }
    twice = configs(models, parameters_without_embeddings=2 * size, **settings)
    for name, config in twice.items():
        assert count_config(config).without_embeddings == pytest.approx(2 * size, rel=0.02), name
    wider = configs(
        models | {"resnet-bk": {"config": {"value_dim": 48}}}, parameters_without_embeddings=size, **settings
    )
    assert wider["resnet-bk"].intermediate_size < named["resnet-bk"].intermediate_size
    assert wider["gpt2"].to_dict() == named["gpt2"].to_dict()


def test_the_first_model_may_be_solved_for_where_the_protocol_names_the_size():
    found = configs({"own": {"transformers": "opt", "size_by": "ffn_dim"}}, parameters_without_embeddings=200_000)
    assert count_config(found["own"]).without_embeddings == pytest.approx(200_000, rel=0.02)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            {"resnet-bk": {"config": {"intermediate_size": 10}}, "gpt2": {}},
            r"models.resnet-bk: [\d,]+ .* do not match the 232,000 \(200,000 without embeddings\) of "
            r"parameters_without_embeddings=200000 within .*; its config gives the size: set "
            r"parameters_without_embeddings=null for the size of resnet-bk, change the shape",
        ),
        (
            {"resnet-bk-seed": {}, "gpt2": {"match_parameters": False}},
            r"parameters_without_embeddings=200000: not read where no model is sized; set it to null",
        ),
    ],
)
def test_a_named_size_that_does_not_fit(models, message):
    with pytest.raises(ValueError, match=rf"^protocol p: {message}"):
        configs(models, parameters_without_embeddings=200_000, tie_word_embeddings=True)


def test_models_that_nobody_asked_for_are_not_looked_at():
    entries = {"resnet-bk": {}, "gpt2": {}, "llama": {"config": {"n_inner": 2}}}
    protocol = check_protocol(BASE | {"models": entries, "sequence_length": 4096, "vocab_size": 40}, "p")
    for names, wrong in ((None, ["gpt2", "llama"]), (["gpt2"], ["gpt2"]), (["llama"], ["llama"])):
        with pytest.raises(ValueError, match="protocol p: ") as caught:
            resolve_configs(protocol, 40, SPECIAL, names)
        assert [name for name in entries if f"models.{name}: " in str(caught.value)] == wrong
        way_out = "or take the model out with --set models.gpt2=null"
        assert (way_out in str(caught.value)) is ("gpt2" in wrong)
    assert list(resolve_configs(protocol, 40, SPECIAL, ["resnet-bk"])) == ["resnet-bk"]


def test_the_first_model_is_not_looked_at_where_it_gives_nobody_the_size():
    entries = {"llama": {"config": {"n_inner": 2}}, "gpt2": {"match_parameters": False}, "resnet-bk": {}}
    protocol = check_protocol(BASE | {"models": entries, "vocab_size": 40}, "p")
    assert list(resolve_configs(protocol, 40, SPECIAL, ["gpt2"])) == ["gpt2"]
    with pytest.raises(ValueError, match=r"models.llama: .*n_inner"):
        resolve_configs(protocol, 40, SPECIAL, ["resnet-bk"])


@pytest.mark.parametrize("field", ["vocab_size", "pad_token_id", "eos_token_id"])
def test_what_the_tokenizer_says_is_no_field_of_a_model(field):
    message = rf"models.llama: config.{field}=7: is what the tokenizer has, in all models; leave it out"
    with pytest.raises(ValueError, match=message):
        configs({"resnet-bk": {}, "llama": {"config": {field: 7}}})
    pointer = {"transformers": "resnet_bk_pointer", "config": {"language_model": {"model_type": "llama", field: 7}}}
    with pytest.raises(ValueError, match=f"models.both: config.{field}=7: is what the tokenizer has"):
        configs({"resnet-bk": {}, "both": pointer})


@pytest.mark.parametrize("field", ["vocab_size", "words"])
def test_a_name_of_ones_own_for_what_the_tokenizer_says(field):
    own = {"transformers": RecurrentConfig.model_type, "config": {field: 7}}
    with pytest.raises(ValueError, match=f"models.own: config.{field}=7: is what the tokenizer has"):
        configs({"resnet-bk": {}, "own": own})


def test_fields_that_a_protocol_needs_of_a_configuration_of_ones_own(monkeypatch):
    own = {"resnet-bk": {}, "own": {"transformers": RecurrentConfig.model_type}}
    message = r"models.own: the configuration of own_gru has no field {}, which the protocol sets; add it, or map it in"
    with pytest.raises(ValueError, match=message.format("tie_word_embeddings")):
        configs(own, tie_word_embeddings=True)
    monkeypatch.setattr(RecurrentConfig, "attribute_map", {})
    with pytest.raises(ValueError, match=message.format("vocab_size and no tie_word_embeddings")):
        configs(own, tie_word_embeddings=True)


def test_an_argument_without_a_default_in_a_configuration_of_ones_own(monkeypatch):
    def with_words(self, words, **further):
        self.words = words

    monkeypatch.setattr(RecurrentConfig, "__init__", with_words)
    message = r"models.own: the configuration of own_gru cannot be made without arguments \(.*'words'\); give each a"
    with pytest.raises(ValueError, match=message):
        configs({"resnet-bk": {}, "own": {"transformers": RecurrentConfig.model_type}})


def test_the_ids_of_a_pointer_are_those_of_the_tokenizer():
    config = {"language_model": {"model_type": "llama"}, "eos_token_id": 9}
    with pytest.raises(ValueError, match=r"models.both: config.eos_token_id=9: is what the tokenizer has, in all"):
        configs({"resnet-bk": {}, "both": {"transformers": "resnet_bk_pointer", "config": config}})


def test_the_shape_reaches_every_model():
    found = configs({"resnet-bk": {}, "gpt2": {}, "llama": {}}, hidden_size=32, num_layers=2, num_heads=2)
    for config in found.values():
        assert config.vocab_size == 500
        assert config.hidden_size == 32
        assert config.num_hidden_layers == 2
        assert config.tie_word_embeddings is False
        assert (config.pad_token_id, config.eos_token_id) == (2, 1)
    assert found["gpt2"].n_positions == 32
    assert (found["gpt2"].resid_pdrop, found["gpt2"].attn_pdrop, found["gpt2"].embd_pdrop) == (0.0, 0.0, 0.0)
    assert found["llama"].num_key_value_heads == 2


def test_what_follows_from_the_number_of_heads_follows_the_override():
    found = configs({"resnet-bk": {}, "llama": {"config": {"num_attention_heads": 8}}}, hidden_size=32, num_heads=2)
    assert (found["llama"].num_key_value_heads, found["llama"].head_dim) == (8, 4)
    for heads in (0, "two"):
        with pytest.raises(ValueError, match=r"models\.llama: (ZeroDivision|StrictDataclassFieldValidation)Error: "):
            configs({"resnet-bk": {}, "llama": {"config": {"num_attention_heads": heads}}})


def test_the_size_of_a_head_follows_the_width_that_a_model_is_given():
    llama = {"config": {"hidden_size": 64}, "match_parameters": False}
    found = configs({"resnet-bk": {}, "llama": llama}, hidden_size=32, num_heads=2)
    assert (found["llama"].hidden_size, found["llama"].head_dim) == (64, 32)


def test_the_model_under_a_pointer_is_shaped_and_sized():
    found = configs(
        {
            "resnet-bk": {"config": {"pointer_heads": 2}},
            "both": {
                "transformers": "resnet_bk_pointer",
                "carry_state": True,
                "config": {"language_model": {"model_type": "llama", "rms_norm_eps": 1e-5}, "pointer_heads": 2},
            },
        }
    )
    inner = found["both"].inner
    assert (inner.model_type, inner.vocab_size, inner.hidden_size, found["both"].pointer_heads) == ("llama", 500, 64, 2)
    assert count_config(found["both"]).deviation(count_config(found["resnet-bk"])) <= 0.02
    for wrong, message in (
        ({}, "config.language_model=None: must say which causal LM"),
        ({"language_model": "llama"}, "config.language_model='llama': must say which causal LM"),
        ({"language_model": {"model_type": "llama"}, "heads": 2}, "config.heads=2: resnet_bk_pointer has the fields"),
        ({"language_model": {"model_type": "llama", "n_inner": 2}}, "config.n_inner: llama has no such field"),
    ):
        with pytest.raises(ValueError, match=message):
            configs({"resnet-bk": {}, "both": {"transformers": "resnet_bk_pointer", "config": wrong}})
    given = {"language_model": {"model_type": "llama", "intermediate_size": 100}}
    entry = {"transformers": "resnet_bk_pointer", "config": given, "match_parameters": False}
    assert configs({"resnet-bk": {}, "both": entry})["both"].inner.intermediate_size == 100
    with pytest.raises(ValueError, match="parameters do not match"):  # a size that is given is not solved for
        configs({"resnet-bk": {}, "both": entry | {"match_parameters": True}})


def test_a_known_type_is_sized_under_another_name_too():
    of_type = {name: {"transformers": name} for name in ("gpt2", "mamba2")}
    found = configs({"resnet-bk": {}, "gpt2": {}, "mamba2": {}} | {f"my-{name}": of_type[name] for name in of_type})
    for name in of_type:
        assert found[f"my-{name}"].to_dict() == found[name].to_dict()


@pytest.mark.parametrize("width", [64, 128])
def test_a_size_with_which_parameters_grow_otherwise_than_linearly(width):
    own = {"transformers": RecurrentConfig.model_type}
    found = configs({"resnet-bk": {}, "own": own}, hidden_size=width, num_heads=2)
    reference, size = count_config(found["resnet-bk"]), found["own"].intermediate_size
    nearest = count_config(found["own"]).deviation(reference)
    assert nearest < 0.02
    for near in (size - 1, size + 1):
        other = RecurrentConfig(**(found["own"].to_dict() | {"intermediate_size": near}))
        assert count_config(other).deviation(reference) > nearest


def test_a_size_that_can_never_be_large_enough(monkeypatch):
    monkeypatch.setattr("resnet_bk.bench.sizing.LARGEST", 16)
    message = r"models.own: size_by=intermediate_size: the parameters do not reach .* with it; name another field"
    with pytest.raises(ValueError, match=message):
        configs({"resnet-bk": {}, "own": {"transformers": RecurrentConfig.model_type}})


def test_gated_deltanet_has_no_attention():
    found = configs({"resnet-bk": {}, "gated-deltanet": {}}, hidden_size=32, num_layers=3, num_heads=2)
    config = found["gated-deltanet"]
    assert config.layer_types == ["linear_attention"] * 3
    assert (config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim) == (2, 16, 16)
    model = build_model(config, 0)
    assert sum(type(part).__name__ == "Qwen3_5GatedDeltaNet" for part in model.modules()) == 3
    assert not any("Attention" in type(part).__name__ for part in model.modules())


def test_kimi_delta_has_neither_attention_nor_experts():
    found = configs({"resnet-bk": {}, "kimi-delta": {}}, hidden_size=32, num_layers=3, num_heads=2)
    config = found["kimi-delta"]
    assert config.mlp_layer_types == ["dense"] * 3
    assert (config.linear_num_heads, config.linear_head_dim) == (2, 16)
    kinds = [type(part).__name__ for part in build_model(config, 0).modules()]
    assert kinds.count("KimiLinearDeltaAttention") == kinds.count("KimiLinearMLP") == 3
    assert not {"KimiLinearAttention", "KimiLinearExperts"} & set(kinds)


def test_the_chunks_of_mamba2_change_its_work_and_not_its_function():
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "sequence_length": 100}
    names = {"resnet-bk": {}, "mamba2": {}}
    short = configs(names, **shape)["mamba2"]
    names["mamba2"] = {"config": {"chunk_size": 256}}
    usual = configs(names, **shape)["mamba2"]
    assert (short.chunk_size, usual.chunk_size) == (32, 256)
    words = torch.randint(0, 500, (2, 100))
    logits = []
    for config in (short, usual):
        with torch.no_grad():
            logits.append(build_model(config, 0).double().eval()(words).logits)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)  # transformers runs the scan in float32


@pytest.mark.parametrize("name", ["mamba2", "gated-deltanet", "kimi-delta", "llama", "gpt2"])
def test_peers_start_alike(name):
    """A peer that starts badly would flatter us."""
    model = build_model(configs({"resnet-bk": {}, name: {}})[name], 0)
    projections = [
        weight
        for key, weight in model.named_parameters()
        if weight.ndim == 2 and any(part in key for part in ("q_proj", "c_attn", "in_proj"))
    ]
    assert len(projections) >= 4  # one a layer or more
    for weight in (model.get_input_embeddings().weight, *projections):
        # The spread of a sample of 1,000 numbers or more is within a tenth of the spread.
        assert weight.std().item() == pytest.approx(0.02, rel=0.1 if weight.numel() < 10_000 else 0.03)


@pytest.mark.parametrize("name", ["mamba2", "gated-deltanet", "kimi-delta", "llama", "gpt2"])
def test_who_has_a_state_to_carry(name):
    entry = {name: {"carry_state": True}}
    if name in ("mamba2", "gated-deltanet", "kimi-delta"):
        assert name in configs({"resnet-bk": {}, **entry})
    else:
        with pytest.raises(ValueError, match=f"models.{name}: carry_state=true: the model has no state of constant"):
            configs({"resnet-bk": {}, **entry})


def test_any_other_model_of_transformers():
    entry = {"transformers": "gpt_neox", "config": {"hidden_act": "relu"}}
    found = configs({"resnet-bk": {}, "neox": entry})
    assert found["neox"].model_type == "gpt_neox"
    assert count_config(found["neox"]).deviation(count_config(found["resnet-bk"])) <= 0.02


def test_a_model_of_ones_own():
    assert not is_causal_lm("nobodys_llama")
    assert is_causal_lm(OwnConfig.model_type)
    found = configs({"resnet-bk": {}, "own": {"transformers": OwnConfig.model_type}})
    assert type(build_model(found["own"], 0)) is OwnForCausalLM
    assert count_config(found["own"]).deviation(count_config(found["resnet-bk"])) <= 0.02
    # Whether it carries a state is tried out where it is trained.
    assert configs({"resnet-bk": {}, "own": {"transformers": OwnConfig.model_type, "carry_state": True}})


def test_experts_get_sizes_that_grouped_matmuls_take():
    entry = {"transformers": "mixtral", "config": {"num_local_experts": 2}, "match_parameters": True}
    found = configs({"resnet-bk": {}, "mixtral": entry}, parameter_tolerance=0.1)
    assert found["mixtral"].intermediate_size % 8 == 0


def test_the_same_seed_gives_the_same_weights():
    config = configs({"resnet-bk": {}})["resnet-bk"]
    first, again, other = build_model(config, 1), build_model(config, 1), build_model(config, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_size_that_is_given_is_checked():
    models = {"resnet-bk": {}, "llama": {"config": {"intermediate_size": 8}}}
    with pytest.raises(ValueError, match=r"models.llama: [\d,]+ \([\d,]+ without embeddings\) parameters do not match"):
        configs(models)
    models["llama"]["match_parameters"] = False
    assert configs(models)["llama"].intermediate_size == 8


def test_a_size_that_cannot_be_reached():
    # A vocabulary of few words: the learned positions of GPT-2 alone are more than 2%.
    with pytest.raises(ValueError, match=r"models.gpt2: .*no n_inner fits.*raise the tolerance"):
        configs({"resnet-bk": {}, "gpt2": {}}, vocab_size=4, sequence_length=1000)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"resnet-bk": {}, "gtp2": {}}, r"models.gtp2: unknown model \(did you mean gpt2\?\)"),
        (
            {"resnet-bk": {}, "x": {"transformers": "lama"}},
            r"'lama': no causal LM.*did you mean llama\?\); one of your own",
        ),
        ({"resnet-bk": {}, "gpt2": {"config": {"n_layr": 1}}}, r"config.n_layr: gpt2 has no such field.*n_layer"),
        ({"resnet-bk": {"config": {"conv_size": -1}}}, r"models.resnet-bk: .*conv_size=-1"),
        ({"resnet-bk": {}, "gpt2": {"carry_state": True}}, r"models.gpt2: carry_state=true: the model has no state"),
        ({"resnet-bk": {"size_by": "intermediate_size"}}, r"size_by='intermediate_size': the first model is the one"),
        (
            {"resnet-bk": {}, "llama": {"size_by": "intermediate_size", "match_parameters": False}},
            r"size_by='intermediate_size': with match_parameters=false nothing is solved for; leave size_by out",
        ),
        (
            {"resnet-bk": {}, "llama": {"size_by": "intermediate_size", "config": {"intermediate_size": 64}}},
            r"size_by='intermediate_size': its config gives intermediate_size already",
        ),
        (
            {"resnet-bk": {}, "m": {"transformers": "openai-gpt"}},
            r"parameters do not match.*no field is solved for, and size_by may name one",
        ),
        (
            {
                "resnet-bk": {},
                "p": {
                    "transformers": "resnet_bk_pointer",
                    "head": "model",
                    "config": {"language_model": {"model_type": "llama"}},
                },
            },
            r"models.p: head='model': a pointer computes its losses without logits; leave head out",
        ),
        ({"resnet-bk": {}, "gpt2": {"size_by": "n_positions"}}, r"size_by=n_positions: .* does not grow"),
        # As an encoder; transformers asserts that it is not.
        (
            {"resnet-bk": {}, "r": {"transformers": "reformer"}},
            r"models.r: AssertionError: .*\(set models.r.config to what it needs\)",
        ),
        (
            {"resnet-bk": {}, "llama": {"size_by": "max_position_embeddings"}},
            r"size_by=max_position_embeddings.*does not grow",
        ),
    ],
)
def test_what_cannot_be_built(models, message):
    with pytest.raises(ValueError, match=f"^protocol p: .*{message}"):
        configs(models)


def test_all_problems_in_one_error():
    with pytest.raises(ValueError, match=r"models.nope: unknown.*; models.gpt2: config.typo"):
        configs({"resnet-bk": {}, "nope": {}, "gpt2": {"config": {"typo": 1}}})
