"""docs/choices.md comes from results/, and agrees with it."""

import pytest

from benchmarks.pages import choices
from tests.benchmarks.made_runs import ENVIRONMENT, run

WHERE = {"environment": ENVIRONMENT}


def of_shares(name, share, learning_rates=None, model="resnet-bk", **changes):
    protocol = {"name": name, "learning_rates": learning_rates, "models": {model: {"carry_reset": share}}}
    views = {"held_out_perplexity_without_carry": 60.0 - 40 * share, "held_out_perplexity_overlapping": 55.0}
    found = run(model, 50.0 - 10 * share, **views)
    return WHERE | {"protocol": protocol, "runs": [found | {"steps": 1000, "seed": 42} | changes]}


def test_shares_of_rows_that_start_from_no_state():
    whole = "<!-- begin carry-reset:table -->\nold\n<!-- end -->\n"
    searched = of_shares("seed-local-tuned", 0.0, [0.01])
    page = choices.fill(whole, [of_shares("carry-reset", share) for share in (0.5, 0.25)] + [searched])
    found = [line for line in page.splitlines() if line.startswith("| `resnet-bk` | 0")]
    assert found == [
        "| `resnet-bk` | 0 | 50.0 | 60.0 | 55.0 |",
        "| `resnet-bk` | 0.25 | 47.5 | 50.0 | 55.0 |",
        "| `resnet-bk` | 0.5 | 45.0 | 40.0 | 55.0 |",
    ]
    for wrong in (searched | {"runs": []}, of_shares("seed-local-tuned", 0.0, [0.01], steps=500)):
        with pytest.raises(ValueError, match=r"^resnet-bk: no run with carry-reset 0, or its runs differ"):
            choices.fill(whole, [of_shares("carry-reset", 0.25), wrong])
    own = of_shares("carry-reset", 0.0)
    own["runs"][0]["held_out_perplexity"] = 51.0
    page = choices.fill(whole, [of_shares("carry-reset", 0.25), own, searched])
    assert "| `resnet-bk` | 0 | 51.0 |" in page
    assert "| `resnet-bk` | 0 | 50.0 |" not in page


def test_choices_stand_beside_the_model_that_was_chosen():
    runs = [run("resnet-bk", 40.0, held_out_perplexity_without_carry=50.0), run("vector", 44.0), run("heads-2", 39.0)]
    found = WHERE | {"protocol": {"name": "tuned-choices", "learning_rates": None}, "runs": runs}
    lines = choices.fill("<!-- begin tuned-choices:table -->\nold\n<!-- end -->\n", [found]).splitlines()
    assert "| model | held-out perplexity | relative to `resnet-bk` | state not carried |" in lines
    rows = [line for line in lines if line.startswith("| `")]
    assert rows == [
        "| `resnet-bk` | 40.0 | 1.000 | 50.0 |",
        "| `vector` | 44.0 | 1.100 | – |",
        "| `heads-2` | 39.0 | 0.975 | – |",
    ]
    assert "- commit 0123456789ab" in lines


def test_choices_of_other_seeds_or_text_are_refused():
    page = "<!-- begin tuned-choices:table -->\nold\n<!-- end -->\n"
    with pytest.raises(ValueError, match=r"^vector was not trained with the seeds \[0\] of the others; train it"):
        choices.fill(page, [of_choices(run("resnet-bk", 40.0)), of_choices(run("vector", 44.0, 7))])
    ours, others = ({"data": {"fingerprints": {"corpus": name}}} for name in ("one", "another"))
    with pytest.raises(ValueError, match="differ in corpus, and cannot stand in one table; train them alike"):
        choices.fill(page, [of_choices(run("resnet-bk", 40.0)) | ours, of_choices(run("vector", 44.0)) | others])


def test_one_seed_that_was_read_only_with_its_state_takes_the_figure():
    first, second = run("resnet-bk", 40.0, held_out_perplexity_without_carry=50.0), run("resnet-bk", 41.0, 1)
    page = choices.fill("<!-- begin tuned-choices:table -->\nold\n<!-- end -->\n", [of_choices(first, second)])
    assert "| `resnet-bk` | 40.5 | 1.000 | – |" in page


def of_choices(*runs, **settings):
    return WHERE | {"protocol": {"name": "tuned-choices", "learning_rates": None} | settings, "runs": list(runs)}


def test_choices_of_changed_code_and_settings():
    page = "".join(f"<!-- begin tuned-choices:{place} -->\nold\n<!-- end -->\n" for place in ("table", "settings"))
    usual = {"optimizer": "muon", "tie_word_embeddings": True}
    chosen = of_choices(run("resnet-bk", 40.0), run("llama", 60.0), **usual)
    patched = of_choices(run("fixed-chain", 50.0, git_dirty=True), models={"fixed-chain": {}}, **usual)
    apart = of_choices(run("llama", 63.0, learning_rate=0.002), **usual | {"tie_word_embeddings": False})
    searched = of_choices(run("resnet-bk", 44.0), **usual | {"optimizer": "adamw", "learning_rates": [0.01]})
    lines = choices.fill(page, [chosen, patched, apart, searched]).splitlines()
    assert [line for line in lines if line.startswith("| `")] == [
        "| `resnet-bk` | 40.0 | 1.000 | – |",
        "| `llama` | 60.0 | 1.500 | – |",
        "| `fixed-chain` | 50.0 | 1.250 | – |",
        "| `llama` | `tie_word_embeddings: false` | 63.0 | 1.050 | – | 0.002 |",
        "| `resnet-bk` | `optimizer: adamw` | 44.0 | 1.100 | – | 0.01 |",
    ]
    assert [line for line in lines if "commit" in line] == [
        "- commit 0123456789ab, with uncommitted changes",
        "- commit 0123456789ab",
    ]
    with pytest.raises(ValueError, match=r"^llama with `tie_word_embeddings: false` has no run with the settings of"):
        choices.fill(page, [of_choices(run("resnet-bk", 40.0), **usual), apart])


def test_repeats_are_means_over_seeds():
    def model(name, seed, loss, losses):
        return {
            "model_name": name,
            "seed": seed,
            "trained_at_commit": "0123456789abcdef",
            "loss": loss,
            "losses": losses,
        }

    found = {
        "dataset_name": "a text",
        "split": "validation",
        "window": 64,
        "tokens": 3_200,
        "kinds": [{"name": "new word", "share": 0.75}, {"name": "repeated, 1 to 15 tokens ago", "share": 0.25}],
        "environment": ENVIRONMENT | {"git_commit": "fedcba9876543210", "git_dirty": False},
        "models": [
            model("resnet-bk", 42, 4.0, [5.0, 1.0]),
            model("resnet-bk", 43, 5.0, [6.0, 2.0]),
            model("gpt2", 42, 4.0, [4.0, None]),
        ],
    }
    lines = choices.fill("<!-- begin repeats:table -->\nold\n<!-- end -->\n", [found]).splitlines()
    assert lines[2:7] == [
        "| token | share | `resnet-bk` | `gpt2` |",
        "|---|---|---|---|",
        "| new word | 75.0% | 5.500 | 4.000 |",
        "| repeated, 1 to 15 tokens ago | 25.0% | 1.500 | – |",
        "| all | – | 4.500 | 4.000 |",
    ]
    assert "- 3,200 tokens of a text, validation, windows of 64" in lines
    assert "- seeds: resnet-bk 42, 43; gpt2 42" in lines


@pytest.mark.parametrize("other", [{}, {"tie_word_embeddings": False}], ids=["same settings", "another setting"])
def test_a_choice_that_leaks_has_no_place(other):
    page = "".join(f"<!-- begin tuned-choices:{place} -->\nold\n<!-- end -->\n" for place in ("table", "settings"))
    seeds = [run("vector", 44.0), run("vector", None, seed=1, audit="leaks")]
    found = [of_choices(run("resnet-bk", 40.0), run("vector", 44.0)), of_choices(*seeds, **other)]
    with pytest.raises(ValueError, match=r"^vector of tuned-choices has no perplexity \(seed 1, audit: leaks\); leave"):
        choices.fill(page, found)


def test_a_share_that_leaks_has_no_place():
    page = "<!-- begin carry-reset:table -->\nold\n<!-- end -->\n"
    leaks = {"held_out_perplexity": None, "audit": "leaks"}
    for found, suite in (
        ([of_shares("carry-reset", 0.0), of_shares("carry-reset", 0.25, **leaks)], "carry-reset"),
        ([of_shares("carry-reset", 0.25), of_shares("seed-local-tuned", 0.0, [0.01], **leaks)], "seed-local-tuned"),
    ):
        with pytest.raises(ValueError, match=rf"^resnet-bk of {suite} has no perplexity \(seed 42, audit: leaks\);"):
            choices.fill(page, found)


def test_a_grid_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"^the rates of seed-local-tuned .* none of these are named; name results of"):
        choices.fill("", [of_shares("seed-local-tuned", 0.0, [0.01])])


def test_what_does_not_fit():
    for name, rates in (("quick", [0.01]), ("seed-local-tuned", None)):
        with pytest.raises(ValueError, match=f"the results are of protocol {name}, not of tuned-choices"):
            choices.fill("", [{"protocol": {"name": name, "learning_rates": rates}}])
