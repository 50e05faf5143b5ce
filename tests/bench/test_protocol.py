"""Protocol files, --set, and errors that name the key and the way out."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from resnet_bk.bench.data import SPECIAL_IDS
from resnet_bk.bench.peers import resolve_configs
from resnet_bk.bench.protocol import (
    NOT_OF_A_RUN,
    Protocol,
    load_protocol,
    select_model,
    select_models,
)
from resnet_bk.bench.protocol_file import parse_yaml, read_raw
from resnet_bk.bench.protocols import recall_protocols, shipped_protocols
from resnet_bk.bench.recall import is_recall
from resnet_bk.bench.sizing import count_config
from resnet_bk.data import TokenStream
from resnet_bk.models import ResNetBKConfig
from resnet_bk.training import RunSpec

RESULTS = Path(__file__).parents[2] / "results"
SWITCHES = ("gradient", "mixed_precision", "adaptive_computation", "multi_scale", "sparse_bk")
MINIMAL = "name: mine\ndataset: text.txt\nmodels: {gpt2: {learning_rate: 1e-3}}\n"


def test_a_folder_is_no_protocol(tmp_path):
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(ValueError, match=r"protocol .*x.yaml cannot be read: .*; give a file of YAML in UTF-8"):
        load_protocol(str(tmp_path / "x.yaml"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


EARLIER = ["seed", "seed-local", "wikitext-2", "wikitext-103"]


TUNED = ["seed-local-tuned", "small"]
TEXT = ["quick", *EARLIER, *TUNED]
ABLATION = ["ablation", "ablation-wide"]
PRICE = "ablation-price"
CHOICES = "tuned-choices"
POINTER = "quick-pointer"


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


def test_a_rate_that_is_set_was_not_found_by_the_search_of_the_file():
    def source(*settings):
        return load_protocol("quick", settings).models["llama"].learning_rate_source

    searched = source()
    assert searched is not None
    assert source("models.llama.learning_rate=1e-4") is None
    assert source(f"models.llama.learning_rate={load_protocol('quick').models['llama'].learning_rate}") == searched
    assert source("models.llama.learning_rate=1e-4", "models.llama.learning_rate_source=a guess") == "a guess"


STARTED = ("state", "pointer_heads", "output_gate", "query_key_bias", "potential_init", "absorption_init")


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["quick", "seed-local", "seed-local-tuned", *ABLATION, PRICE])
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
    assert switches["all"] == set(SWITCHES) - {"gradient"}
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


def test_keys_that_came_later_are_no_setting_of_earlier_runs(file):
    later = {"optimizer": "muon", "models.gpt2.head": "model", "models.gpt2.carry_reset": 0.1}
    plain = load_protocol(str(file), ["models.gpt2.carry_state=true"])
    assert not set(later) & set(plain.run_settings("gpt2"))
    sets = [f"{key}={value}" for key, value in later.items()]
    chosen = load_protocol(str(file), ["models.gpt2.carry_state=true", *sets])
    assert chosen.run_settings("gpt2") == plain.run_settings("gpt2") | later


def test_the_views_of_a_run_are_no_setting_of_it(file):
    plain, bare = load_protocol(str(file)), load_protocol(str(file), ["held_out_views=[]"])
    assert plain.held_out_views == ["not_carried", "overlapping"]
    assert plain.run_settings("gpt2") == bare.run_settings("gpt2")


def test_a_run_belongs_to_the_reference_that_gave_it_its_size(tmp_path):
    def of(reference, name="other"):
        file = tmp_path / "sized.yaml"
        file.write_text(
            f"name: mine\ndataset: text.txt\nmodels:\n  first: {{transformers: {reference}, learning_rate: 1e-3}}\n"
            "  llama: {learning_rate: 1e-3}\n  other: {transformers: gpt2, learning_rate: 1e-3}\n"
        )
        return load_protocol(str(file)).run_settings(name)

    assert of("gpt2", "llama") != of("gpt_neox", "llama")
    assert of("gpt2") != of("gpt_neox")
    assert "models.first.transformers" not in of("gpt2")  # as in runs from before it was told: its own type says it


def test_a_key_that_is_there_twice(file):
    file.write_text(MINIMAL + "epochs: 1\nvocab_size: 100\nepochs: 2\n")
    with pytest.raises(ValueError, match=r"mine.yaml, line 6: not valid YAML \(the key epochs is there twice\)"):
        load_protocol(str(file))


@pytest.mark.parametrize("text", ["dataset: {{ name }}", "{? [a, b] : 1}", "a: !!map foo"])
def test_keys_that_are_no_words(text):
    with pytest.raises(ValueError, match=r"^w, line 1: not valid YAML \("):
        parse_yaml(text, "w")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!bool foo", r"^w: not the value that it is written as \('foo'\); write it otherwise"),
        ("2024-99-99", r"^w: not the value that it is written as \(month must be in 1..12\)"),
        ("!!int abc", r"^w: not the value that it is written as \(invalid literal for int"),
        ("&a [*a]", r"^w: lists or keys within one another without end; write them out"),
        ("[" * 3_000, r"^w: lists or keys within one another without end"),
    ],
    ids=["truth", "date", "number", "itself", "deep"],
)
def test_values_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text, "w")


def test_keys_that_an_anchor_merges_in_may_be_given_again():
    text = "x:\n  y: &b {<<: &a {k: 1}, k: 2}\nz:\n  <<: *b\n1: one\n'1': text\n"
    assert parse_yaml(text, "w") == yaml.safe_load(text)


def test_epochs_beside_steps():
    with pytest.raises(ValueError, match=r"--set epochs=2: not read where steps=1000 .* add --set steps=null"):
        load_protocol(CHOICES, ["epochs=2"])
    assert load_protocol(CHOICES, ["epochs=2", "steps=null"]).epochs == 2


@pytest.mark.sweep
def test_choices_are_changed_one_at_a_time():
    protocol, tuned = load_protocol(CHOICES), load_protocol("seed-local-tuned", ["steps=1000", "evaluations=1"])
    free = {"name", "description", "models", "epochs", "seeds", "held_out_views"}
    assert protocol.model_dump(exclude=free) == tuned.model_dump(exclude=free)
    assert protocol.steps < TokenStream(np.zeros(10_000_000, np.uint16), 16, 128).steps_per_epoch  # no text twice
    for name in ("resnet-bk", "llama", "llama-pointer"):
        entry, known = protocol.models[name], tuned.models[name]
        assert entry.config == known.config
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


def test_a_setting_changes_one_model_though_an_anchor_shares_its_text(tmp_path):
    path = tmp_path / "anchors.yaml"
    path.write_text(
        "name: anchors\ndataset: text.txt\nmodels:\n  a: &m {transformers: resnet_bk, learning_rate: 1e-3, config: "
        "{conv_size: 4}}\n  b: {<<: *m, head: model}\n"
    )
    protocol = load_protocol(str(path), ["models.a.config.state=vector"])
    assert protocol.models["a"].config == {"conv_size": 4, "state": "vector"}
    assert protocol.models["b"].config == {"conv_size": 4}


def test_what_a_training_is_free_of_is_free_in_its_protocol():
    fields = {field.name for field in dataclasses.fields(RunSpec)}
    free = fields - {*RunSpec("", steps=1, learning_rate=1.0).fixed()}
    assert free >= {"device", "log_interval"}
    assert free == fields & {*NOT_OF_A_RUN}
    assert {*NOT_OF_A_RUN} <= {*Protocol.model_fields}


def test_which_protocols_are_shipped():
    known = {*TEXT, *ABLATION, PRICE, CHOICES, POINTER}
    assert known <= set(shipped_protocols())
    # Others have a format, and tests, of their own.
    assert all("task" in read_raw(name, ()) for name in shipped_protocols() if name not in known)


def test_which_shipped_protocols_are_on_recall():
    assert recall_protocols() == [name for name in shipped_protocols() if is_recall(name)] == ["mqar"]


def test_the_pointer_is_tried_on_the_work_of_quick():
    quick, pointer = load_protocol("quick"), load_protocol(POINTER)
    apart = ("name", "description", "models", "learning_rates")
    assert pointer.model_dump(exclude=set(apart)) == quick.model_dump(exclude=set(apart))
    assert list(pointer.models) == ["resnet-bk", "no-pointer", "llama-pointer"]
    for key in ("config", "carry_state", "carry_reset"):
        assert getattr(pointer.models["resnet-bk"], key) == getattr(quick.models["resnet-bk"], key)
    assert pointer.models["llama-pointer"].carry_reset == quick.models["resnet-bk"].carry_reset
    _, configs, counts = sized(POINTER)
    assert within_tolerance(counts)
    assert configs["llama-pointer"].pointer_heads == configs["resnet-bk"].pointer_heads
    assert configs["no-pointer"].pointer_heads == 0


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


def test_a_rate_beside_a_grid():
    rate, grid = "models.llama.learning_rate=5e-2", "learning_rates=[1e-3,3e-3]"
    with pytest.raises(ValueError, match=r"--set models.llama.learning_rate: not read where the learning_rates \["):
        load_protocol("quick", [grid, rate])
    assert load_protocol("quick", [grid, rate, "learning_rates=null"]).rates("llama") == [5e-2]
    assert load_protocol("quick", [grid, "models.llama.learning_rate=null"]).rates("llama") == [1e-3, 3e-3]
    with pytest.raises(ValueError, match=r"add it with --set models.mamba2=\{\}, and"):
        select_models(load_protocol("quick", [grid]), ["mamba2"])


def test_a_grid_for_all_of_them():
    protocol = load_protocol("seed-local", ["learning_rates=[1e-3,3e-3,1e-2]"])
    assert protocol.rates("resnet-bk-seed") == protocol.rates("llama") == [1e-3, 3e-3, 1e-2]


def test_a_file_of_the_user(file):
    assert load_protocol(str(file)).models["gpt2"].learning_rate == 1e-3


def test_settings_and_data(file):
    settings = [
        "steps=7",
        "models.gpt2.learning_rate=3e-4",
        "models.gpt2.config.n_inner=9",
        "clip=null",
        "seeds=[1, 2]",
    ]
    protocol = load_protocol(str(file), settings, data="other")
    assert (protocol.steps, protocol.clip, protocol.seeds, protocol.dataset) == (7, None, [1, 2], "other")
    assert protocol.models["gpt2"].learning_rate == 3e-4
    assert protocol.models["gpt2"].config == {"n_inner": 9}


def test_a_grid_takes_the_place_of_the_rates(file):
    protocol = load_protocol(str(file), ["learning_rates=[1e-3, 1]"])
    assert protocol.rates("gpt2") == [1e-3, 1.0]
    assert protocol.models["gpt2"].learning_rate is None
    assert load_protocol(str(file)).rates("gpt2") == [1e-3]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("3E+2", 300.0), (".5", 0.5), ("1.", 1.0), ("-.inf", float("-inf")), ("1e", "1e")),
        *(("7", 7), ("-7", -7), ("0", 0), ("010", 10), ("0o10", 8), ("0x1F", 31), ("1:30", "1:30"), ("1_000", "1_000")),
    ],
)
def test_numbers_of_yaml(text, value):
    assert parse_yaml(text, "x") == value
    assert type(parse_yaml(text, "x")) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden_sise=3", r"hidden_sise: unknown key \(did you mean hidden_size\?\)"),
        (
            "qqq=3",
            r"qqq: unknown key; known are name, description.*, models, and fields of a model stand in models.NAME.c",
        ),
        ("carry_reset=0.25", r"carry_reset: is a key of each model, --set models.NAME.carry_reset=VALUE"),
        (
            "learning_rate=1e-3",
            r"learning_rate: .*, --set models.NAME.learning_rate=VALUE \(did you mean learning_rates\?\)",
        ),
        ("models.gpt2.lr=3", r"models.gpt2.lr: unknown key"),
        ("vocab_size=0", r"vocab_size=0: input should be greater than or equal to 4"),
        ("steps=1.5", r"steps=1.5: "),
        ("steps=true", r"steps=True: "),
        ("hidden_size=65", r"hidden_size=65: must be divisible by num_heads=4; take 68"),
        ("dtype=float16", r"dtype='float16': "),
        ("learning_rates=[]", r"learning_rates=\[\]: "),
        ("learning_rates=[1e-3, 0.001]", r"learning_rates=\[0.001, 0.001\]: holds a value twice"),
        ("seeds=[1, 1]", r"seeds=\[1, 1\]: holds a value twice"),
        (
            "models.gpt2.carry_reset=0.1",
            r"models.gpt2.carry_reset=0.1: without carry_state no row has a state; leave",
        ),
        ("models.gpt2.carry_reset=1.0", r"models.gpt2.carry_reset=1.0: input should be less than 1"),
        ("held_out_views=[overlapping, overlapping]", r"held_out_views=\['overlapping', .*: holds a value twice"),
        ("held_out_views=[carried]", r"held_out_views.0='carried': input should be 'not_carried' or 'overlapping'"),
        ("models.gpt2.learning_rate=null", r"models.gpt2.learning_rate: missing; set it, or a grid"),
        ("models.gpt2.learning_rate=-1", r"models.gpt2.learning_rate=-1: "),
        ("models.gpt2.learning_rate=.nan", r"models.gpt2.learning_rate=nan: "),
        ("models={}", r"models=\{\}: "),
        ("models.a+b={learning_rate: 1e-3}", r"models.a\+b: string should match pattern '.*'; give it another name$"),
        ("seeds=[1, -1]", r"seeds.1=-1: input should be .*; change it with --set seeds=VALUE$"),
        ("name=a/b", r"name='a/b': "),
        ("steps", r"--set steps: must be key=value"),
        ("=3", r"--set =3: must be key=value"),
        ("steps.x=3", r"steps=\{'x': 3\}: "),
        ("name.x=3", r"--set name.x=3: name is a value, it has no keys"),
        ("steps=[3", r"--set steps, line 1: not valid YAML"),
        ("steps=", r'--set steps=: no value; give one, null where there may be none, or "" for an empty text$'),
        (
            "models.gpt3=null",
            r"--set models.gpt3=null: there is no such model \(did you mean gpt2\?\); the protocol has",
        ),
    ],
)
def test_what_is_wrong_is_named(file, setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_protocol(str(file), [setting])
    assert "\n" not in str(caught.value)


def test_a_rate_that_is_set_and_lost_again(file):
    with pytest.raises(ValueError, match=r"models.gpt2.learning_rate: missing"):
        load_protocol(str(file), ["models.gpt2.learning_rate=1e-3", "models.gpt2={}"])


def test_warm_up_must_end(file):
    with pytest.raises(ValueError, match="warmup_steps=5: must be below steps=5"):
        load_protocol(str(file), ["steps=5", "warmup_steps=5"])


def test_all_problems_at_once(file):
    with pytest.raises(ValueError, match=r"vocab_size=0.*typo: unknown key.*hidden_size=65: must be divisible"):
        load_protocol(str(file), ["vocab_size=0", "typo=1", "hidden_size=65"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2", r"line 2: not valid YAML"),
        (b"- 1\n- 2", r"must be `key: value` lines, but holds a list"),
        (b"", r"holds a NoneType"),
        (b"name: \xff", r"cannot be read"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_protocol(str(path))


def test_protocols_that_do_not_exist(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown protocol 'quik' \(did you mean quick\?\); shipped .*quick-pointer, seed"
    ):
        load_protocol("quik")
    with pytest.raises(ValueError, match=r"does not exist; give the path of a .*, or a shipped protocol: .*quick"):
        load_protocol(str(tmp_path / "no.yaml"))


def test_a_model_is_taken_out():
    found = load_protocol("quick", ["models.gpt2=null", "models.llama=null"])
    assert list(found.models) == ["resnet-bk"]
    with pytest.raises(ValueError, match=r"--set models.resnet-bk=null: takes out the only model; leave it in"):
        load_protocol("quick", ["models.gpt2=null", "models.llama=null", "models.resnet-bk=null"])


def test_a_model_without_keys(file):
    file.write_text("name: mine\ndataset: text.txt\nmodels:\n  llama:\n")
    with pytest.raises(ValueError, match=r"models.llama: is empty; write its keys below it, or {} where it needs none"):
        load_protocol(str(file))


def test_the_model_to_train():
    protocol = load_protocol("quick")
    assert select_model(protocol, None) == "resnet-bk"
    assert select_model(protocol, "llama") == "llama"
    peers = load_protocol("quick", ["models.resnet-bk=null"])
    with pytest.raises(ValueError, match=r"--model is missing: protocol quick has .*, and no resnet-bk; name one"):
        select_model(peers, None)
    assert select_model(load_protocol("quick", ["models.resnet-bk=null", "models.gpt2=null"]), None) == "llama"
    with pytest.raises(ValueError, match=r"model 'lama' is not in protocol quick"):
        select_model(protocol, "lama")


def test_models_to_run():
    protocol = load_protocol("quick")
    assert select_models(protocol, None) == list(protocol.models)
    assert select_models(protocol, ["llama", "resnet-bk"]) == ["resnet-bk", "llama"]
    with pytest.raises(ValueError, match=r"model 'lama' is not in protocol quick.*did you mean llama.*--set models"):
        select_models(protocol, ["lama"])
