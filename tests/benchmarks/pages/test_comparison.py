"""Further models of another file stand beside those of a comparison, where both did the same work."""

import pytest

from benchmarks.pages.comparison import joined
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
