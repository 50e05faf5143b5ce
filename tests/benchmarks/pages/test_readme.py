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
    assert [[*line[:2], line[3]] for line in lines][1:] == [
        ["| Llama (RoPE, RMSNorm, SwiGLU)", "40.0", "–"],
        ["| **ResNet-BK** (modulus state, short convolution, pointer)", "51.0 ± 1.4", "56.0 ± 1.4"],
        ["| resnet-bk-seed", "leaks", "–"],
        ["| unigram (word frequencies alone)", "100.0", "–"],
        ["| 5-gram, Kneser-Ney", "500.0", "–"],
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
    assert models[1] == "| GPT-2 | leaks | – | – | – | – | 2 |"


def test_ratios_are_of_the_same_documents():
    # Half the loss a token less in every document: a ratio of exp(-1/2), whichever documents are drawn.
    tokens, theirs = [10, 30, 20] * 7, [20.0, 90.0, 50.0] * 7
    ours = [[loss - size / 2 + change for loss, size in zip(theirs, tokens, strict=True)] for change in (-1.0, 1.0)]
    runs = [
        run("resnet-bk", 50.0, document_nll=ours[0]),
        run("resnet-bk", 52.0, seed=1, document_nll=ours[1]),
        *(run("llama", 60.0, seed=seed, document_nll=theirs) for seed in (1, 0)),
        run("gpt2", 60.0, seed=1, document_nll=ours[1]),  # as ours with that seed
        run("other", 60.0, seed=7, document_nll=theirs),  # no seed in common: all of ours
        run("another", 60.0),  # kept no losses
        LEAKY,
    ]
    lines = readme.fill(PAGE, [quick(*runs, document_tokens=tokens)]).splitlines()
    found = {line.strip("| ").split(" | ")[0]: line.split(" | ")[2] for line in lines if line.startswith("| ")}
    half = "0.607 (0.607 to 0.607)"
    assert found["Llama (RoPE, RMSNorm, SwiGLU)"] == half
    assert found["other"] == half
    assert found["GPT-2"] == "1.000 (1.000 to 1.000)"
    assert {found[name] for name in ("another", "resnet-bk-seed", "5-gram, Kneser-Ney")} == {"–"}
    for without in (quick(*runs[2:], document_tokens=tokens), quick(*runs, document_tokens=tokens[:19])):
        assert "0.607" not in readme.fill(PAGE, [without])


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
