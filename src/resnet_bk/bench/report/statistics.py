"""Means, spreads and paired tests over seeds, and the summary of each model's runs.

Spread is the sample standard deviation (divisor n - 1). With one seed there is none: it is None, never 0.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resnet_bk.bench.report.results_schema import Results, Run

# Documents drawn at once by the bootstrap, which takes 32 bytes for each.
MOST_DRAWN = 1 << 22
# Of fewer documents the draws are too much alike: the interval would be far too narrow.
FEWEST_DOCUMENTS = 20


class View(NamedTuple):
    """A way of reading the held-out text: names of a run's perplexity in it and of its losses by document."""

    perplexity: str
    documents: str


HELD_OUT = View("perplexity", "document_nll")
WINDOWS = View("perplexity_overlapping", "overlapping_document_nll")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``count`` values; ``deviation`` is None for one value."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class PairedTest:
    """Student's paired t test of two models on the same seeds.

    ``ratio`` is exp(mean difference of log perplexity), first over second: the geometric mean of the ratios of
    perplexities. ``p_value`` is two-sided and None where the differences do not vary (the statistic is 0/0 or x/0).
    """

    ratio: float
    p_value: float | None
    count: int


@dataclass(frozen=True)
class Interval:
    """A ratio of perplexities with its bootstrap confidence interval over ``count`` documents."""

    ratio: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class ModelSummary:
    """All that is shown of one model: the runs at the learning rate picked, one a seed.

    ``state`` is "ranked"; "leaks" where the audit failed for any seed; "diverged" where any seed has no finite
    perplexity (a mean over the seeds that survived would flatter the model).
    """

    name: str
    runs: tuple[Run, ...]
    state: str
    perplexity: Spread | None
    without_carry: Spread | None
    overlapping: Spread | None
    known_words: Spread | None
    known_words_overlapping: Spread | None
    test: Spread | None
    test_without_carry: Spread | None
    learning_rates: tuple[float, ...]
    rates_tried: tuple[float, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs shown, ascending."""
        return tuple(run.seed for run in self.runs)

    @property
    def carries(self) -> bool:
        """Whether the model's state goes from segment to segment in training and evaluation."""
        return any(run.carry_state for run in self.runs)

    def mean(self, field: str) -> float | None:
        """Mean over seeds of a run's numeric field; None where a seed lacks it."""
        values = [getattr(run, field) for run in self.runs]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return float(np.mean(values))

    def bucket_perplexities(self) -> dict[str, float | None]:
        """Mean perplexity over seeds by word-frequency bucket; empty where the model leaks or a seed has none."""
        if self.state != "ranked" or not all(run.buckets for run in self.runs):
            return {}
        means: dict[str, float | None] = {}
        for bucket in self.runs[0].buckets:
            values = [other.perplexity for run in self.runs for other in run.buckets if other.name == bucket.name]
            finite = [value for value in values if value is not None and math.isfinite(value)]
            means[bucket.name] = float(np.mean(finite)) if len(finite) == len(self.runs) else None
        return means


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = np.asarray(list(values), dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"values={array.tolist()}: give one or more finite numbers")
    deviation = float(array.std(ddof=1)) if array.size > 1 else None
    return Spread(mean=float(array.mean()), deviation=deviation, count=int(array.size))


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Compare the perplexities of two models seed by seed, on the logarithm (the loss in nats).

    Args:
        first: perplexities of one model, one a seed.
        second: perplexities of the other, in the same order of seeds.

    Raises:
        ValueError: lengths that differ, fewer than two seeds, or a value that is no perplexity.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"first has {len(first)} values, second {len(second)}: a paired test takes two or more pairs")
    if not all(math.isfinite(value) and value > 0 for value in (*first, *second)):
        raise ValueError(f"first={list(first)}, second={list(second)}: perplexities must be finite and above 0")
    from scipy import stats  # about half a second to import, and only needed from two seeds on

    log_first, log_second = np.log(first), np.log(second)
    differences = log_first - log_second
    ratio = float(np.exp(differences.mean()))
    # Differences equal but for rounding (a few units in the last place of the logarithms) have no t statistic.
    rounding = 8 * np.finfo(np.float64).eps * max(1.0, float(np.abs(log_first).max()), float(np.abs(log_second).max()))
    if np.ptp(differences) <= rounding:
        return PairedTest(ratio=ratio, p_value=None, count=len(first))
    return PairedTest(ratio=ratio, p_value=float(stats.ttest_rel(log_first, log_second).pvalue), count=len(first))


def paired_bootstrap(
    first_nll: Sequence[float],
    second_nll: Sequence[float],
    tokens: Sequence[int],
    *,
    resamples: int = 9_999,
) -> Interval:
    """Ratio of two perplexities on one held-out text, with a percentile bootstrap interval of 95% over its documents.

    Documents (or segments) are drawn with replacement and both models are scored on the same draw. The interval is
    about the choice of text; it says nothing of the spread between training runs.

    Args:
        first_nll: sum of negative log likelihoods of each document, nats, shape [documents].
        second_nll: the same for the other model.
        tokens: tokens predicted in each document, shape [documents].

    Raises:
        ValueError: shapes that differ, or fewer than two documents.
    """
    sizes = (len(first_nll), len(second_nll), len(tokens))
    if len(set(sizes)) != 1 or sizes[0] < 2:
        raise ValueError(f"first_nll, second_nll and tokens have {sizes} documents: give the same two or more of each")
    from scipy import stats

    def log_ratio(difference: np.ndarray, weight: np.ndarray, axis: int = -1) -> np.ndarray:
        return difference.sum(axis=axis) / weight.sum(axis=axis)

    difference = np.subtract(first_nll, second_nll, dtype=np.float64)
    weight = np.asarray(tokens, dtype=np.float64)
    result = stats.bootstrap(
        (difference, weight),
        log_ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, min(256, MOST_DRAWN // len(weight))),  # which changes no number
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return Interval(
        ratio=float(np.exp(log_ratio(difference, weight))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        count=len(weight),
    )


def summarize(results: Results) -> list[ModelSummary]:
    """One summary a model, in the order in which the models first appear."""
    by_model: dict[str, list[Run]] = {}
    for run in results.runs:
        by_model.setdefault(run.model_name, []).append(run)
    return [_summary(name, runs) for name, runs in by_model.items()]


def ranked(models: Iterable[ModelSummary]) -> list[ModelSummary]:
    """The models that have a perplexity, best first."""
    return sorted(
        (model for model in models if model.perplexity is not None),
        key=lambda model: model.perplexity.mean if model.perplexity else math.inf,
    )


def on_shared_seeds(first: ModelSummary, second: ModelSummary) -> tuple[ModelSummary, ModelSummary]:
    """Both models with the seeds that both have alone, or as they are where they share none: of a seed that the other
    lacks a ratio would take luck for a difference."""
    shared = {run.seed for run in first.runs} & {run.seed for run in second.runs}
    if not shared:
        return first, second
    ours, theirs = (
        _summary(model.name, [run for run in model.runs if run.seed in shared]) for model in (first, second)
    )
    return ours, theirs


def perplexity_ratio(first: ModelSummary, second: ModelSummary) -> float:
    """Of the perplexities of two ranked models, over the seeds that both have (`on_shared_seeds`)."""
    ours, theirs = (model.perplexity for model in on_shared_seeds(first, second))
    assert ours is not None
    assert theirs is not None
    return ours.mean / theirs.mean


def best_of(order: list[ModelSummary]) -> str | None:
    """The first of several ranked models, unless another is ahead of it over the seeds that both have."""
    if len(order) < 2 or any(perplexity_ratio(order[0], other) > 1 for other in order[1:]):
        return None
    return order[0].name


def compare(first: ModelSummary, second: ModelSummary, view: View = HELD_OUT) -> PairedTest | None:
    """The paired test on the seeds that both models ran; None with fewer than two."""
    ours, theirs = ({run.seed: getattr(run, view.perplexity) for run in model.runs} for model in (first, second))
    pairs = [(ours[seed], theirs[seed]) for seed in first.seeds if seed in theirs]
    finite = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(finite) < 2:
        return None
    return paired_t_test([a for a, _ in finite], [b for _, b in finite])


def compare_documents(
    first: ModelSummary, second: ModelSummary, tokens: Sequence[int], view: View = HELD_OUT
) -> Interval | None:
    """The bootstrap over documents, each model's losses averaged over its seeds (`on_shared_seeds`).

    None where a run kept no losses, or one of them is no number, or where the documents are too few to draw from.

    Args:
        first, second: the models.
        tokens: tokens predicted in each document of the held-out text.
        view: how it was read.
    """
    pair = [[getattr(run, view.documents) for run in model.runs] for model in on_shared_seeds(first, second)]
    ours, theirs = (
        np.array([losses for losses in runs if len(losses) == len(tokens)], dtype=np.float64) for runs in pair
    )  # a loss that is null becomes NaN
    complete = [len(ours), len(theirs)] == [len(runs) for runs in pair]
    if len(tokens) < FEWEST_DOCUMENTS or not complete or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    return paired_bootstrap(ours.mean(0).tolist(), theirs.mean(0).tolist(), tokens)


def _summary(name: str, runs: list[Run]) -> ModelSummary:
    tried = {run.learning_rate for run in runs} | {
        rate.learning_rate for run in runs for rate in run.learning_rates_tried
    }
    shown = sorted(runs, key=lambda run: run.seed)
    if any(run.audit == "leaks" for run in shown):
        state = "leaks"
    elif any(run.perplexity is None for run in shown):
        state = "diverged"
    else:
        state = "ranked"

    def of_all(values: list[float | None]) -> Spread | None:
        known = [value for value in values if value is not None]
        return spread(known) if state == "ranked" and len(known) == len(shown) else None

    return ModelSummary(
        name=name,
        runs=tuple(shown),
        state=state,
        perplexity=of_all([run.perplexity for run in shown]),
        without_carry=of_all([run.perplexity_without_carry for run in shown]),
        overlapping=of_all([run.perplexity_overlapping for run in shown]),
        known_words=of_all([run.known_words for run in shown]),
        known_words_overlapping=of_all([run.known_words_overlapping for run in shown]),
        test=of_all([run.test_perplexity for run in shown]),
        test_without_carry=of_all([run.test_perplexity_without_carry for run in shown]),
        learning_rates=tuple(sorted({run.learning_rate for run in shown})),
        rates_tried=tuple(sorted(tried)),
    )
