"""Further models of another file stand beside those of a comparison, where both did the same work."""

import pytest

from benchmarks.pages.comparison import joined, ratios
from tests.bench.report_samples import sample_results, sample_run
from tests.benchmarks.made_runs import run

PROTOCOL = {"name": "quick", "batch_size": 10}
DATA = {"fingerprints": {"train_tokens": "one"}}
QUICK = {"protocol": PROTOCOL, "data": DATA, "runs": [run("llama", 40.0)]}
MORE = {
    "protocol": PROTOCOL | {"name": "quick-pointer", "description": "other words"},
    "data": DATA,
    "runs": [run("no-pointer", 45.0), run("llama", 1.0)],
}
OTHER = {"protocol": {"name": "small"}, "runs": [run("llama", 30.0)]}


def test_models_that_it_does_not_have_itself():
    found = joined([OTHER, MORE, QUICK])
    assert [of["protocol"]["name"] for of in found] == ["small", "quick"]
    assert [(of["model_name"], of["held_out_perplexity"]) for of in found[1]["runs"]] == [
        ("llama", 40.0),
        ("no-pointer", 45.0),
    ]
    assert joined([OTHER, QUICK]) == [OTHER, QUICK]


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": MORE["protocol"] | {"batch_size": 7}},
        {"data": {"fingerprints": {"train_tokens": "other"}}},
    ],
)
def test_of_other_text_or_settings(change):
    with pytest.raises(ValueError, match=r"quick and quick-pointer differ in (batch_size|train_tokens), and cannot"):
        joined([QUICK, MORE | change])


def test_further_models_of_nothing():
    with pytest.raises(ValueError, match="the results of quick-pointer are further models of quick; name its results"):
        joined([OTHER, MORE])


@pytest.mark.parametrize("leaky", ["resnet-bk", "llama"])
def test_a_model_that_leaks_with_one_seed_has_no_ratio(leaky):
    names, losses = ("resnet-bk", "llama"), {"document_nll": [20.0, 90.0, 50.0] * 7}
    found = sample_results()
    found["data"]["document_tokens"] = [10, 30, 20] * 7
    found["runs"] = [sample_run(name, **losses) for name in names]
    assert ratios(found) == {"llama": "1.000 (1.000 to 1.000)"}
    found["runs"].append(sample_run(leaky, seed=1, audit="leaks"))
    assert ratios(found) == {}
