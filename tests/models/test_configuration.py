"""Validation of the configuration: each rule, several at once, and what may be left out."""

import ast
import re

import pytest

from resnet_bk.layers import MIXERS, get_mixer
from resnet_bk.layers.registry import unread_fields
from resnet_bk.models import ResNetBKConfig
from resnet_bk.models.switches import example
from tests.mixers import reading
from tests.models.configs import GRID

WRONG = {
    "vocab_size": [0, -1, 2.5, "many", True, None],
    "hidden_size": [0, -64, 66, 64.0],
    "num_hidden_layers": [0, "4"],
    "num_heads": [0, -1, 3],
    "state": ["tensor", None, 3, ["matrix"]],
    "key_dim": [0, -4, 1.5],
    "value_dim": [0],
    "state_channels": [0],
    "intermediate_size": [0, "wide"],
    "conv_size": [-1, 1, 2.0, None],
    "output_gate": [True, "relu"],
    "query_key_bias": [-1, float("inf"), True],
    "induction_heads": [-1, 0.5, True, 5],
    "num_experts": [-1, 1, 0.5],
    "router_aux_loss_coef": [-0.1, float("nan"), "small"],
    "potential_init": [(1.0,), 2.0, (1.2, 0.9), (0.0, float("inf")), ("a", "b")],
    "absorption_min": [0, -1.0, float("inf"), None],
    "absorption_init": [(0.5,), 0.5, (0.5, 0.1), (0.0, 1.0), (1e-4, 1.0), ("a", "b"), (0.1, float("nan"))],
    "hopping_init": [0, -1.0],
    "site_gain": [-1.0, float("inf"), "far"],
    "value_residual": [None, "on", 1],
    "sandwich_norm": [None, "on", 1],
    "embedding_multiplier": [0, -1.0, float("inf"), "root"],
    "rms_norm_eps": [0.0, -1e-6],
    "initializer_range": [0.0, -0.02, True],
    "pointer_heads": [-1, 1.5, None],
    "pointer_key_dim": [1, "16"],
    "tie_word_embeddings": ["true"],
    "backend": ["", None, 3],
    "gradient": ["exactly", None, True],
    "mixed_precision": ["fp16", None, True],
    "adaptive_computation": [None, "on", 1.5],
    "halting_threshold": [0, 1.01, None, float("nan")],
    "ponder_cost": [-0.1, None, float("inf")],
    "early_exit_threshold": [0, 1.5, "early"],
    "multi_scale": [[1, 2], [1, 2, 1.0, 1], [1, 2, 3, 1], [1, 4, 2, 1], [1, 0, 1, 1], [1, 1, 1, 1], "hourglass", 2],
    "sparse_bk": [0, 1, 1.5, True, "half", [0.5, 0.5], [1, 1, 1, 1], [1, 0.5, 0, 1], [0.5, 0.5, 0.5, True]],
    "sparsity_loss_coef": [-1, 0, None],
    "sparsity_schedule": [-0.1, 1.1, None],
    "use_cache": [None],
    "pad_token_id": [-1, "<pad>"],
    "bos_token_id": [1.5],
    "eos_token_id": [[0, 99999], "</s>"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_value_is_named_with_its_rule_and_a_way_out(name, value):
    with pytest.raises(ValueError, match=r"must .*\(.+\)") as error:
        ResNetBKConfig(**{name: value})
    message = str(error.value)
    assert message.startswith("ResNetBKConfig: ")
    assert "\n" not in message
    assert re.search(rf"{name}={re.escape(repr(value))}", message)


def test_the_table_of_configurations_has_every_state():
    assert {fields["state"] for fields in GRID.values()} == set(MIXERS)


def test_every_field_has_a_rule():
    own = set(ResNetBKConfig.__annotations__) - {"model_type", "keys_to_ignore_at_inference"}
    assert own - {"num_experts_per_tok"} == set(WRONG)


def test_rules_of_experts():
    with pytest.raises(ValueError, match="num_experts_per_tok=5 must be at most num_experts=4"):
        ResNetBKConfig(num_experts=4, num_experts_per_tok=5)
    with pytest.raises(ValueError, match="num_experts_per_tok=0 must be a whole number of at least 1"):
        ResNetBKConfig(num_experts=4, num_experts_per_tok=0)
    with pytest.raises(ValueError, match=r"hidden_size=60 must be a multiple of 8.*set it to 64"):
        ResNetBKConfig(num_experts=4, hidden_size=60)
    with pytest.raises(ValueError, match=r"intermediate_size=20 must be a multiple of 8.*set it to 24"):
        ResNetBKConfig(num_experts=4, intermediate_size=20)


@pytest.mark.parametrize(
    ("state", "fields"),
    {
        "vector": {"key_dim": 24, "value_dim": 24, "query_key_bias": 1, "induction_heads": 2},
        "matrix": {"state_channels": 24},
        "modulus": {"state_channels": 24},
        "delta": {"state_channels": 24},
    }.items(),
)
def test_fields_that_a_state_does_not_read(state, fields):
    assert unread_fields(get_mixer(state)) == sorted(fields)
    for name, value in fields.items():
        said = f"{name}={value!r} has no effect with state='{state}', which does not read it (leave {name} out where "
        says = re.escape(said) + ".*"
        with pytest.raises(ValueError, match=says):
            ResNetBKConfig(state=state, **{name: value})
        config = ResNetBKConfig(state=state)
        assert ResNetBKConfig(**config.to_dict()).to_dict() == config.to_dict()
        setattr(config, name, value)
        with pytest.raises(ValueError, match=says + r" or set it to .*\)") as error:
            config.check()
        setattr(config, name, ast.literal_eval(str(error.value).rpartition("set it to ")[2].removesuffix(")")))
        config.check()


def test_what_an_unknown_state_reads_is_not_known():
    with pytest.raises(ValueError, match=r"state='vectr' must be one of [^;]*$"):
        ResNetBKConfig(state="vectr", state_channels=24)
    with pytest.raises(ValueError, match=r"key_dim=24 has no effect with state='vector', .* or set it to None\)"):
        ResNetBKConfig(state="vector", hidden_size=0, key_dim=24)


def test_the_docstring_explains_every_field():
    inherited = {"model_type", "keys_to_ignore_at_inference"}
    # Python 3.13 and newer take the indentation of the class from the docstring.
    explained = re.findall(r"^ {4,8}(\w+(?:, \w+)*) \(`", ResNetBKConfig.__doc__, re.MULTILINE)
    named = {name for names in explained for name in names.split(", ")}
    assert {*ResNetBKConfig.__annotations__} - inherited - named == set()


def test_heads_may_be_of_any_size_where_it_is_given():
    config = ResNetBKConfig(hidden_size=64, num_heads=3, key_dim=16, value_dim=20)
    assert (config.key_dim, config.value_dim) == (16, 20)
    with pytest.raises(ValueError, match="change num_heads, or give key_dim and value_dim"):
        ResNetBKConfig(hidden_size=64, num_heads=3, key_dim=16)


@pytest.mark.parametrize("name", ["intermediate_size", "induction_heads", "key_dim", "value_dim"])
def test_a_size_that_is_taken_back_is_the_default_again(name):
    config = ResNetBKConfig(hidden_size=128)
    default = getattr(config, name)
    setattr(config, name, None)
    config.check()
    assert getattr(config, name) == default is not None


def test_elements_of_lists_have_rules():
    with pytest.raises(ValueError, match=r"eos_token_id=\[1, None\] must lie in the vocabulary"):
        ResNetBKConfig(eos_token_id=[1, None])
    with pytest.raises(ValueError, match=r"eos_token_id=\[\] must lie in the vocabulary"):
        ResNetBKConfig(eos_token_id=[])
    with pytest.raises(ValueError, match=r"potential_init=\(False, True\) must be two finite numbers"):
        ResNetBKConfig(potential_init=(False, True))


def test_heads_share_out_the_hidden_size():
    for state in ("matrix", "modulus", "delta"):
        with pytest.raises(ValueError, match="hidden_size=64 must be divisible by num_heads=3"):
            ResNetBKConfig(state=state, num_heads=3)
    assert ResNetBKConfig(state="vector", num_heads=3).state_channels == 64


def test_switches_that_do_not_go_together():
    with pytest.raises(ValueError, match=r"backend='numba' would not be read \(leave backend at 'auto'"):
        ResNetBKConfig(gradient="autograd", backend="numba")
    for name in ("early_exit_threshold", "halting_threshold", "ponder_cost"):
        says = rf"{name}=0.5 has no effect without adaptive_computation=true \(turn that on, or leave this out\)"
        with pytest.raises(ValueError, match=says):
            ResNetBKConfig(**{name: 0.5})
    for name in ("sparsity_loss_coef", "sparsity_schedule"):
        with pytest.raises(ValueError, match=rf"{name}=0.25 has no effect without sparse_bk \(set it, for example to"):
            ResNetBKConfig(**{name: 0.25})
    for name, value, switch in (
        ("num_experts_per_tok", 1, "num_experts"),
        ("router_aux_loss_coef", 0.5, "num_experts"),
        ("pointer_key_dim", 8, "pointer_heads"),
    ):
        with pytest.raises(ValueError, match=rf"{name}={value} has no effect without {switch} \(set it, for example"):
            ResNetBKConfig(**{name: value})
    with pytest.raises(
        ValueError, match=r"early_exit_threshold=0.9 must be at most halting_threshold=0.8, where tokens"
    ):
        ResNetBKConfig(adaptive_computation=True, halting_threshold=0.8, early_exit_threshold=0.9)
    for scales in ([1, 2, 2, 2], [2, 2, 2, 1], [1, 1, 2, 2]):
        with pytest.raises(
            ValueError, match=r"two blocks at scale 1 or more, .* \(for example \[1, 2, 2, 1\], or turn"
        ):
            ResNetBKConfig(adaptive_computation=True, multi_scale=scales)
    with pytest.raises(ValueError, match=r"must shorten by whole factors, but block 2 goes from 2 to 3"):
        ResNetBKConfig(multi_scale=[1, 2, 3, 1])
    with pytest.raises(ValueError, match=r"must lengthen to a scale that it came from, but block 2 goes to 2"):
        ResNetBKConfig(multi_scale=[1, 4, 2, 1])
    with pytest.raises(
        ValueError, match=r"multi_scale=.* must shorten something \(leave it out, or for example \[1, 2, 2, 1"
    ):
        ResNetBKConfig(multi_scale=[1, 1, 1, 1])


@pytest.mark.parametrize(
    ("further", "told"),
    [
        ({"state": "vector"}, r"takes values, which state='vector' has not \(take another state"),
        ({"num_hidden_layers": 1}, r"takes a second block, not num_hidden_layers=1 \(add blocks"),
        ({"sparse_bk": 0.5}, r"have every token, which sparse_bk=0.5 does not leave them \(leave one"),
        ({"multi_scale": [1, 2, 2, 1]}, r"have every token, which multi_scale=\[1, 2, 2, 1\] does not"),
    ],
)
def test_values_of_the_first_block_need_tokens_and_blocks(further, told):
    with pytest.raises(ValueError, match=f"value_residual=True .*{told}"):
        ResNetBKConfig(value_residual=True, **further)


@pytest.mark.parametrize("blocks", range(1, 13))
def test_the_example_of_scales_is_a_valid_one(blocks):
    scales = example(blocks)
    assert ResNetBKConfig(num_hidden_layers=blocks, multi_scale=scales).multi_scale == tuple(scales)
    assert blocks < 3 or scales == scales[::-1]
    assert max(scales) == min(4, max(2, 2 ** ((blocks - 1) // 2)))


def test_halting_needs_two_blocks_at_full_length():
    with pytest.raises(ValueError, match=r"num_hidden_layers=1 must be at least 2 for adaptive_computation=true \("):
        ResNetBKConfig(num_hidden_layers=1, adaptive_computation=True)
    with pytest.raises(
        ValueError, match=r"multi_scale=\(1, 2\) must have two blocks .* \(add blocks, or turn that off\)"
    ):
        ResNetBKConfig(num_hidden_layers=2, adaptive_computation=True, multi_scale=(1, 2))


@pytest.mark.parametrize("switch", [{"sparse_bk": 0.5}, {"multi_scale": [1, 2, 2, 1]}])
def test_triton_is_not_asked_for_rows_that_are_filled_up(switch):
    with pytest.raises(ValueError, match=r"backend='triton' does not bear rows .* \(leave backend at 'auto'"):
        ResNetBKConfig(backend="triton", **switch)


def test_several_problems_in_one_error():
    with pytest.raises(ValueError, match="ResNetBKConfig") as error:
        ResNetBKConfig(vocab_size=0, hidden_size=66, conv_size=1, absorption_min=0.1)
    message = str(error.value)
    assert "vocab_size=0 must be a whole number of at least 1" in message
    assert (
        "hidden_size=66 must be divisible by num_heads=4 "
        "(set hidden_size to 64 or 68, change num_heads, or give key_dim and value_dim)"
    ) in message
    assert "conv_size=1 must be 0 or at least 2" in message
    assert "absorption_init=(0.05, 1.0) must be above absorption_min=0.1 (for example 0.2, 1)" in message


def test_an_infinity_is_told_that_it_is_one():
    with pytest.raises(ValueError, match=r"ponder_cost=inf must be a finite number, 0 or above \(0.01 is a start\)"):
        ResNetBKConfig(adaptive_computation=True, ponder_cost=float("inf"))
    with pytest.raises(ValueError, match=r"hopping_init=0 must be above 0 \("):
        ResNetBKConfig(hopping_init=0)


def test_unknown_fields_are_errors():
    with pytest.raises(ValueError, match=r"hiden_size is not a field \(did you mean hidden_size\?\)"):
        ResNetBKConfig(hiden_size=64)
    with pytest.raises(ValueError, match="dropout is not a field"):
        ResNetBKConfig(dropout=0.1)


def test_defaults_that_depend_on_the_width():
    config = ResNetBKConfig(hidden_size=96, num_heads=6)
    assert (config.key_dim, config.value_dim, config.state_channels, config.intermediate_size) == (16, 16, None, 256)
    assert ResNetBKConfig().intermediate_size == 176
    # The vector state has no heads.
    config = ResNetBKConfig(state="vector", hidden_size=66)
    assert (config.key_dim, config.value_dim, config.state_channels) == (None, None, 66)


STARTED = ("output_gate", "query_key_bias", "potential_init", "absorption_init")


@pytest.mark.parametrize("state", reading(*STARTED))
def test_what_is_left_out_is_that_of_the_state(state):
    start = MIXERS[state].start._asdict()
    assert set(start) == set(STARTED)
    config = ResNetBKConfig(state=state)
    assert {name: getattr(config, name) for name in STARTED} == start
    said = ResNetBKConfig(state=state, output_gate="sigmoid", absorption_init=(0.1, 0.2))
    assert (said.output_gate, said.absorption_init) == ("sigmoid", (0.1, 0.2))
    assert said.potential_init == start["potential_init"]


def test_the_chains_start_where_the_published_models_did():
    """Figures in results/ are of protocols that leave these to the state."""
    band_edge = ("silu", 0.0, (0.9, 1.2), (0.02, 1.0))
    assert {name: tuple(mixer.start) for name, mixer in MIXERS.items()} == {
        "vector": band_edge,
        "matrix": band_edge,
        "modulus": ("affine", 1.0, (0.3, 1.2), (0.05, 1.0)),
        "delta": ("affine", 1.0, (0.3, 1.2), (0.05, 1.0)),
    }


def test_a_state_that_is_set_later_finds_the_start_of_the_first():
    config = ResNetBKConfig()
    config.state = "matrix"
    config.check()
    assert config.output_gate == "affine"
    config.state = "vector"
    with pytest.raises(ValueError, match=r"query_key_bias=1.0 has no effect .*, or set it to 0.0\)"):
        config.check()
    config.query_key_bias = 0
    config.check()


@pytest.mark.parametrize("name", STARTED)
def test_what_a_mixer_starts_from_cannot_be_unset(name):
    config = ResNetBKConfig()
    setattr(config, name, None)
    with pytest.raises(ValueError, match=rf"{name}=None must be .*\("):
        config.check()


@pytest.mark.parametrize("state", reading("output_gate", "potential_init", "absorption_init"))
def test_a_start_of_another_state_is_saved_and_loaded(state, tmp_path):
    """A file that left out what is the default of some state would be read as that of its own."""
    other = MIXERS["matrix" if state == "modulus" else "modulus"].start
    fields = {name: getattr(other, name) for name in ("output_gate", "potential_init", "absorption_init")}
    ResNetBKConfig(state=state, **fields).save_pretrained(tmp_path)
    loaded = ResNetBKConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields


def test_saved_and_loaded(tmp_path):
    config = ResNetBKConfig(vocab_size=77, num_experts=4, absorption_init=(0.1, 0.2), eos_token_id=[1, 2])
    config.save_pretrained(tmp_path)
    loaded = ResNetBKConfig.from_pretrained(tmp_path)
    assert loaded.absorption_init == (0.1, 0.2)
    assert loaded.to_dict() | {"_name_or_path": None} == config.to_dict() | {"_name_or_path": None}
    assert ResNetBKConfig(**loaded.to_dict()).to_dict() == loaded.to_dict()


@pytest.mark.parametrize("state", MIXERS)
def test_a_width_that_is_set_later_is_saved_and_loaded(state, tmp_path):
    """A size that the state does not have was filled in from the width of before."""
    config = ResNetBKConfig(state=state, hidden_size=64)
    config.hidden_size = 128
    config.check()
    config.save_pretrained(tmp_path)
    loaded = ResNetBKConfig.from_pretrained(tmp_path, hidden_size=256)
    assert loaded.hidden_size == 256
    loaded.check()
    assert ResNetBKConfig(**loaded.to_dict() | {"hidden_size": 96}).hidden_size == 96


def test_more_heads_than_chains_of_the_vector_state():
    ResNetBKConfig(state="vector", hidden_size=2).check()


def test_a_size_that_has_no_effect_is_named_when_it_is_set_later():
    config = ResNetBKConfig()
    config.state_channels = 48
    with pytest.raises(ValueError, match="state_channels=48 has no effect with state='modulus'"):
        config.check()


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    config = ResNetBKConfig(vocab_size=61, eos_token_id=60)
    config.vocab_size = 50
    with pytest.raises(
        ValueError, match=r"^ResNetBKConfig: eos_token_id=60 must lie in the vocabulary, from 0 to .* 49"
    ):
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_padding_beyond_the_vocabulary_is_told(tmp_path, caplog):
    """`Trainer` writes down the tokenizer's, which where rows are full is never read: the model must load again."""
    config = ResNetBKConfig(vocab_size=50)
    config.pad_token_id = 50
    config.save_pretrained(tmp_path)
    assert ResNetBKConfig.from_pretrained(tmp_path).pad_token_id == 50
    assert "pad_token_id=50 lies beyond the vocabulary, which ends at 49" in caplog.text


def test_a_field_that_is_gone_may_stand_in_a_file_where_it_did_nothing():
    config = ResNetBKConfig()
    again = ResNetBKConfig.from_dict(config.to_dict() | {"hopping_phase": False})
    assert again.to_dict() == config.to_dict()
    with pytest.raises(ValueError, match="hopping_phase is not a field"):
        ResNetBKConfig.from_dict(config.to_dict() | {"hopping_phase": True})
