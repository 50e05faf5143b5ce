"""The shipped protocols: what they train, and that published figures are of the models that they name."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from resnet_bk.bench.data import SPECIAL_IDS
from resnet_bk.bench.peers import may_carry, resolve_configs
from resnet_bk.bench.protocol import load_protocol
from resnet_bk.bench.protocol_file import read_raw
from resnet_bk.bench.protocols import recall_protocols, shipped_protocols
from resnet_bk.bench.recall import is_recall
from resnet_bk.bench.sizing import count_config
from resnet_bk.data import TokenStream
from resnet_bk.models import ResNetBKConfig

RESULTS = Path(__file__).parents[2] / "results"
SWITCHES = ("gradient", "mixed_precision", "adaptive_computation", "multi_scale", "sparse_bk")
STARTED = (
    *("state", "pointer_heads", "output_gate", "query_key_bias", "potential_init", "absorption_init"),
    *("site_gain", "induction_heads", "key_dim", "value_dim", "hopping_init", "absorption_min", "rms_norm_eps"),
    *("conv_size", "initializer_range", "value_residual"),
)

EARLIER = ["seed", "seed-local", "wikitext-2", "wikitext-103"]
TUNED = ["seed-local-tuned", "small"]
TEXT = ["quick", *EARLIER, *TUNED]
ABLATION = ["ablation", "ablation-wide"]
PRICE = "ablation-price"
CHOICES = "tuned-choices"
POINTER, PEERS, BOOKS = "quick-pointer", "quick-peers", "books"
PEER_MODELS = ["no-pointer", "gpt2", "llama", "mamba2", "gated-deltanet", "kimi-delta", "xlstm"]


@functools.cache
def sized(name):
    """A shipped protocol, the configurations of its models and their parameters, in which nothing may be changed."""
    protocol = load_protocol(name)
    configs = resolve_configs(protocol, protocol.vocab_size, SPECIAL_IDS)
    return protocol, configs, {model: count_config(config) for model, config in configs.items()}


def within_tolerance(counts):
    first, *others = counts.values()
    return all(count.deviation(first) < 0.02 for count in others)


@pytest.mark.sweep
@pytest.mark.parametrize("name", TEXT)
def test_shipped_protocols_are_right(name):
    protocol, _, counts = sized(name)
    assert protocol.name == name
    assert protocol.description
    assert "resnet-bk" in protocol.models
    assert protocol.learning_rates is None
    for entry in protocol.models.values():
        # A command that can be run again, or null, so that the report says that nothing was searched.
        assert (entry.learning_rate_source or "resnet-bk ").startswith(("resnet-bk ", "the earlier report"))
    assert within_tolerance(counts)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["quick", "seed-local", *TUNED, POINTER, PEERS, BOOKS, *ABLATION, PRICE])
def test_published_figures_are_of_the_models_of_their_protocol(name):
    """Fields that a protocol leaves to the default of some state, which may change."""
    _, configs, _ = sized(name)
    results = json.loads((RESULTS / name / "results.json").read_text())
    ours = [run for run in results["runs"] if run["config"]["model_type"] == "resnet_bk"]
    assert ours
    for run in ours:
        if run["config"]["output_gate"] is True:  # written before gates had names
            run["config"]["output_gate"] = "silu"
        config = json.loads(json.dumps(configs[run["model_name"]].to_dict()))
        now, then = ({key: found[key] for key in STARTED if key in run["config"]} for found in (config, run["config"]))
        assert now == then, run["model_name"]


@pytest.mark.parametrize("name", ABLATION)
def test_ablations_compare_switches_of_one_model(name):
    protocol, configs, counts = sized(name)
    assert protocol.name == name
    assert within_tolerance(counts)
    switches = {
        model: {field for field in SWITCHES if getattr(config, field) != getattr(ResNetBKConfig(), field)}
        for model, config in configs.items()
    }
    assert switches["exact"] == set()
    exact = configs["exact"].to_dict()
    assert exact["state"] == "matrix"
    for model, config in configs.items():
        others = {key for key, value in config.to_dict().items() if value != exact[key]} - {"intermediate_size"}
        assert others <= switches[model], model
    assert {protocol.models[model].head for model in configs if model != "plain"} == {"auto"}
    assert (protocol.models["plain"].head, configs["plain"].gradient) == ("model", "autograd")
    for model in ("plain", "diagonal", "bf16", "adaptive", "multi-scale", "sparse"):
        assert len(switches[model]) == 1, model
    assert switches["all"] == {"mixed_precision", "adaptive_computation", "multi_scale", "sparse_bk"}  # when it ran
    assert switches["optimised"]
    same = {(protocol.models[model].learning_rate, protocol.models[model].carry_state) for model in configs}
    assert len(same) == 1


def test_the_price_of_a_switch_is_asked_of_one_setting_alone():
    _, configs, counts = sized(PRICE)
    assert within_tolerance(counts)
    costs = [config.ponder_cost for name, config in configs.items() if name.startswith("ponder")]
    shares = [sum(config.site_shares()) for name, config in configs.items() if name.startswith("keep")]
    assert costs == sorted(set(costs))
    assert shares == sorted(set(shares), reverse=True)
    assert len(configs) == 1 + len(costs) + len(shares)
    full = configs["full"].to_dict()
    for name, config in configs.items():
        changed = {key for key, value in config.to_dict().items() if value != full[key]} - {"intermediate_size"}
        assert changed <= {"adaptive_computation", "ponder_cost", "sparse_bk"}, name


@pytest.mark.sweep
def test_choices_are_changed_one_at_a_time():
    protocol, tuned = load_protocol(CHOICES), load_protocol("seed-local-tuned", ["steps=1000", "evaluations=1"])
    free = {"name", "description", "models", "epochs", "seeds", "held_out_views", "parameters_without_embeddings"}
    assert protocol.model_dump(exclude=free) == tuned.model_dump(exclude=free)
    assert protocol.steps < TokenStream(np.zeros(10_000_000, np.uint16), 16, 128).steps_per_epoch  # no text twice
    for name in ("resnet-bk", "llama", "llama-pointer"):
        entry, known = protocol.models[name], tuned.models[name]
        wider, norms = {"value_dim", "intermediate_size"}, {"sandwich_norm", "embedding_multiplier"}
        later = dict.fromkeys(wider | norms if name == "resnet-bk" else ())  # these came later
        assert {**entry.config, **later} == {**known.config, **later}
        assert (entry.learning_rate, entry.carry_reset) == (known.learning_rate, known.carry_reset)
    configs, counts = sized(CHOICES)[1:]
    assert within_tolerance(counts)
    ours = {name: config for name, config in configs.items() if config.model_type == "resnet_bk"}
    base = ours.pop("resnet-bk").to_dict()
    chains = {"state", "potential_init", "absorption_init", "query_key_bias"}  # a vector state has no queries
    follows = {"intermediate_size", "induction_heads"}  # from the size of the others, and from heads and convolution
    sizes = ("key_dim", "value_dim", "state_channels")  # which one state has and another has not
    parts = [chains, {"num_heads", "key_dim", "value_dim"}]
    choices = {}
    for name, config in ours.items():
        own = config.to_dict()
        states = {key for key in sizes if None in (own[key], base[key])}
        changed = {key for key, value in own.items() if value != base[key]} - follows - states
        entry, usual = protocol.models[name], protocol.models["resnet-bk"]
        carried = (entry.carry_state, entry.carry_reset) == (usual.carry_state, usual.carry_reset)
        choices[name] = changed if carried else {*changed, "carry"}
        joined = sum(1 for part in parts if part & choices[name]) + len(choices[name].difference(*parts))
        assert joined == (2 if name == "no-pointer-no-convolution" else 1), name
    assert len({frozenset(changed) for changed in choices.values()}) >= 8


def test_which_protocols_are_shipped():
    known = {*TEXT, *ABLATION, PRICE, CHOICES, POINTER, PEERS, BOOKS}
    assert known <= set(shipped_protocols())
    # Others have a format, and tests, of their own.
    assert all("task" in read_raw(name, ()) for name in shipped_protocols() if name not in known)


def test_which_shipped_protocols_are_on_recall():
    assert recall_protocols() == [name for name in shipped_protocols() if is_recall(name)] == ["mqar"]


@pytest.mark.parametrize(("name", "models"), [(POINTER, ["no-pointer", "llama-pointer"]), (PEERS, PEER_MODELS)])
def test_further_models_do_the_work_of_quick(name, models):
    quick, further = load_protocol("quick"), load_protocol(name)
    apart = {"name", "description", "models", "learning_rates", "seeds"}
    assert further.model_dump(exclude=apart) == quick.model_dump(exclude=apart)
    assert list(further.models) == ["resnet-bk", *models]
    assert further.learning_rates == [5e-3, 1e-2, 2e-2, 4e-2]
    assert further.seeds == ([42, 43, 44] if name == PEERS else [42])
    assert all("=[5e-3,1e-2,2e-2,4e-2]" in entry.learning_rate_source for entry in quick.models.values())
    for key in ("config", "carry_state", "carry_reset"):
        assert getattr(further.models["resnet-bk"], key) == getattr(quick.models["resnet-bk"], key)
    _, configs, counts = sized(name)
    assert within_tolerance(counts)
    assert configs["no-pointer"].pointer_heads == 0


def test_a_protocol_that_names_its_size_has_models_of_it():
    protocol, _, counts = sized("seed-local-tuned")
    size = protocol.parameters_without_embeddings
    assert all(count.without_embeddings == pytest.approx(size, rel=0.003) for count in counts.values())


def test_books_has_the_settings_of_quick_and_another_text():
    """Nothing of it may be chosen on its text but the rates."""
    quick, books, peers, pointer = (load_protocol(name) for name in ("quick", BOOKS, PEERS, POINTER))
    text = {"dataset", "data_limit"}
    apart = {"name", "description", "models", "learning_rates", "seeds", "log_interval", *text}
    assert books.model_dump(exclude=apart) == quick.model_dump(exclude=apart)
    assert list(books.models) == [
        "resnet-bk",
        "no-pointer",
        "gpt2",
        "llama",
        "llama-pointer",
        "mamba2",
        "gated-deltanet",
    ]
    assert all(entry == (peers.models | pointer.models)[name] for name, entry in books.models.items())
    _, _, counts = sized(BOOKS)
    assert within_tolerance(counts)


def test_the_pointer_of_llama_is_that_of_resnet_bk():
    protocol, configs, _ = sized(POINTER)
    assert protocol.models["llama-pointer"].carry_reset == protocol.models["resnet-bk"].carry_reset
    assert configs["llama-pointer"].pointer_heads == configs["resnet-bk"].pointer_heads


def test_a_peer_whose_state_is_of_constant_size_carries_it():
    """But for those whose states `transformers` overwrites."""
    protocol, configs, _ = sized(PEERS)
    assert {name for name, entry in protocol.models.items() if entry.carry_state} == {
        name for name, config in configs.items() if may_carry(config)
    }


@pytest.mark.parametrize("name", EARLIER)
def test_the_earlier_run(name):
    protocol, _, counts = sized(name)
    shape = (protocol.hidden_size, protocol.num_layers, protocol.sequence_length, protocol.batch_size)
    assert shape == (64, 4, 128, 16)
    assert (protocol.vocab_size, protocol.epochs, protocol.tokenizer) == (30000, 2, "word")
    assert (protocol.weight_decay, protocol.clip, protocol.final_lr_ratio) == (0.01, 0.5, 0.1)
    assert protocol.betas == [0.9, 0.999]  # AdamW's own
    assert protocol.seeds == [42]
    assert list(protocol.models) == ["resnet-bk-seed", "resnet-bk-seed-causal", "resnet-bk", "gpt2", "llama"]
    assert [protocol.rates(model) for model in list(protocol.models)[:2]] == [[1e-3], [1e-3]]
    assert counts["resnet-bk-seed"].total == 4_146_120


def test_data_of_the_earlier_runs():
    assert load_protocol("seed").dataset == load_protocol("wikitext-103").dataset == "wikitext-103"
    assert load_protocol("wikitext-2").dataset == "wikitext-2"
    limits = {name: load_protocol(name).data_limit for name in EARLIER}
    assert limits == {"seed": 10_000_000, "seed-local": 10_000_000, "wikitext-2": None, "wikitext-103": None}
    splits = {name: load_protocol(name).pre_tokenizer for name in EARLIER}
    assert splits == dict.fromkeys(EARLIER, "whitespace") | {"seed-local": "words"}
    # 10M tokens: 9,764 steps, as in the report.
    assert 2 * TokenStream(np.zeros(10_000_000, np.uint16), 16, 128).steps_per_epoch == 9_764
    assert load_protocol("wikitext-103", ["data_limit=1000"]).data_limit == 1000
    assert load_protocol("seed", ["data_limit=null"]).data_limit is None
