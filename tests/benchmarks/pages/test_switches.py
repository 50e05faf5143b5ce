"""docs/switches.md gets its figures from the results of the ablation protocols, and agrees with those in results/."""

import json
import re

import pytest

from benchmarks.pages import switches


def run(name, seed, seconds, perplexity, **changes):
    return {
        "model_name": name,
        "seed": seed,
        "log": [{"step": step, "seconds": step * seconds} for step in (2, 4)],
        "total_flops_per_step": 2.5e10,
        "peak_memory_mb": 700.4,
        "held_out_perplexity": perplexity,
        "held_out_measures": {},
        "config": {"num_hidden_layers": 4},
    } | changes


RESULTS = {
    "protocol": {"name": "ablation"},
    "environment": {
        "cpu": "A chip",
        "threads": 2,
        "cpu_count": 2,
        "python": "3.11.7",
        "versions": {"torch": "2.13.0", "numba": "0.68", "rich": "15"},
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
    },
    "data": {"name": "a text"},
    "runs": [
        run("exact", 0, 0.1, 100.0),
        run("exact", 1, 0.3, 102.0),
        *(run("plain", seed, 0.8, 101.0, config={"num_hidden_layers": 4, "gradient": "autograd"}) for seed in (0, 1)),
        *(run("adaptive", seed, 0.1, 99.0, held_out_measures={"depth": 2.5, "ponder": 3.0}) for seed in (0, 1)),
    ],
}
PAGE = "Words.\n<!-- begin ablation:table -->\nold\n<!-- end -->\n"


def test_a_page_is_filled():
    lines = switches.fill(PAGE, [RESULTS]).splitlines()
    for line in (
        "| `exact` | 25.00 | 101.0 ± 1.4 | – |",
        "| `plain` | above 25.00 | 101.0 ± 0.0 | – |",
        "| `adaptive` | 25.00 | 99.0 ± 0.0 | 2.50 of 4 blocks a token |",
        "- commit 0123456789ab",
        "- data a text",
    ):
        assert line in lines, line


TIMES = RESULTS | {"protocol": {"name": "ablation-times"}}


def test_times_stand_beside_the_figures_of_quality():
    lines = switches.fill(PAGE, [TIMES, RESULTS]).splitlines()
    assert "| `exact` | 0.200 | 1.00 | 4.00 | 700 | 25.00 | 101.0 ± 1.4 | – |" in lines
    assert "| `plain` | 0.800 | 0.25 | 1.00 | 700 | above 25.00 | 101.0 ± 0.0 | – |" in lines
    where = "A chip, 2 threads of 2 cores; Python 3.11.7, torch 2.13.0, numba 0.68; commit 0123456789ab"
    assert [line for line in lines if line.startswith("- ")][:2] == [
        f"- times and memory: {where}",
        f"- the rest: {where}",
    ]


def test_the_time_leaves_out_the_first_stretch():
    log = [{"step": 2, "seconds": 5.0}, {"step": 4, "seconds": 7.0}, {"step": 6, "seconds": 8.0}]
    assert switches.seconds_a_step({"log": log}) == pytest.approx((1.0 + 0.5) / 2)
    with pytest.raises(ValueError, match=r"^plain, seed 0, has one log line, which gives no time a step; train more"):
        switches.seconds_a_step({"log": log[:1], "model_name": "plain", "seed": 0})


@pytest.mark.parametrize(
    ("config", "depth", "kept"),
    [
        ({"multi_scale": None, "sparse_bk": None}, 4, 0),
        ({"multi_scale": [1, 2, 4, 1], "sparse_bk": [1, 0.5, 0.25, 1]}, 2, 2),
        ({"sparse_bk": 0.5}, 4, 4),
    ],
)
def test_measures_are_of_the_blocks_that_have_them(config, depth, kept):
    measures = {"depth": 1.5, "kept": 0.5}
    runs = [run("all", 0, 0.1, 99.0, held_out_measures=measures, config={"num_hidden_layers": 4} | config)]
    page = switches.fill(PAGE, [RESULTS | {"runs": runs}])
    assert f"| 1.50 of {depth} blocks a token, 50% of the sites of {kept} blocks |" in page


def test_times_of_several_machines_are_refused():
    other = run("plain", 1, 0.4, 101.0, environment=RESULTS["environment"] | {"cpu": "Another"})
    says = r"several machines \(A chip, 2 threads of 2 cores; Another, 2 threads of 2 cores\), .* run all on one"
    with pytest.raises(ValueError, match=says):
        switches.fill(PAGE, [RESULTS, TIMES | {"runs": [*RESULTS["runs"], other]}])


def test_one_model_may_be_timed_with_other_memory_settings():
    """`plain` is quickest in huge pages; the page says which runs were."""
    given = RESULTS["environment"] | {"memory_settings": "MALLOC_TOP_PAD_=1"}
    runs = [run | ({"environment": given} if run["model_name"] == "plain" else {}) for run in RESULTS["runs"]]
    page = switches.fill(PAGE, [RESULTS, TIMES | {"runs": runs}])
    assert "A chip, MALLOC_TOP_PAD_=1, 2 threads of 2 cores: 2 runs" in page


def test_the_commits_are_those_of_the_runs():
    runs = [
        run | {"git_commit": letter * 40, "git_dirty": False}
        for run, letter in zip(RESULTS["runs"], "aabbab", strict=True)
    ]
    environment = RESULTS["environment"] | {"git_dirty": True}
    lines = switches.fill(PAGE, [RESULTS | {"runs": runs, "environment": environment}]).splitlines()
    assert f"- commit {'a' * 12}, {'b' * 12}" in lines


def test_results_of_a_benchmark_have_their_places():
    page = "<!-- begin exits:machine -->\n<!-- end -->\n<!-- begin exits:early exit -->\n<!-- end -->\n"
    lines = switches.fill(page, [json.loads((switches.ROOT / "results" / "exits.json").read_text())]).splitlines()
    assert any(line.startswith("| threshold | blocks a token, of 4 |") for line in lines)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([RESULTS, TIMES | {"runs": RESULTS["runs"][:2]}], "no run of plain"),
        ([RESULTS, TIMES | {"runs": RESULTS["runs"][:4]}], "are of other models (adaptive)"),
        (
            [RESULTS | {"runs": [*RESULTS["runs"], run("exact", 2, 0.1, None, audit="leaks")]}],
            "exact of ablation has no perplexity (seed 2, audit: leaks); leave it out of the page",
        ),
        ([RESULTS, TIMES, TIMES], "two of the files are of ablation-times, and the page has one place for it"),
        ([TIMES], "ablation-times gives the times of ablation, whose results are not named"),
        ([RESULTS | {"protocol": {"name": "quick"}}], "are of quick, not of ablation"),
        ([RESULTS | {"protocol": {"name": "ablation-wide"}}], "has the places none of ablation-wide"),
    ],
)
def test_what_does_not_fit(found, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        switches.fill(PAGE, found)
