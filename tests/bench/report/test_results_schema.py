from typing import Any

import pytest

from resnet_bk.bench.report.results_schema import parse_results
from tests.bench.report_samples import sample_results


@pytest.mark.parametrize("key", ["protocol", "environment", "data", "runs"])
def test_a_missing_part_is_named(key: str) -> None:
    results = sample_results()
    del results[key]
    with pytest.raises(ValueError, match=f"^results: {key} is missing"):
        parse_results(results)


REQUIRED = [
    "model_name",
    "seed",
    "audit",
    "held_out_perplexity",
    "learning_rate",
    "parameters",
    "parameters_without_embeddings",
    "steps",
    "total_tokens",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_of_a_run_is_named(key: str) -> None:
    results = sample_results()
    del results["runs"][1][key]
    with pytest.raises(ValueError, match=rf"runs\[1\]\.{key} is missing"):
        parse_results(results)


def test_only_the_required_keys_are_required() -> None:
    results = sample_results("llama")
    results["runs"] = [{key: results["runs"][0][key] for key in REQUIRED}]
    (run,) = parse_results(results).runs
    assert run.log == []
    assert run.peak_memory_mb is None


def test_null_lists_and_figures_are_missing_ones() -> None:
    results = sample_results("llama")
    run = results["runs"][0]
    run |= dict.fromkeys(set(run) - set(REQUIRED))
    parsed = parse_results(results).runs[0]
    assert parsed.buckets == []
    assert parsed.learning_rates_tried == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch_times": []}, r"runs\[0\]: epoch_losses, epoch_perplexities and epoch_times must have one entry"),
        ({"audit": "maybe"}, r"runs\[0\]\.audit='maybe': .*'causal' or 'leaks'"),
        ({"seed": "first"}, r"runs\[0\]\.seed='first'"),
        ({"steps": 0}, r"runs\[0\]\.steps=0: .*greater than 0"),
        ({"held_out_perplexity": 0.5}, r"held_out_perplexity=0\.5: a perplexity is 1 or more"),
        ({"audit": "leaks"}, r"runs\[0\]: .*must have held_out_perplexity null"),
        ({"log": [{"step": 1, "loss": 2.0}]}, r"runs\[0\]\.log\[0\]\.seconds is missing"),
        ({"buckets": "none"}, r"runs\[0\]\.buckets='none'"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], message: str) -> None:
    results = sample_results()
    results["runs"][0] |= changes
    with pytest.raises(ValueError, match=message) as error:
        parse_results(results)
    assert "\n" not in str(error.value)


def test_no_runs() -> None:
    with pytest.raises(ValueError, match=r"runs=\[\]: .*at least 1 item"):
        parse_results(sample_results() | {"runs": []})


def test_a_run_twice() -> None:
    results = sample_results()
    results["runs"].append(results["runs"][0] | {"learning_rate": 1e-2})
    with pytest.raises(ValueError, match=r"two runs have model_name='resnet-bk' and seed=0; keep the one at"):
        parse_results(results)


def test_many_problems_stay_one_line() -> None:
    results = sample_results()
    results["runs"] = [{}, {}]
    with pytest.raises(ValueError, match=r"and 10 more\. `resnet-bk bench` writes") as error:
        parse_results(results)
    assert "\n" not in str(error.value)


def test_of_another_task() -> None:
    with pytest.raises(ValueError, match=r"^results: of another task \(recall\).*prints its table"):
        parse_results({"protocol": {"task": "recall"}, "environment": {}, "runs": []})


@pytest.mark.parametrize("protocol", [[], None, "quick"])
def test_a_protocol_that_is_no_dict(protocol: object) -> None:
    with pytest.raises(ValueError, match=r"^results: protocol="):
        parse_results({"protocol": protocol, "environment": {}, "data": {}, "runs": []})


def test_no_dict() -> None:
    with pytest.raises(ValueError, match=r"^results: results="):
        parse_results([])  # type: ignore[arg-type]
