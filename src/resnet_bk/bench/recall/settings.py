"""What a recall benchmark is made of: a YAML file that says `task: recall`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resnet_bk.bench.protocol import Count, ModelEntry, Name, Protocol, Rate, describe_problem
from resnet_bk.bench.protocol_file import read_raw
from resnet_bk.bench.recall.task import Recall

# What is read of a model's entry: all rates are of the grid, nothing is sized, no state is carried.
READ = {"config", "transformers"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Kind(_Strict):
    """See `resnet_bk.bench.recall.task.Recall`."""

    length: Count
    pairs: Count
    examples: Count

    def recall(self) -> Recall:
        """The kind, checked."""
        return Recall(self.length, self.pairs, self.examples)


class RecallProtocol(_Strict):
    """A comparison on associative recall.

    Attributes:
        name, description: for people.
        task: "recall".
        vocab_size: words, keys and values half each.
        train, test: kinds of examples, {length, pairs, examples} each; `examples` of an epoch, of the test.
        batch_tokens: tokens of a step at most.
        epochs: an epoch draws new examples.
        hidden_size, num_layers, num_heads: shape that all models share. There are no feed-forward networks.
        tie_word_embeddings: whether head and embedding share a matrix, in all models. They do in Zoology; a head of its
            own has to learn every word's vector by itself, and few examples ask for a word.
        learning_rates: grid of peak rates; each model tries all with the first seed and keeps the one that recalls
            best on fresh examples of the kinds of the test.
        weight_decay, clip, warmup_share: of the optimizer; the schedule is the cosine of `resnet-bk bench`.
        seeds: one run each.
        dtype: "float32" or "bfloat16" (mixed precision).
        device: "auto", "cpu" or "cuda".
        models: name -> entry, as in the protocols for language; only `config` and `transformers` have a meaning here.
    """

    name: Name
    description: str = ""
    task: Literal["recall"]
    vocab_size: Annotated[int, Field(ge=4)] = 8192
    train: Annotated[list[Kind], Field(min_length=1)]
    test: Annotated[list[Kind], Field(min_length=1)]
    batch_tokens: Count = 8192
    epochs: Count = 1
    hidden_size: Count = 64
    num_layers: Count = 2
    num_heads: Count = 4
    tie_word_embeddings: bool = True
    learning_rates: Annotated[list[Rate], Field(min_length=1)] = [1e-3, 3e-3, 1e-2]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    clip: Rate | None = 1.0
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [42]
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]

    def shapes(self) -> Protocol:
        """The protocol for language with the same shapes: what `peers.resolve_configs` reads."""
        models = {name: self._entry(name, entry) for name, entry in self.models.items()}
        return Protocol(
            name=self.name,
            dataset="recall",
            vocab_size=self.vocab_size,
            sequence_length=max(kind.length for kind in (*self.train, *self.test)),
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            tie_word_embeddings=self.tie_word_embeddings,
            learning_rates=self.learning_rates,
            models=models,
        )

    def _entry(self, name: str, entry: ModelEntry) -> ModelEntry:
        """Not sized, and with as many blocks as the others have: where nobody has a feed-forward network, one block of
        Mamba-2 is a layer, not two as in `peers`."""
        config = entry.config
        if (entry.transformers or name) == "mamba2":
            config = {"num_hidden_layers": self.num_layers} | config
        return entry.model_copy(update={"match_parameters": False, "config": config})


def is_recall(name_or_path: str) -> bool:
    """Whether a protocol is one of this task.

    Raises:
        ValueError: it cannot be read.
    """
    return read_raw(name_or_path, ()).get("task") == "recall"


def load_recall(name_or_path: str, settings: Sequence[str] = ()) -> RecallProtocol:
    """Read a protocol, apply `--set` settings, and check the whole.

    Raises:
        ValueError: one line with every problem found.
    """
    raw: dict[str, Any] = read_raw(name_or_path, settings)
    try:
        protocol = RecallProtocol.model_validate(raw)
    except ValidationError as error:
        wrong = "; ".join(_describe(dict(item)) for item in error.errors())
        raise ValueError(f"protocol {name_or_path}: {wrong}") from None
    problems = []
    for part in ("train", "test"):
        for kind in getattr(protocol, part):
            try:
                kind.recall()
            except ValueError as error:
                problems.append(f"{part}: {error}")
            if kind.pairs > protocol.vocab_size // 2 - 1:
                problems.append(
                    f"{part}: pairs={kind.pairs} need {kind.pairs} keys, vocab_size={protocol.vocab_size} has "
                    f"{protocol.vocab_size // 2 - 1}; raise vocab_size or ask for fewer pairs"
                )
            if part == "train" and kind.length > protocol.batch_tokens:
                problems.append(
                    f"batch_tokens={protocol.batch_tokens}: an example of length {kind.length} does not fit; raise it"
                )
    if protocol.hidden_size % protocol.num_heads:
        problems.append(
            f"hidden_size={protocol.hidden_size}: must be divisible by num_heads={protocol.num_heads}; change one"
        )
    for key in ("seeds", "learning_rates"):
        values = getattr(protocol, key)
        if len(set(values)) < len(values):
            problems.append(f"{key}={values}: holds a value twice; name each once")
    for name, entry in protocol.models.items():
        unread = sorted(entry.model_fields_set - READ)
        problems += [f"models.{name}.{key}: has no meaning for recall; leave it out" for key in unread]
    if problems:
        raise ValueError(f"protocol {name_or_path}: {'; '.join(problems)}")
    return protocol


def _describe(item: dict[str, Any]) -> str:
    inside = item["loc"][0] in ("train", "test") and len(item["loc"]) > 1
    return describe_problem(item, Kind.model_fields if inside else RecallProtocol.model_fields)
