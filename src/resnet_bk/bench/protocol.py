"""Protocols: what a comparison is made of, as a flat YAML file that a user can copy and change.

A protocol is the name of a shipped one (`resnet_bk.bench.protocols`) or a path to a `.yaml` file.
`--set key=value` changes a key; `models.<name>.<key>` reaches into a model's entry. What a key means stands at its
field here.
"""

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resnet_bk.bench.protocol_file import read_raw
from resnet_bk.hints import did_you_mean

# Keys that do not change what a run computes, of which a record of its settings has a note all the same: a published
# run is known by it. (Of a checkpoint the device that it is of is compared, see `run_folder.check_checkpoints`.)
NOTED = ("device", "log_interval")
# All keys that do not change what a run computes (the text does, and is compared by its content; views can be measured
# afterwards); a run may be resumed or skipped under other values of these. What a training is free of
# (`resnet_bk.training.RunSpec.fixed`) is among them: slow to import, so a test compares.
NOT_OF_A_RUN = (
    "name",
    "description",
    "dataset",
    "models",
    "seeds",
    "learning_rates",
    "checkpoint_seconds",
    "held_out_views",
    *NOTED,
)
# Keys that came when runs had been published: at their default they are no setting of a run, so that those runs can
# still be resumed or skipped.
ADDED_LATER = ("optimizer", "head", "carry_reset", "parameters_without_embeddings", "embedding_rate")

# Tokenizers that are trained on the text, `resnet_bk.data.tokenizer.KINDS`: slow to import, so a test compares.
TRAINED = ("word", "bpe")

# The model that is trained where a call names none.
DEFAULT_MODEL = "resnet-bk"

# How a model is added to a protocol, and to one whose models share a grid of rates.
TYPE = ", and a type of transformers that is no known model with --set models.{name}.transformers=TYPE as well"
ADD = "--set models.{name}.learning_rate=3e-3" + TYPE
ADD_TO_GRID = "--set models.{name}={{}}" + TYPE

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
OptimizerName = Literal["adamw", "muon", "muon-parts"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class ModelEntry(_Strict):
    """One model of the comparison. How names become models: `resnet_bk.bench.peers`.

    Attributes:
        config: fields of the model's configuration beside those that the protocol sets.
        transformers: model type of `transformers`, for a name that is not known here.
        carry_state: hand the state from segment to segment in training and validation (models with such a state).
        carry_reset: share of the rows of a training step, drawn at random, that start from no state all the same, so
            that the model learns to do without.
        learning_rate: peak rate, where the protocol has no grid `learning_rates`.
        learning_rate_source: the command that found it.
        size_by: the field of the configuration that is solved for, so that the parameters match.
        optimizer: instead of that of the protocol.
        match_parameters: False lets the parameters differ; the report then says so.
        head: "auto" takes the loss from the fused vocabulary head where the model has a plain one; "model" from the
            logits that the model returns.
    """

    config: dict[str, Any] = {}
    transformers: str | None = None
    carry_state: bool = False
    carry_reset: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: Rate | None = None
    learning_rate_source: str | None = None
    optimizer: OptimizerName | None = None
    size_by: str | None = None
    match_parameters: bool = True
    head: Literal["auto", "model"] = "auto"


class Comparison(typing.Protocol):
    """What a protocol has, whatever the task."""

    @property
    def name(self) -> str: ...

    @property
    def learning_rates(self) -> Sequence[float] | None: ...

    @property
    def seeds(self) -> Sequence[int]: ...

    @property
    def models(self) -> Mapping[str, ModelEntry]: ...


class Protocol(_Strict):
    """A comparison on a text.

    Attributes:
        name, description: for people.
        dataset: a corpus of `resnet_bk.data.load_corpus`: "embedded", a name on the hub, or a local path.
        data_limit: tokens of the training split on which models and n-grams are trained; null for all. The vocabulary
            is of the whole split.
        tokenizer: "word" or "bpe", trained on the text; or one that exists, the folder that its `save_pretrained`
            wrote.
        pre_tokenizer: "words" (words and punctuation marks apart) or "whitespace".
        vocab_size: words of the vocabulary at most, special tokens included; a tokenizer that exists may not have more.
        sequence_length: tokens of a segment.
        batch_size: segments of a step.
        epochs: passes over the training tokens.
        steps: optimizer steps; null for `epochs` epochs.
        evaluations: evaluations over the whole validation split in the course of training, evenly spaced, at most one
            a step; the last one is at the end.
        held_out_views: what else the model is evaluated on at the end: "not_carried", with every segment on its own (a
            model that carries its state), and "overlapping", in windows that overlap by half. [] for nothing else.
        hidden_size, num_layers, num_heads: shape that all models share.
        tie_word_embeddings: whether head and embedding share a matrix, in all models.
        parameters_without_embeddings: of every model, beside the tables of words and positions and the head. null:
            those of the first model, so that a change of its shape changes the size of the others.
        parameter_tolerance: how far a model's parameters may lie from that, as a share.
        learning_rates: grid of peak rates: each model tries all with the first seed, and the best on validation trains
            the other seeds. null: each model's `learning_rate`.
        optimizer: "adamw"; "muon", Muon on the weights of linear maps but for the head, AdamW on the rest, at the same
            rate; or "muon-parts", where Muon takes the parts and heads of joint maps one by one.
        embedding_rate: times the learning rate, for the table of input embeddings (with tied embeddings the head's too)
            of every model. Words that come rarely get few steps.
        weight_decay, betas: of AdamW; Muon has the same decay.
        clip: largest gradient norm; null for none.
        warmup_steps: steps of linear warm-up, before the cosine; null for 10% of the steps.
        final_lr_ratio: last learning rate over the peak.
        seeds: one run each.
        dtype: "float32" or "bfloat16" (mixed precision).
        device: "auto", "cpu" or "cuda".
        log_interval: steps between two log lines.
        checkpoint_seconds: seconds between two checkpoints, validations included.
        models: name -> entry.
    """

    name: Name
    description: str = ""
    dataset: Annotated[str, Field(min_length=1)]
    data_limit: Count | None = None
    tokenizer: Annotated[str, Field(min_length=1)] = "word"
    pre_tokenizer: Literal["words", "whitespace"] = "words"
    vocab_size: Annotated[int, Field(ge=4)] = 30000  # three special tokens and a word
    sequence_length: Annotated[int, Field(ge=2)] = 128
    batch_size: Count = 16
    epochs: Count = 1
    steps: Count | None = None
    evaluations: Count = 5
    held_out_views: list[Literal["not_carried", "overlapping"]] = ["not_carried", "overlapping"]
    hidden_size: Count = 64
    num_layers: Count = 4
    num_heads: Count = 4
    tie_word_embeddings: bool = False
    parameters_without_embeddings: Count | None = None
    parameter_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.02
    learning_rates: Annotated[list[Rate], Field(min_length=1)] | None = None
    optimizer: OptimizerName = "adamw"
    embedding_rate: Rate = 1.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    clip: Rate | None = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    final_lr_ratio: Share = 0.1
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [42]
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_interval: Count = 10
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]

    def rates(self, model: str) -> list[float]:
        """Peak learning rates that a model tries."""
        if self.learning_rates is not None:
            return self.learning_rates
        rate = self.models[model].learning_rate
        assert rate is not None  # checked when the protocol was read
        return [rate]

    def optimizer_of(self, model: str | None) -> str:
        """The optimizer of a model; that of the protocol for one that is not in it."""
        entry = self.models.get(model) if model is not None else None
        return (entry and entry.optimizer) or self.optimizer

    def shared_settings(self) -> dict[str, Any]:
        """What all runs share, by key; what is `NOTED` among it."""
        left_out = {*NOT_OF_A_RUN} - {*NOTED}
        settings = {key: value for key, value in _as_published(self).items() if key not in left_out}
        # Of a tokenizer that exists the tokens are compared, and not where it lies.
        return settings if self.tokenizer in TRAINED else settings | {"tokenizer": "saved"}

    def run_settings(self, model: str) -> dict[str, Any]:
        """What determines a run of `model` beside its learning rate and seed, as flat keys."""
        settings = self.shared_settings()
        entry = _as_published(self.models[model])
        del entry["learning_rate"], entry["learning_rate_source"]
        reference = next(iter(self.models))
        named = self.parameters_without_embeddings is not None
        if reference != model and entry["match_parameters"] and not named:  # its size is the reference's
            settings[f"models.{reference}.config"] = self.models[reference].config
            model_type = self.models[reference].transformers
            if model_type not in (None, entry["transformers"]):  # else its name says it, or the model's own type
                settings[f"models.{reference}.transformers"] = model_type
        return settings | {f"models.{model}.{key}": value for key, value in entry.items()}


def what_sizes(settings: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Those of the `run_settings` of `model` that give it its size from outside: the number that the protocol names, or
    the entry of the first model. A run with others may have the same size all the same."""
    own = f"models.{model}."

    def from_outside(key: str) -> bool:
        return key == "parameters_without_embeddings" or (key.startswith("models.") and not key.startswith(own))

    return {key: value for key, value in settings.items() if from_outside(key)}


def _as_published(model: BaseModel) -> dict[str, Any]:
    """Its fields, without those of `ADDED_LATER` that are at their default."""
    fields = type(model).model_fields
    dumped = model.model_dump().items()
    return {key: value for key, value in dumped if key not in ADDED_LATER or value != fields[key].default}


def load_protocol(name_or_path: str, settings: Sequence[str] = (), data: str | None = None) -> Protocol:
    """Read a protocol, apply `--set` settings and `--data`, and check the whole.

    Args:
        name_or_path: a shipped name, or a path that ends in .yaml or .yml.
        settings: "key=value" each, values in YAML.
        data: takes the place of `dataset`.

    Raises:
        ValueError: one line with every problem found.
    """
    raw = read_raw(name_or_path, settings)
    if data is not None:
        for setting in settings:
            if setting.partition("=")[0].strip() == "dataset":
                raise ValueError(f"--set {setting}: not read where --data {data} says what the text is; leave one out")
        raw["dataset"] = data
    return check_protocol(raw, name_or_path)


def check_protocol(raw: dict[str, Any], where: str) -> Protocol:
    """A protocol from plain values; `where` stands in front of the problems.

    Raises:
        ValueError: one line with every problem found.
    """
    if raw.get("task") == "recall":
        raise ValueError(f"protocol {where}: is about recall, not about a text; run it with `resnet-bk bench {where}`")
    protocol, problems = None, []
    wrong: set[str] = set()
    try:
        protocol = Protocol.model_validate(raw)
    except ValidationError as error:
        for item in error.errors():
            problems.append(describe_problem(dict(item), Protocol.model_fields))
            wrong.add(str(item["loc"][0]))
    problems += _cross_checks(raw, wrong)
    if problems or protocol is None:
        raise ValueError(f"protocol {where}: {'; '.join(problems)}")
    if protocol.learning_rates is not None:
        # The grid decides; a rate beside it would be a key that nothing reads.
        for entry in protocol.models.values():
            entry.learning_rate = entry.learning_rate_source = None
    return protocol


def select_models(protocol: Comparison, names: Iterable[str] | None) -> list[str]:
    """The models to run, in the protocol's order.

    Args:
        protocol: of any task.
        names: of models; None for all.

    Raises:
        ValueError: a name that the protocol does not have.
    """
    known = list(protocol.models)
    if names is None:
        return known
    add = ADD if protocol.learning_rates is None else ADD_TO_GRID
    wanted = list(names)
    if not wanted:
        raise ValueError(
            f"no model is named; protocol {protocol.name} has {', '.join(known)}, and leaving --models out takes all"
        )
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"model {name!r} is not in protocol {protocol.name}, which has {', '.join(known)}"
                f"{did_you_mean(name, known)}; add it with {add.format(name=name)}"
            )
    return [name for name in known if name in wanted]


def select_model(protocol: Comparison, name: str | None) -> str:
    """The one model to train: that of the name; by default resnet-bk, or the only one.

    Raises:
        ValueError: a name that the protocol does not have, or none where it is not clear which.
    """
    known = list(protocol.models)
    if name is None and DEFAULT_MODEL not in known and len(known) > 1:
        raise ValueError(
            f"--model is missing: protocol {protocol.name} has {', '.join(known)}, and no {DEFAULT_MODEL}; name one"
        )
    default = DEFAULT_MODEL if DEFAULT_MODEL in known else known[0]
    return select_models(protocol, [default if name is None else name])[0]


def describe_problem(item: dict[str, Any], fields: Iterable[str]) -> str:
    """What pydantic found wrong, with the key and the way out; `fields` are the keys of the protocol."""
    loc = [str(part) for part in item["loc"] if part != "[key]"]
    where = ".".join(loc)
    if item["type"] == "invalid_key" or ("[key]" in item["loc"] and not isinstance(item["input"], str)):
        inside = ".".join(loc[:-1])
        return f"{inside}{': ' if inside else ''}the key {item['input']!r} is no string; put it in quotes, or rename it"
    # An entry of a list cannot be set by itself.
    settable = ".".join(map(str, takewhile(lambda part: isinstance(part, str), item["loc"])))
    if item["type"] == "extra_forbidden":
        of_model = list(ModelEntry.model_fields)
        if loc[0] != "models" and where in of_model:
            return f"{where}: is a key of each model, --set models.NAME.{where}=VALUE{did_you_mean(where, fields)}"
        known = of_model if loc[0] == "models" else list(fields)
        if hint := did_you_mean(loc[-1], known):
            return f"{where}: unknown key{hint}"
        return f"{where}: unknown key; known are {', '.join(known)}, and fields of a model stand in models.NAME.config"
    if item["type"] == "missing":
        return f"{where}: missing; add it to the file, or --set {settable}=VALUE"
    if item["input"] is None and loc[0] == "models" and len(loc) == 2:
        return f"{where}: is empty; write its keys below it, or {{}} where it needs none"
    message = item["msg"][0].lower() + item["msg"][1:]
    if item["type"] == "list_type":
        return f"{where}={item['input']!r:.60}: must be a list; write it with brackets, --set '{settable}=[A,B]'"
    if "[key]" in item["loc"]:
        return f"{where}: {message}; give it another name"
    return f"{where}={item['input']!r:.60}: {message}; change it with --set {settable}=VALUE"


def _cross_checks(raw: dict[str, Any], wrong: set[str]) -> list[str]:
    """Rules between keys, each looked at only where its keys are right by themselves."""

    def value(key: str) -> Any:
        field = Protocol.model_fields[key]
        return raw.get(key, field.default)

    def right(*keys: str) -> bool:
        return not wrong.intersection(keys) and all(key in raw or key != "models" for key in keys)

    problems = []
    if right("hidden_size", "num_heads") and value("hidden_size") % value("num_heads"):
        size, heads = value("hidden_size"), value("num_heads")
        above = heads * math.ceil(size / heads)
        problems.append(
            f"hidden_size={size}: must be divisible by num_heads={heads}; take {above}, or change num_heads"
        )
    if right("tokenizer", "pre_tokenizer") and value("tokenizer") not in TRAINED and value("pre_tokenizer") != "words":
        problems.append(
            f"pre_tokenizer={value('pre_tokenizer')}: not read where tokenizer={value('tokenizer')} exists already; "
            "set pre_tokenizer=words, its default"
        )
    if right("steps", "warmup_steps") and None not in (value("steps"), value("warmup_steps")):
        steps, warmup = value("steps"), value("warmup_steps")
        if warmup >= steps:
            problems.append(f"warmup_steps={warmup}: must be below steps={steps}; lower it, or null takes 10%")
    for key in ("seeds", "learning_rates", "held_out_views"):
        if right(key) and value(key) and len(set(value(key))) < len(value(key)):
            problems.append(f"{key}={value(key)}: holds a value twice; name each once")
    if right("models"):
        for name, entry in raw["models"].items():
            if entry.get("carry_reset") and not entry.get("carry_state"):
                problems.append(
                    f"models.{name}.carry_reset={entry['carry_reset']}: without carry_state no row has a state; leave "
                    f"it out, or set models.{name}.carry_state=true"
                )
    if right("models", "learning_rates") and value("learning_rates") is None:
        for name, entry in raw["models"].items():
            if entry.get("learning_rate") is None:
                if entry.get("transformers") is None:
                    problems += _unknown(name)
                problems.append(
                    f"models.{name}.learning_rate: missing; set it, or a grid for all: learning_rates=[1e-3,3e-3,1e-2]"
                )
    return problems


def _unknown(name: str) -> list[str]:
    """A problem where the name of a model is not known: then its rate is not what was forgotten."""
    from resnet_bk.bench.peers import KNOWN, unknown_model  # slow, and it imports this module

    return [] if name in KNOWN else [f"models.{name}: {unknown_model(name)}"]
