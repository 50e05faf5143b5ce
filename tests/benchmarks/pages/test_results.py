"""docs/results.md comes from results/, and agrees with it."""

import json

import pytest

from benchmarks.pages import results
from tests.bench.report_samples import sample_results, sample_run
from tests.benchmarks.made_runs import ENVIRONMENT, NGRAMS, point, run

RESULTS = {
    "protocol": {"name": "seed-local-tuned", "learning_rates": None},
    "environment": ENVIRONMENT,
    "data": {"name": "text", "train_tokens": 12_345},
    "runs": [
        run("gpt2", 90.0),
        run("llama", 50.0),
        run(
            "llama",
            52.0,
            seed=1,
            validation_log=[point(1_000, 9.0, 70.0), point(2_000, 14.0, 52.0)],
        ),
        run("resnet-bk", 40.0, held_out_perplexity_without_carry=55.0, held_out_perplexity_overlapping=44.0),
    ],
}
PLACE = ENVIRONMENT | {"git_commit": "0123456789abcdef", "git_dirty": False}
PAGE = "".join(
    f"<!-- begin seed-local-tuned{place} -->\nold\n<!-- end -->\n" for place in (":table", ":course", "-grid:table")
)


def test_models_are_held_to_the_best_transformer():
    """By the seeds that both have."""
    lines = [line for line in results.fill(PAGE, [RESULTS]).splitlines() if line.startswith(("|", "-"))]
    assert lines[0].startswith(
        "| model | held-out perplexity | seeds | relative to `llama` | state not carried | overlapping windows |"
    )
    assert [line.split(" | ")[:6] for line in lines[2:5]] == [
        ["| `resnet-bk`", "40.0", "1", "0.800", "55.0", "44.0"],
        ["| `llama`", "51.0 ± 1.4", "2", "1.000", "–", "–"],
        ["| `gpt2`", "90.0", "1", "1.800", "–", "–"],
    ]
    assert "- commit 0123456789ab" in lines
    assert "| model | 1,000 steps | 2,000 steps |" in lines
    assert "| `llama` | 65.0 | 51.0 |" in lines
    assert "- data text: 12,345 training tokens" in lines


def test_memory_on_another_machine_is_left_out():
    slow = {"environment": ENVIRONMENT | {"cpu": "a slow one"}, "peak_memory_mb": 9.0}
    runs = [run(name, 40.0, seed=seed, environment=ENVIRONMENT) for name in ("llama", "resnet-bk") for seed in (0, 1)]
    runs += [run("llama", 43.0, seed=2, **slow), run("resnet-bk", 43.0, seed=2, **slow), run("gpt2", 90.0, **slow)]
    del runs[0]["environment"]  # of before runs said where; the whole did
    lines = results.fill(PAGE, [RESULTS | {"runs": runs}]).splitlines()
    cells = {line.split(" | ")[0]: line.split(" | ") for line in [line for line in lines if line.startswith("| `")][:3]}
    assert cells["| `resnet-bk`"][1:3] == ["41.0 ± 1.7", "3"]
    assert [cells[f"| `{name}`"][-1] for name in ("resnet-bk", "gpt2")] == ["64 |", "– |"]
    place = lines.index("- a processor, 1 thread of 2 cores: 4 runs")
    assert lines[place + 1] == "- a slow one, 1 thread of 2 cores: 3 runs"
    assert "- memory: of the runs on the first machine alone" in lines


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"environment": ENVIRONMENT | {"kernel_instructions": "AVX-512"}}, "a processor (AVX-512)"),
        ({"environment": ENVIRONMENT | {"gpu": "a GPU"}, "device": "cuda:0"}, "a GPU, a processor"),
        ({"environment": ENVIRONMENT | {"memory_settings": "MALLOC_ARENA_MAX_=1"}}, "a processor, MALLOC_ARENA_MAX_=1"),
    ],
    ids=["other kernels", "GPU", "memory settings"],
)
def test_what_is_another_machine(changes, named):
    place = ENVIRONMENT | {"gpu": "a GPU"}  # which is there for all
    runs = [run(name, 40.0, seed=seed, environment=place) for name in ("llama", "resnet-bk") for seed in (0, 1)]
    runs.append(run("llama", 43.0, seed=2, peak_memory_mb=9.0, **changes))
    page = results.fill(PAGE, [RESULTS | {"runs": runs}])
    assert f"- a processor, 1 thread of 2 cores: 4 runs\n- {named}, 1 thread of 2 cores: 1 run" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| `llama` | 41.0")]
    assert line.endswith("| 64 |")


def test_a_run_on_two_machines_is_of_neither():
    places = [ENVIRONMENT | {"git_commit": commit, "git_dirty": False} for commit in ("a" * 40, "b" * 40)]
    places[1] |= {"threads": 2, "python": "3.12.0"}
    calls = [{"from_step": 100 * number, "environment": place} for number, place in enumerate(places)]
    found = run("llama", 50.0, seed=1, environment=places[1], git_commit="b" * 40, calls=calls)
    runs = [run("llama", 52.0, environment=places[0], git_commit="a" * 40), found]
    lines = results.fill(PAGE, [RESULTS | {"runs": runs}]).splitlines()
    assert "- a processor, 1 thread of 2 cores: 1 run" in lines
    assert "- a processor, 1 thread of 2 cores, then a processor, 2 threads of 2 cores: 1 run" in lines
    assert "- memory: of the runs on the first machine alone" in lines
    assert f"- commit {'a' * 12}, {'b' * 12}" in lines
    assert [line for line in lines if line.startswith("- Python")] == [
        "- Python 3.11.1, torch 2.9.0, numba 0.62.0",
        "- Python 3.12.0, torch 2.9.0, numba 0.62.0",
    ]


def test_a_step_at_which_a_seed_had_no_finite_perplexity():
    runs = [*RESULTS["runs"], run("gpt2", 91.0, 1, validation_log=[point(1_000, 9.0, None), point(2_000, 14.0, 52.0)])]
    assert "| `gpt2` | – |" in results.fill(PAGE, [RESULTS | {"runs": runs}])


def test_a_grid():
    searched = RESULTS | {"protocol": {"name": "seed-local-tuned", "learning_rates": [0.005, 0.01]}}
    other = searched | {"runs": [run("gpt2", 90.0)]}
    page = results.fill(PAGE, [searched | {"runs": [run("llama", 80.0)]}, other])
    assert "| model | lr 0.005 | lr 0.01 |" in page
    assert "| `llama` | – | 80.0 |\n| `gpt2` | – | 90.0 |" in page
    third = other | {"protocol": {"name": "seed-local-tuned", "learning_rates": [0.01, 0.02]}}
    with pytest.raises(ValueError, match=r"the grids differ: \[0.005, 0.01\] and \[0.01, 0.02\]"):
        results.fill(PAGE, [searched, third])
    assert "old" in page
    third = other | {"protocol": searched["protocol"] | {"steps": 4000}}
    fourth = other | {"data": {"fingerprints": {"train_tokens": "others"}}}
    searched |= {"protocol": searched["protocol"] | {"steps": 1000}, "data": {"fingerprints": {"train_tokens": "own"}}}
    for wrong, what in ((third, "steps"), (fourth, "train_tokens")):
        with pytest.raises(ValueError, match=f"differ in {what}, and cannot stand in one table"):
            results.fill(PAGE, [searched, wrong])


def test_a_protocol_of_one_rate_is_no_grid():
    of_one = RESULTS | {"protocol": {"name": "seed-local-tuned", "learning_rates": [0.01]}}
    assert results.fill(PAGE, [of_one]) == results.fill(PAGE, [RESULTS])


def test_a_comparison_that_has_its_grid():
    places = [f"<!-- begin quick-peers:{place} -->\nold\n<!-- end -->\n" for place in ("table", "course", "grid")]
    searched = RESULTS | {"protocol": {"name": "quick-peers", "learning_rates": [0.005, 0.01]}}
    page = results.fill("".join(places), [searched])
    assert "old" not in page
    assert "| `resnet-bk` | 40.0 | 1 | 0.800 |" in page
    assert "| `llama` | 65.0 | 51.0 |" in page
    assert "| `gpt2` | – | 90.0 |" in page


def test_seeds_of_two_models_are_compared_in_pairs():
    levels = {"resnet-bk": 40.0, "llama": 50.0, "llama-pointer": 45.0, "no-pointer": 49.0}
    runs = [
        run(name, level + seed, seed, held_out_perplexity_overlapping=2 * level + seed * (name != "llama"))
        for name, level in levels.items()
        for seed in range(3)
    ]
    runs[-1]["held_out_perplexity_overlapping"] = None
    lines = results.fill(PAGE, [RESULTS | {"runs": [*runs, run("gpt2", 60.0)]}]).splitlines()
    test = "over another, geometric mean over seeds (paired t test on the logarithm, two-sided)"
    (first,) = [line for line in lines if line.startswith(f"- `resnet-bk` in the first column {test}: ")]
    assert "`llama` 0.804 (p < 0.001, 3 seeds)" in first
    assert first.count("3 seeds") == 3
    (windows,) = [line for line in lines if line.startswith(f"- `resnet-bk` in windows {test}: ")]
    assert "`llama` 0.810 (p = 0.001, 3 seeds)" in windows
    assert "`no-pointer` 0.817 (p = 0.004, 2 seeds)" in windows
    (plain,) = [line for line in lines if line.startswith(f"- `no-pointer` in windows {test}: ")]
    assert plain.endswith(": `llama` 0.985 (p = 0.21, 2 seeds)")  # none that has a pointer


def test_words_of_the_vocabulary_alone():
    figures = {"<unk>": (10, 20.0), "1-9": (45, 90.0), "10+": (45, 40.0)}
    buckets = [{"name": name, "tokens": count, "perplexity": value} for name, (count, value) in figures.items()]
    data = RESULTS["data"] | {"validation_unk_rate": 0.1}
    runs = [run("llama", 50.0, buckets=buckets, overlapping_buckets=buckets[:2]), run("resnet-bk", 40.0)]
    page = results.fill(PAGE, [RESULTS | {"data": data, "runs": runs}])
    told = "- 10.0% of the held-out tokens are `<unk>`"
    assert f"{told}; perplexity of all others, as in the first column: `llama` 60.0" in page
    assert "; perplexity of all others, in windows: `llama` 90.0\n" in page
    assert f"{told}\n" in results.fill(PAGE, [RESULTS | {"data": data}])


def test_ratios_over_documents_and_what_counting_words_reaches():
    # A tenth of the loss a token less in every document: a ratio of exp(-1/10), whichever documents are drawn.
    tokens, theirs = [10, 30, 20] * 7, [20.0, 90.0, 50.0] * 7
    ours = [loss - size / 10 for loss, size in zip(theirs, tokens, strict=True)]
    runs = [
        sample_run(name, perplexity=perplexity) | run(name, perplexity, environment=PLACE, document_nll=losses)
        for name, perplexity, losses in (("llama", 50.0, theirs), ("resnet-bk", 45.0, ours))
    ]
    data = {"document_tokens": tokens, "validation_unk_rate": 0.0374, "train_tokens": 12_345}
    found = sample_results() | {"runs": runs, "ngrams": NGRAMS}
    found |= {"data": found["data"] | data, "protocol": found["protocol"] | RESULTS["protocol"]}
    lines = results.fill(PAGE, [found]).splitlines()
    over = "- `resnet-bk` over another, of the seeds that both have (95% over the held-out documents): "
    assert f"{over}`llama` 0.905 (0.905 to 0.905)" in lines
    assert "- unigram 100.0, 5-gram (Kneser-Ney) 500.0" in lines
    assert any(line.startswith("- 3.7% of the held-out tokens are `<unk>`; perplexity of all others") for line in lines)
    with pytest.raises(ValueError, match="the n-grams of seed-local-tuned are of the test split; score --split valid"):
        results.fill(PAGE, [found | {"ngrams": NGRAMS | {"split": "test"}}])


def test_recall_stands_beside_what_the_layers_carry():
    kinds = [{"length": 64, "pairs": 4, "examples": 10}, {"length": 1_024, "pairs": 256, "examples": 20}]
    chain = {
        "model_name": "modulus",
        "state_numbers": 8_192,
        "parameters_without_embeddings": 12_345,
        "attention": False,
        "audit": "causal",
        "learning_rate": 0.003,
        "training_time": 90.0,
        "accuracy": [1.0, 0.5],
        "environment": ENVIRONMENT | {"git_commit": "fedcba9876543210", "git_dirty": False},
    }
    runs = [
        chain | {"model_name": "attention", "state_numbers": None, "attention": True, "training_time": 60.0},
        chain,
        chain | {"accuracy": [0.9, 0.3], "training_time": 30.0},
        chain | {"model_name": "other", "state_numbers": None, "audit": "leaks"},
    ]
    protocol = {"name": "mqar", "task": "recall", "epochs": 4, "train": kinds, "test": kinds}
    found = {
        "protocol": protocol,
        "environment": ENVIRONMENT,
        "runs": runs,
        "diverged": [{"title": "matrix at every rate"}],
    }
    lines = results.fill("<!-- begin mqar:table -->\nold\n<!-- end -->\n", [found]).splitlines()
    assert lines[2] == (
        "| model | state, all layers | parameters without embeddings | lr "
        "| 64 tokens, 4 pairs | 1,024 tokens, 256 pairs | minutes of training |"
    )
    assert lines[4:7] == [
        "| `attention` | grows with the text | 12,345 | 0.003 | 1.000 | 0.500 | 1.0 |",
        "| `modulus` | 8,192 | 12,345 | 0.003 | 0.950 ± 0.071 | 0.400 ± 0.141 | 1.0 |",
        "| `other` (leaks) | – | 12,345 | 0.003 | 1.000 | 0.500 | 1.5 |",
    ]
    assert "- commit fedcba987654" in lines
    assert "- 4 epochs of 30 examples" in lines
    assert "- seeds: attention 1, modulus 2, other 1" in lines
    assert "- matrix at every rate: diverged, no figures" in lines


LENGTHS_PAGE = "<!-- begin lengths:table -->\nold\n<!-- end -->\n"


def read(name, seed, *readings):
    """A model with the perplexities of each reading, or why it cannot read so."""
    return {
        "model_name": name,
        "seed": seed,
        "trained_at_commit": "0123456789abcdef",
        "readings": [
            {"name": name, "perplexity": None, "problem": reading}
            if isinstance(reading, str)
            else {"name": name, "perplexity": reading, "problem": None}
            for name, reading in zip(("carried", "window 64"), readings, strict=True)
        ],
    }


def of_lengths(*models):
    return {
        "dataset_name": "books",
        "split": "train",
        "documents": 3,
        "unk_rate": 0.0012,
        "places": [[0, 512], [512, 1_024]],
        "environment": ENVIRONMENT | {"git_commit": "fedcba9876543210", "git_dirty": False},
        "models": models,
    }


def test_lengths_are_means_over_seeds():
    found = of_lengths(
        read("resnet-bk", 42, [50.0, 40.0], [50.0, 45.0]),
        read("resnet-bk", 43, [52.0, 42.0], [52.0, 47.0]),
        read("gpt2", 42, "it has positions for 128 tokens", [60.0, 55.0]),
    )
    lines = results.fill(LENGTHS_PAGE, [found]).splitlines()
    assert lines[2:8] == [
        "| model | read | 0 to 512 | 512 to 1,024 |",
        "|---|---|---|---|",
        "| `resnet-bk` | carried | 51.0 | 41.0 |",
        "| `resnet-bk` | window 64 | 51.0 | 46.0 |",
        "| `gpt2` | carried | – | – |",
        "| `gpt2` | window 64 | 60.0 | 55.0 |",
    ]
    assert "- 3 documents of books, train; 0.12% `<unk>`" in lines
    assert "- `gpt2`, carried: it has positions for 128 tokens" in lines
    assert "- trained at commit 0123456789ab" in lines
    assert "- seeds: resnet-bk 42, 43; gpt2 42" in lines
    assert "- commit fedcba987654" in lines


@pytest.mark.parametrize("other", [[60.0, 55.0], "it has positions for 256 tokens"])
def test_seeds_that_read_otherwise_have_no_mean(other):
    problem = "it has positions for 128 tokens"
    told = "none" if isinstance(other, list) else other
    for first, second, says in ((problem, other, f"{problem} or {told}"), (other, problem, f"{told} or {problem}")):
        found = of_lengths(read("gpt2", 42, first, [60.0, 55.0]), read("gpt2", 43, second, [60.0, 55.0]))
        with pytest.raises(ValueError, match=rf"^gpt2, carried: its seeds differ in the problem .*\({says}\), and"):
            results.fill(LENGTHS_PAGE, [found])


TIMED = {
    "protocol": {"name": "small-times", "learning_rates": None},
    "runs": [
        run("resnet-bk", 90.0, seconds_per_step=0.3, environment=ENVIRONMENT),
        run("resnet-bk", 90.0, seed=1, seconds_per_step=0.3, environment=ENVIRONMENT),
        run("llama", 90.0, seconds_per_step=0.25, peak_memory_mb=32.2, environment=ENVIRONMENT),
        run("llama", 90.0, seed=1, seconds_per_step=0.15, peak_memory_mb=32.2, environment=ENVIRONMENT),
    ],
}


def test_times_side_by_side():
    page = "<!-- begin times:table -->\nold\n<!-- end -->\n"
    lines = results.fill(page, [TIMED]).splitlines()
    head = "`resnet-bk`, s a step | `llama`, s a step | ratio | `resnet-bk`, MiB | `llama`, MiB | ratio"
    assert lines[2] == f"|  | {head} |"
    assert lines[4] == "| `small` | 0.300, 0.300 | 0.250, 0.150 | 1.50 | 64, 64 | 32, 32 | 2.00 |"
    with pytest.raises(ValueError, match="the results of small-times have no llama; time both"):
        results.fill(page, [TIMED | {"runs": TIMED["runs"][:2]}])
    elsewhere = run("llama", 90.0, environment=ENVIRONMENT | {"cpu": "another"})
    with pytest.raises(ValueError, match="the runs are of several machines"):
        results.fill(page, [TIMED | {"runs": [*TIMED["runs"], elsewhere]}])


LEAKS = r"^seed of seed-local-tuned has no perplexity \(seed 1, audit: leaks\); leave it out of the page$"


def test_what_does_not_fit():
    seeds = [run("seed", 9.0, audit="causal"), run("seed", None, seed=1, audit="leaks")]
    leaky = RESULTS | {"runs": [*RESULTS["runs"], *seeds]}
    with pytest.raises(ValueError, match="the results are of protocol wikitext-2, not of seed-local-tuned"):
        results.fill(PAGE, [RESULTS | {"protocol": {"name": "wikitext-2", "learning_rates": None}}])
    with pytest.raises(ValueError, match=LEAKS):
        results.fill(PAGE, [leaky])
    with pytest.raises(ValueError, match=LEAKS):
        results.fill(PAGE, [leaky | {"protocol": {"name": "seed-local-tuned", "learning_rates": [0.01]}}])
    with pytest.raises(ValueError, match="no run of llama or gpt2"):
        results.fill(PAGE, [RESULTS | {"runs": [run("resnet-bk", 40.0)]}])


def test_a_run_that_diverged_has_no_place(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    found = RESULTS | {"runs": [*RESULTS["runs"], run("mamba2", None, diverged="the training loss is nan")]}
    (tmp_path / "results.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"mamba2, seed 0, diverged and has no figures \(the training loss is nan\);"):
        results.main([str(tmp_path / "results.json"), "--page", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == PAGE
