import math
import statistics

import numpy as np
import pytest
from scipy import stats

from resnet_bk.bench.report import statistics as statistics_module
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import (
    ModelSummary,
    compare,
    paired_bootstrap,
    paired_t_test,
    ranked,
    spread,
    summarize,
)
from tests.bench.report_samples import sample_results, sample_run


def summaries(results: dict) -> dict[str, ModelSummary]:
    return {model.name: model for model in summarize(parse_results(results))}


def test_spread_is_the_sample_standard_deviation() -> None:
    values = [99.0, 101.5, 104.0]
    found = spread(values)
    # The library's own sum in rational arithmetic; agreement to rounding of float64.
    assert found.mean == pytest.approx(statistics.mean(values), rel=1e-15)
    assert found.deviation == pytest.approx(statistics.stdev(values), rel=1e-14)
    assert found.count == 3


def test_one_value_has_no_spread() -> None:
    assert spread([3.0]).deviation is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_spread_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"values=.*finite"):
        spread(values)


def test_paired_t_test_is_that_of_the_losses() -> None:
    first, second = [99.0, 101.0, 98.0, 100.0], [102.0, 103.5, 100.0, 104.5]
    found = paired_t_test(first, second)
    expected = stats.ttest_1samp(np.log(first) - np.log(second), 0.0)
    # Two routes through float64 to one statistic: differences near 0.03 out of logarithms near 4.6 lose two digits.
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.ratio == pytest.approx(statistics.geometric_mean(a / b for a, b in zip(first, second, strict=True)))
    assert found.count == 4
    # Exchanging the models inverts the ratio and leaves the two-sided p value.
    back = paired_t_test(second, first)
    assert back.ratio == pytest.approx(1 / found.ratio)
    assert back.p_value == pytest.approx(found.p_value)


def test_pairing_sees_what_an_unpaired_test_does_not() -> None:
    first = [90.0, 100.0, 110.0]
    second = [92.1, 101.9, 112.2]  # always about 2% worse, seeds far apart
    paired = paired_t_test(first, second).p_value
    assert paired is not None
    assert paired < 0.01
    assert stats.ttest_ind(first, second).pvalue > 0.5


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_differences_that_do_not_vary_have_no_p_value(factor: float) -> None:
    first = [99.0, 101.0, 98.0]
    found = paired_t_test(first, [factor * value for value in first])
    assert found.p_value is None
    assert found.ratio == pytest.approx(1 / factor)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0], [1.0], "two or more pairs"),
        ([1.0, 2.0], [1.0], "first has 2 values, second 1"),
        ([1.0, math.nan], [1.0, 2.0], "finite and above 0"),
        ([1.0, 0.0], [1.0, 2.0], "finite and above 0"),
    ],
)
def test_paired_t_test_refuses(first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_t_test(first, second)


def test_paired_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    tokens = generator.integers(50, 400, size=200)
    hardness = generator.normal(4.6, 0.5, size=200)  # shared by both models: pairing must take it out
    first = tokens * (hardness + generator.normal(0.00, 0.02, size=200))
    second = tokens * (hardness + generator.normal(0.05, 0.02, size=200))
    found = paired_bootstrap(first, second, tokens, resamples=999)
    assert found.ratio == pytest.approx(math.exp((first.sum() - second.sum()) / tokens.sum()))
    assert found.low < found.ratio < found.high < 1.0
    # Standard error of the difference: 0.02 sqrt(2) / sqrt(200) = 0.002 or a little more, by unequal lengths; the 95%
    # interval is some 4 of these wide. An unpaired bootstrap would be 25 times as wide.
    assert 0.005 < found.high - found.low < 0.015
    assert paired_bootstrap(first, second, tokens, resamples=999) == found
    monkeypatch.setattr(statistics_module, "MOST_DRAWN", 10 * len(tokens))  # so many at once change no number
    assert paired_bootstrap(first, second, tokens, resamples=999) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0], [5, 5]), r"\(2, 1, 2\) documents"),
        (([1.0], [1.0], [5]), "two or more"),
    ],
)
def test_paired_bootstrap_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(*arguments)


def test_models_are_grouped_in_order_with_their_seeds() -> None:
    results = sample_results("llama", "resnet-bk", seeds=(2, 0, 1))
    found = summaries(results)
    assert list(found) == ["llama", "resnet-bk"]
    assert found["llama"].seeds == (0, 1, 2)
    runs = [run["held_out_perplexity"] for run in results["runs"] if run["model_name"] == "llama"]
    assert found["llama"].perplexity.mean == pytest.approx(statistics.mean(runs))
    assert found["llama"].without_carry is None
    assert found["resnet-bk"].without_carry.count == 3
    assert found["resnet-bk"].carries
    assert found["llama"].rates_tried == (1e-3, 3e-3, 1e-2)


def test_one_leaking_seed_takes_the_perplexity() -> None:
    results = sample_results("resnet-bk", "llama", seeds=(0, 1))
    results["runs"][0] = sample_run("resnet-bk", audit="leaks")
    found = summaries(results)
    assert found["resnet-bk"].state == "leaks"
    assert found["resnet-bk"].perplexity is None
    assert found["resnet-bk"].without_carry is None
    assert found["resnet-bk"].bucket_perplexities() == {}
    assert [model.name for model in ranked(found.values())] == ["llama"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_one_diverged_seed_takes_the_mean(value: float | None) -> None:
    results = sample_results("resnet-bk", "llama", seeds=(0, 1))
    results["runs"][1]["held_out_perplexity"] = value
    model = summaries(results)["resnet-bk"]
    assert model.state == "diverged"
    assert model.perplexity is None


def test_compare_pairs_by_seed() -> None:
    results = sample_results("resnet-bk", "llama", seeds=(0, 1, 2))
    results["runs"].append(sample_run("llama", seed=7, perplexity=500.0))  # no partner: must not count
    found = summaries(results)
    test = compare(found["resnet-bk"], found["llama"])
    assert test is not None
    assert test.count == 3
    assert test.ratio < 1.0
    one = summaries(sample_results("resnet-bk", "llama"))
    assert compare(one["resnet-bk"], one["llama"]) is None


def test_means_are_missing_where_a_seed_lacks_the_field() -> None:
    results = sample_results("llama", seeds=(0, 1))
    results["runs"][0]["peak_memory_mb"] = None
    model = summaries(results)["llama"]
    assert model.mean("peak_memory_mb") is None
    assert model.mean("steps") == 500


def test_buckets_are_means_over_seeds() -> None:
    results = sample_results("llama", seeds=(0, 1))
    results["runs"][0]["buckets"][1]["perplexity"] = None
    model = summaries(results)["llama"]
    values = [run["buckets"][0]["perplexity"] for run in results["runs"]]
    assert model.bucket_perplexities()["over 10,000"] == pytest.approx(statistics.mean(values))
    assert model.bucket_perplexities()["1,001-10,000"] is None
