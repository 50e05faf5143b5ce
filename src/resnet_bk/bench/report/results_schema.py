"""The shape of ``results.json`` as the table and the report read it, and its check.

The runner records more than is read here (extra keys are kept, not refused). What a comparison cannot do without is
required; the rest may be null or absent and is then shown as missing.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from resnet_bk.bench.environment import environments_of
from resnet_bk.figures import UNKNOWN_BUCKET, perplexity

MAX_PROBLEMS = 8  # the message stays one readable line

T = TypeVar("T")
# A list that the runner may leave null.
OptionalList = Annotated[list[T], BeforeValidator(lambda value: [] if value is None else value)]


class Bucket(BaseModel):
    """Held-out tokens of one range of training counts."""

    name: str
    tokens: int = Field(ge=0)
    perplexity: float | None  # null where the bucket holds no token


class LogPoint(BaseModel):
    """One logged step: training loss in nats a token, seconds of training so far (warm-up not counted), and what the
    model reports of itself, by name."""

    step: int
    seconds: float
    loss: float | None
    measures: dict[str, float] = {}


class ValidationPoint(BaseModel):
    """One validation in the course of training."""

    step: int
    seconds: float
    perplexity: float | None


class TriedRate(BaseModel):
    """One learning rate of the grid and what it reached."""

    learning_rate: float
    held_out_perplexity: float | None


class Ngram(BaseModel):
    """The n-gram model of one order."""

    name: str
    order: int = Field(ge=1)
    perplexity: float
    bits_per_character: float
    different_ngrams: int


class NgramBaselines(BaseModel):
    """What `resnet-bk ngrams` found on the data of the runs."""

    model_config = ConfigDict(extra="allow")

    split: str
    method: str
    train_tokens: int | None = None
    ngrams: list[Ngram]


class Call(BaseModel):
    """A call of `resnet-bk bench` that trained a run, from this step on; a run that was stopped has several."""

    from_step: int = Field(ge=0)
    environment: dict[str, Any]


class Later(BaseModel):
    """Figures that a later call measured on the finished model."""

    figures: list[str]
    environment: dict[str, Any]


class Run(BaseModel):
    """One trained model: one seed at one learning rate.

    `held_out_perplexity` is of the validation split. `final_...`, `best_...` and `epoch_...` are of training, as in the
    earlier report: means over the tokens of an epoch, each taken before the model learned from it.
    """

    model_config = ConfigDict(extra="allow")

    model_name: str = Field(min_length=1)
    seed: int
    audit: Literal["causal", "leaks"]
    held_out_perplexity: float | None
    learning_rate: float = Field(gt=0)
    parameters: int = Field(gt=0)
    parameters_without_embeddings: int = Field(gt=0)
    steps: int = Field(gt=0)
    total_tokens: int = Field(gt=0)

    audit_detail: str | None = None
    carry_state: bool | None = None
    held_out_perplexity_without_carry: float | None = None
    held_out_perplexity_overlapping: float | None = None
    test_perplexity: float | None = None
    test_perplexity_without_carry: float | None = None
    bits_per_character: float | None = None
    unk_rate: float | None = None
    seconds_per_step: float | None = None
    tokens_per_second: float | None = None
    training_time: float | None = None
    peak_memory_mb: float | None = None
    peak_memory_kind: str | None = None
    vocab_size: int | None = None
    total_flops_per_step: float | None = None
    total_training_flops: float | None = None
    device: str | None = None
    environment: dict[str, Any] | None = None  # of the call that finished the run
    calls: OptionalList[Call] = []
    later: OptionalList[Later] = []
    diverged: str | None = None
    backend: dict[str, Any] | str | None = None
    head: str | None = None
    final_loss: float | None = None
    final_perplexity: float | None = None
    best_perplexity: float | None = None
    epoch_losses: OptionalList[float] = []
    epoch_perplexities: OptionalList[float | None] = []  # null beyond the largest float
    epoch_times: OptionalList[float] = []
    learning_rates_tried: OptionalList[TriedRate] = []
    buckets: OptionalList[Bucket] = []
    # Nats, of each held-out document, null where they are no number; its tokens are in `data.document_tokens`.
    document_nll: OptionalList[float | None] = []
    # The same of overlapping windows.
    overlapping_buckets: OptionalList[Bucket] = []
    overlapping_document_nll: OptionalList[float | None] = []
    log: OptionalList[LogPoint] = []
    validation_log: OptionalList[ValidationPoint] = []

    @field_validator("held_out_perplexity", "held_out_perplexity_without_carry", "held_out_perplexity_overlapping")
    @classmethod
    def _at_least_one(cls, value: float | None) -> float | None:
        # Not-a-number and infinity are what a diverged run reports; the report says so.
        if value is not None and math.isfinite(value) and value < 1.0:
            raise ValueError("a perplexity is 1 or more, or null")
        return value

    @model_validator(mode="after")
    def _leaks_have_no_perplexity(self) -> "Run":
        if self.audit == "leaks" and self.held_out_perplexity is not None:
            raise ValueError("a run whose audit is 'leaks' must have held_out_perplexity null")
        return self

    @model_validator(mode="after")
    def _epochs_agree(self) -> "Run":
        lengths = {len(self.epoch_losses), len(self.epoch_perplexities), len(self.epoch_times)}
        if len(lengths) > 1:
            raise ValueError("epoch_losses, epoch_perplexities and epoch_times must have one entry an epoch each")
        return self

    @property
    def environments(self) -> list[dict[str, Any]]:
        """Where the run was trained, see `environments_of`."""
        return environments_of(self.model_dump(include={"calls", "environment"}))

    @property
    def evaluated_in(self) -> list[dict[str, Any]]:
        """Where its figures of held-out text were measured: by the call that finished it, and by later ones."""
        finished = [] if self.environment is None else [self.environment]
        return finished + [later.environment for later in self.later]

    @property
    def perplexity(self) -> float | None:
        """Held-out perplexity, or None where the run leaks or diverged."""
        value = self.held_out_perplexity
        return value if value is not None and math.isfinite(value) else None

    @property
    def perplexity_without_carry(self) -> float | None:
        """Held-out perplexity with the state reset at each segment, or None where nothing is carried."""
        return self._of_causal(self.held_out_perplexity_without_carry)

    @property
    def perplexity_overlapping(self) -> float | None:
        """Held-out perplexity in windows that overlap by half, or None where it was not measured."""
        return self._of_causal(self.held_out_perplexity_overlapping)

    @property
    def known_words(self) -> float | None:
        """Held-out perplexity of all words but `<unk>`, or None where that is not known or no other figure."""
        return known_words(self.buckets) if self.perplexity is not None else None

    @property
    def known_words_overlapping(self) -> float | None:
        """The same in windows that overlap by half."""
        return known_words(self.overlapping_buckets) if self.perplexity_overlapping is not None else None

    def _of_causal(self, value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) and self.audit == "causal" else None


def known_words(buckets: Sequence[Bucket]) -> float | None:
    """Perplexity of the words that are in the vocabulary. A model is asked for `<unk>` as for a word, but it stands for
    many: its share of the losses varies more between trainings than that of all others.

    None where no token is `<unk>`, for this is the perplexity of all of them then, and where a figure is no number.
    """
    known = [bucket for bucket in buckets if bucket.name != UNKNOWN_BUCKET and bucket.tokens]
    if not known or sum(bucket.tokens for bucket in buckets) == (tokens := sum(bucket.tokens for bucket in known)):
        return None
    figures = [bucket.perplexity for bucket in known]
    if any(figure is None or not math.isfinite(figure) for figure in figures):
        return None
    return perplexity(sum(bucket.tokens * math.log(bucket.perplexity or math.nan) for bucket in known) / tokens)


class Results(BaseModel):
    """The whole of ``results.json``."""

    model_config = ConfigDict(extra="allow")

    protocol: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    runs: list[Run] = Field(min_length=1)
    ngrams: NgramBaselines | None = None

    @model_validator(mode="after")
    def _runs_differ(self) -> "Results":
        seen: set[tuple[str, int]] = set()
        for run in self.runs:
            key = (run.model_name, run.seed)
            if key in seen:
                raise ValueError(
                    f"two runs have model_name={key[0]!r} and seed={key[1]}; keep the one at the best rate"
                )
            seen.add(key)
        return self


def parse_results(results: dict[str, Any]) -> Results:
    """Check a results dict and give it attributes.

    Raises:
        ValueError: one line that names each key that is missing or wrong.
    """
    try:
        return Results.model_validate(results)
    except ValidationError as error:
        protocol = results.get("protocol") if isinstance(results, dict) else None
        task = protocol.get("task") if isinstance(protocol, dict) else None
        if task is not None:
            raise ValueError(
                f"results: of another task ({task}), which has no perplexities; `resnet-bk bench` prints its table"
            ) from None
        problems = [_describe(dict(item)) for item in error.errors()]
    shown = "; ".join(problems[:MAX_PROBLEMS])
    more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    raise ValueError(f"results: {shown}{more}. `resnet-bk bench` writes a complete results.json.")


def _describe(item: dict[str, Any]) -> str:
    where = ""
    for part in item["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}"
    where = where.removeprefix(".") or "results"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return f"{where}: {message}"
    return f"{where}={item['input']!r:.60}: {message}"
