"""Protocol files, --set, and errors that name the key and the way out."""

import dataclasses

import pytest
import yaml

from resnet_bk.bench.protocol import (
    NOT_OF_A_RUN,
    Protocol,
    load_protocol,
    select_model,
    select_models,
)
from resnet_bk.bench.protocol_file import dump_yaml, parse_yaml, read_raw
from resnet_bk.training import RunSpec

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


def test_a_rate_that_is_set_was_not_found_by_the_search_of_the_file():
    def source(*settings):
        return load_protocol("quick", settings).models["llama"].learning_rate_source

    searched = source()
    assert searched is not None
    assert source("models.llama.learning_rate=1e-4") is None
    assert source(f"models.llama.learning_rate={load_protocol('quick').models['llama'].learning_rate}") == searched
    assert source("models.llama.learning_rate=1e-4", "models.llama.learning_rate_source=a guess") == "a guess"


def test_a_rate_may_be_set_where_the_file_has_a_list_of_models(file):
    file.write_text("name: mine\ndataset: text.txt\nmodels: [a, b]\n")
    raw = read_raw(str(file), ["models={llama: {learning_rate: 0.3}}", "models.llama.learning_rate=0.1"])
    assert raw["models"] == {"llama": {"learning_rate": 0.1}}


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
        ("!!timestamp x", r"^w: not the value that it is written as"),
        ("&a [*a]", r"^w: lists or keys within one another without end; write them out"),
        ("[" * 3_000, r"^w: lists or keys within one another without end"),
    ],
    ids=["truth", "date", "number", "no date", "itself", "deep"],
)
def test_values_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text, "w")


def test_keys_that_an_anchor_merges_in_may_be_given_again():
    text = "x:\n  y: &b {<<: &a {k: 1}, k: 2}\nz:\n  <<: *b\n1: one\n'1': text\n"
    assert parse_yaml(text, "w") == yaml.safe_load(text)


def test_epochs_beside_steps():
    with pytest.raises(ValueError, match=r"--set epochs=2: not read where steps=1000 .* add --set steps=null"):
        load_protocol("tuned-choices", ["epochs=2"])
    assert load_protocol("tuned-choices", ["epochs=2", "steps=null"]).epochs == 2


def test_keys_of_a_file_that_others_of_it_make_void(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(MINIMAL + "steps: 2\nepochs: 50\n")
    with pytest.raises(ValueError, match=rf"^protocol {file}: epochs=50 is not read where steps=2 says how long the"):
        load_protocol(str(file))
    assert load_protocol(str(file), ["steps=3"]).steps == 3
    file.write_text(MINIMAL + "learning_rates: [1.0e-3]\n")
    with pytest.raises(
        ValueError, match=r"models.gpt2.learning_rate=0.001 is not read where the learning_rates \[0.001\]"
    ):
        load_protocol(str(file))
    assert load_protocol(str(file), ["learning_rates=null"]).models["gpt2"].learning_rate == 1e-3


def test_a_mistyped_model_is_named_before_its_rate():
    says = (
        r"models.resnet_bk: unknown model \(did you mean resnet-bk\?\); known are .*; models.resnet_bk.learning_rate: "
    )
    with pytest.raises(ValueError, match=says):
        load_protocol("quick", ["models.resnet_bk.config.pointer_heads=2"])
    for setting in ("models.gemma.transformers=gemma", "models.mamba2.config.expand=2"):
        with pytest.raises(ValueError, match=r"^protocol quick: models.(gemma|mamba2).learning_rate: missing"):
            load_protocol("quick", [setting])


def test_a_setting_changes_one_model_though_an_anchor_shares_its_text(tmp_path):
    path = tmp_path / "anchors.yaml"
    path.write_text(
        "name: anchors\ndataset: text.txt\nmodels:\n  a: &m {transformers: resnet_bk, learning_rate: 1e-3, config: "
        "{conv_size: 4}}\n  b: {<<: *m, head: model}\n"
    )
    protocol = load_protocol(str(path), ["models.a.config.state=vector"])
    assert protocol.models["a"].config == {"conv_size": 4, "state": "vector"}
    assert protocol.models["b"].config == {"conv_size": 4}


@pytest.mark.parametrize(
    "value", ["08", "1e3", "2e-5", "0o17", "0x1f", ".5", "yes", "null", "~", "", "a: b", "Ä", 1e-5, 8]
)
def test_what_is_written_is_read_back_as_it_is(value):
    """PyYAML writes numbers of version 1.1, and `parse_yaml` reads those of 1.2."""
    values = {"dataset": value, "models": {str(value): [value]}}
    assert parse_yaml(dump_yaml(values), "w") == values


def test_what_a_training_is_free_of_is_free_in_its_protocol():
    fields = {field.name for field in dataclasses.fields(RunSpec)}
    free = fields - {*RunSpec("", steps=1, learning_rate=1.0, embedding_rate=2.0).fixed()}
    assert free >= {"device", "log_interval"}
    assert free == fields & {*NOT_OF_A_RUN}
    assert {*NOT_OF_A_RUN} <= {*Protocol.model_fields}


def test_a_rate_beside_a_grid():
    rate, grid = "models.llama.learning_rate=5e-2", "learning_rates=[1e-3,3e-3]"
    for given, says in (
        (rate, "--set models.llama.learning_rate: not read"),
        ("models.llama={learning_rate: 5e-2}", "--set models.llama: its learning_rate is not read"),
    ):
        with pytest.raises(ValueError, match=rf"{says} where the learning_rates \["):
            load_protocol("quick", [grid, given])
    names = ("resnet-bk", "no-pointer", "llama-pointer")
    rates = ["learning_rates=null", *(f"models.{name}.learning_rate=5e-2" for name in names)]
    assert load_protocol("quick-pointer", rates).rates("llama-pointer") == [5e-2]  # a file with a grid
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
        ("steps=#100", r"--set steps=#100: what stands behind # would be a comment of YAML; put the value in quotes"),
        (
            "dataset=/a/books #2",
            r"--set dataset=/a/books #2: what stands behind # .* quotes of its own, --set 'dataset=",
        ),
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


def test_a_sign_that_begins_no_comment(file):
    for setting in ('description="sweep #3"', "description='#3'", "description=a#3"):
        assert "#3" in load_protocol(str(file), [setting]).description
    # In lists and keys, which may be taken from a file, comments are what they look like.
    assert load_protocol(str(file), ["seeds=[1, 2] # two"]).seeds == [1, 2]


def test_text_that_is_named_twice(file):
    with pytest.raises(ValueError, match=r"--set dataset=embedded: not read where --data b.txt says what the text is"):
        load_protocol(str(file), ["dataset=embedded"], data="b.txt")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("steps=5", " steps =6"),
        ("models.gpt2.learning_rate=1e-3", "models.gpt2={}"),
    ],
)
def test_a_setting_that_a_later_one_takes_the_place_of(file, first, second):
    key = first.partition("=")[0]
    with pytest.raises(ValueError, match=rf"^--set {second}: takes the place of --set {key}, given before it; leave"):
        load_protocol(str(file), [first, second])


def test_a_setting_within_one_given_before(file):
    models = load_protocol(str(file), ["models.gpt2={learning_rate: 1e-3}", "models.gpt2.learning_rate=2e-3"]).models
    assert models["gpt2"].learning_rate == 2e-3


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
    with pytest.raises(ValueError, match="unknown protocol 'aaa"):
        load_protocol("a" * 300)  # too long for the name of a file
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


@pytest.mark.parametrize(
    ("line", "message"),
    [("yes: 3", "the key True is"), ("1.5: 3", "the key 1.5 is"), ("  no: {}", "models: the key False is")],
)
def test_a_key_that_yaml_reads_as_no_string(file, line, message):
    file.write_text(f"name: mine\ndataset: text.txt\nmodels:\n  llama: {{learning_rate: 1.0e-3}}\n{line}\n")
    with pytest.raises(ValueError, match=rf"[:;] {message} no string; put it in quotes, or rename it($|;)"):
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
