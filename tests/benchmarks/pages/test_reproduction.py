"""docs/reproduction.md gets its figures from the results, and agrees with those in the repository."""

import json

import pytest

from benchmarks.pages import reproduction


def run(name, **changes):
    return {
        "model_name": name,
        "audit": "causal",
        "parameters": 4_146_120,
        "learning_rate": 1e-3,
        "steps": 9_764,
        "total_tokens": 9_764 * 2_048,
        "training_time": 1_000.4,
        "seconds_per_step": 0.1024,
        "tokens_per_second": 20_000.0,
        "peak_memory_mb": 812.3,
        "epoch_perplexities": [200.0, 100.0],
        "final_perplexity": 100.0,
        "held_out_perplexity": 123.45,
        "held_out_perplexity_without_carry": None,
        "leaking_perplexity": None,
        "flops_convention": None,
    } | changes


CONVENTION = dict.fromkeys(("forward_flops", "backward_flops", "optimizer_flops", "total_flops_per_step"), 10)
RESULTS = {
    "environment": {
        "cpu": "A chip",
        "threads": 2,
        "cpu_count": 2,
        "python": "3.11.7",
        "versions": {"torch": "2.13.0", "numba": "0.68"},
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
    },
    "data": {"name": "a text"},
    "runs": [
        run(
            "resnet-bk-seed",
            audit="leaks",
            held_out_perplexity=None,
            leaking_perplexity=77.7,
            flops_convention=CONVENTION,
        ),
        run("resnet-bk", held_out_perplexity_without_carry=124.5),
    ],
    "ngrams": {
        "split": "validation",
        "train_tokens": 10_000_000,
        "tokens": 229_071,
        "vocab_size": 30_000,
        "unk_rate": 0.0296,
        "ngrams": [{"name": "unigram", "perplexity": 793.4}],
    },
}
PAGE = "Words.\n" + "".join(
    f"<!-- begin seed-local:{name} -->\nold\n<!-- end -->\n" for name in ("report", "models", "machine")
)


def test_a_page_is_filled():
    page = reproduction.fill(PAGE, RESULTS)
    assert "old" not in page
    for line in (
        "| training time, s | 1,898 (laptop GPU) | 1,000 (CPU) |",
        "| training FLOPs | 239,123,985,496,960 | 97,640 |",
        "| `resnet-bk-seed` | 4,146,120 | 0.001 | 1,000 | 0.1024 | 20,000 | 812 | 200.0 / 100.0 | leaks (77.7) |",
        "| unigram | – | – | – | – | – | – | – | 793.4 |",
        "- commit 0123456789ab",
    ):
        assert line in page.splitlines(), line
    assert "123.5 (124.5 without carried state)" in page
    assert reproduction.fill(page, RESULTS) == page


@pytest.mark.parametrize(
    ("results", "page", "says"),
    [
        (RESULTS | {"runs": []}, PAGE, "must hold a run of resnet-bk-seed and n-gram baselines"),
        (RESULTS | {"runs": RESULTS["runs"] * 2}, PAGE, "several runs of resnet-bk-seed"),
        (RESULTS | {"ngrams": RESULTS["ngrams"] | {"split": "test"}}, PAGE, "score --split validation"),
        (RESULTS, "Words.", "the page has the places none of seed-local, but must have machine, models, report"),
        (None, PAGE, r"results\.json does not exist; is .* a folder that resnet-bk wrote"),
        ([1], PAGE, "holds no JSON object; restore it, or remove it and run again"),
    ],
)
def test_what_does_not_fit(results, page, says, tmp_path):
    (tmp_path / "page.md").write_text(page)
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=says):
        reproduction.main([str(tmp_path / "results.json"), "--page", str(tmp_path / "page.md")])


def test_the_page_has_one_source():
    with pytest.raises(ValueError, match="2 files are named; the page is filled from one"):
        reproduction.main([str(reproduction.RESULTS)] * 2)
