"""The README's table of a comparison comes from results/, and agrees with them."""

import pytest

from benchmarks.pages import readme
from tests.bench.report_samples import sample_results, sample_run
from tests.benchmarks.made_runs import NGRAMS


def run(name, perplexity, seed=0, **changes):
    windows = perplexity and perplexity - 1
    given = {"held_out_perplexity_without_carry": None, "held_out_perplexity_overlapping": windows} | changes
    return sample_run(name, seed=seed, perplexity=perplexity) | {"held_out_perplexity": perplexity} | given


def quick(*runs, **data):
    found = sample_results()
    return found | {"runs": list(runs), "ngrams": NGRAMS, "data": {"validation_unk_rate": 0.0374} | data}


LEAKY = run("resnet-bk-seed", None, audit="leaks")
RUNS = [
    LEAKY,
    run("resnet-bk", 50.0, held_out_perplexity_without_carry=55.0),
    run("resnet-bk", 52.0, seed=1, held_out_perplexity_without_carry=57.0),
    run("llama", 40.0),
]
QUICK = quick(*RUNS)
PAGE = "<!-- begin quick:table -->\nold\n<!-- end -->\n"


def test_the_best_model_comes_first_whoever_it_is():
    lines = [line.split(" | ") for line in readme.fill(PAGE, [QUICK]).splitlines() if line.startswith("| ")]
    assert [[*line[:2], *line[4:6]] for line in lines][1:] == [
        ["| Llama (RoPE, RMSNorm, SwiGLU)", "39.0", "–", "40.0"],
        ["| **ResNet-BK** (modulus state, short convolution, pointer)", "50.0 ± 1.4", "56.0 ± 1.4", "51.0 ± 1.4"],
        ["| resnet-bk-seed", "leaks", "–", "–"],
        ["| unigram (word frequencies alone)", "–", "–", "100.0"],
        ["| 5-gram, Kneser-Ney", "–", "–", "500.0"],
    ]


@pytest.mark.parametrize("leaky_seed", [0, 1])
def test_one_seed_that_leaks_is_a_model_that_leaks(leaky_seed):
    tokens, losses = [10, 30, 20] * 7, [20.0, 90.0, 50.0] * 7
    seeds = [
        run("gpt2", None, seed=seed, audit="leaks")
        if seed == leaky_seed
        else run("gpt2", 30.0, seed=seed, document_nll=losses)
        for seed in (0, 1)
    ]
    # Ours shares with it the seed that does not leak.
    ours = run("resnet-bk", 50.0, seed=1 - leaky_seed, document_nll=losses)
    lines = readme.fill(PAGE, [quick(*seeds, ours, document_tokens=tokens)]).splitlines()
    models = [line for line in lines if line.startswith("| ")][1:3]
    assert models[0].startswith("| **ResNet-BK**")
    assert models[1] == "| GPT-2 | leaks | – | – | – | – | – | 2 |"


def test_ratios_are_of_the_seeds_that_both_have_in_windows():
    runs = [
        run("resnet-bk", 51.0),  # 50 in windows
        run("resnet-bk", 41.0, seed=1),
        run("no-pointer", 61.0, seed=1),
        *(run("llama", 101.0, seed=seed) for seed in (1, 0)),
        run("llama-pointer", 51.0),
        run("gemma3-pointer", 101.0, seed=1),
        run("gpt2", 81.0, seed=1),
        run("other", 91.0, seed=7),  # no seed in common: all of ours
        run("another", 60.0, held_out_perplexity_overlapping=None),
        LEAKY,
    ]
    lines = readme.fill(PAGE, [quick(*runs)]).splitlines()
    found = {line.strip("| ").split(" | ")[0]: line.split(" | ")[2:4] for line in lines if line.startswith("| ")}
    assert found["**ResNet-BK** (modulus state, short convolution, pointer)"] == ["–", "–"]
    assert found["ResNet-BK without the pointer"] == ["0.667", "–"]
    assert found["Llama (RoPE, RMSNorm, SwiGLU)"] == ["0.450", "0.600"]
    assert found["Llama with ResNet-BK's pointer"] == ["1.000", "–"]
    assert found["Gemma 3 with ResNet-BK's pointer"] == ["0.400", "–"]
    assert found["GPT-2"] == ["0.500", "0.750"]
    assert found["other"] == ["0.500", "0.667"]
    assert [found[name] for name in ("another", "resnet-bk-seed", "5-gram, Kneser-Ney")] == [["–", "–"]] * 3


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="the results of quick have no n-grams"):
        readme.fill(PAGE, [{name: value for name, value in QUICK.items() if name != "ngrams"}])
    with pytest.raises(ValueError, match="the n-grams of quick are of the test split"):
        readme.fill(PAGE, [QUICK | {"ngrams": NGRAMS | {"split": "test"}}])
    with pytest.raises(ValueError, match="has the places none of quick"):
        readme.fill("Words.", [QUICK])
    nothing = run("gpt2", None, seed=1, audit="causal")
    with pytest.raises(ValueError, match=r"^gpt2 of quick has no perplexity \(seed 1, audit: causal\); leave it out"):
        readme.fill(PAGE, [quick(*RUNS, run("gpt2", 60.0), nothing)])
