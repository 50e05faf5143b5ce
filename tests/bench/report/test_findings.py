import math
from typing import Any

import pytest

from resnet_bk.bench.protocol import load_protocol
from resnet_bk.bench.report.findings import Findings, find, reference_model
from resnet_bk.bench.report.page import render_report
from resnet_bk.bench.report.results_schema import parse_results
from resnet_bk.bench.report.statistics import summarize
from tests.bench.report_samples import sample_results, sample_run


def findings(results: dict[str, Any]) -> Findings:
    parsed = parse_results(results)
    return find(parsed, summarize(parsed))


def with_runs(*runs: dict[str, Any]) -> dict[str, Any]:
    return sample_results() | {"runs": list(runs)}


def notes(results: dict[str, Any], *, warning: bool) -> str:
    return " ".join(note.text for note in findings(results).notes if note.warning == warning)


def test_a_win_names_figures_ratio_and_the_one_seed() -> None:
    assert findings(sample_results()).answer == (
        "resnet-bk beats llama, the better of two others: held-out perplexity 99.2 against 102.1, 2.8% lower "
        "(ratio 0.972; one seed, no spread)."
    )


def test_ngrams_that_counted_more_than_models_saw_are_a_warning() -> None:
    ngrams = {"split": "validation", "method": "counted", "train_tokens": 1_000_000, "ngrams": []}
    results = with_runs(sample_run("resnet-bk", total_tokens=500_000)) | {"ngrams": ngrams}
    text = "counted on 1,000,000 tokens, of which the models saw 500,000"
    whole, short = (results | {"protocol": results["protocol"] | {"steps": steps}} for steps in (None, 100))
    assert text not in notes(whole, warning=True)
    assert text in notes(short, warning=True)
    assert text not in notes(short | {"ngrams": ngrams | {"train_tokens": 500_100}}, warning=True)


def test_a_commit_of_which_git_could_not_say_more_is_a_warning() -> None:
    place = {"git_commit": "a" * 40, "git_dirty": None}
    results = with_runs(sample_run("resnet-bk", environment=place))
    assert "Whether the code had changes that were not committed is not known" in notes(results, warning=True)


def test_an_optimizer_of_its_own_is_a_warning() -> None:
    results = sample_results("resnet-bk", "llama")
    results["protocol"]["optimizer"] = "adamw"
    assert "the same optimizer" not in notes(results, warning=True)
    results["protocol"]["models"]["llama"]["optimizer"] = "adamw"
    assert "the same optimizer" not in notes(results, warning=True)
    results["protocol"]["models"]["llama"]["optimizer"] = "muon"
    assert "Not all models had the same optimizer (llama: muon; else adamw)." in notes(results, warning=True)
    assert "with the same schedule." in render_report(parse_results(results), [])


def test_a_loss_comes_first() -> None:
    results = with_runs(
        sample_run("resnet-bk", perplexity=105.0),
        sample_run("llama", perplexity=100.0),
        sample_run("gpt2", perplexity=143.0),
    )
    assert findings(results).answer == (
        "resnet-bk loses to llama: held-out perplexity 105.0 against 100.0, 5.0% higher (ratio 1.050; one seed, no "
        "spread), though ahead of gpt2."
    )


def of_seeds(name: str, *perplexities: float, first: int = 42, **other: Any) -> list[dict[str, Any]]:
    return [sample_run(name, seed=first + index, perplexity=value, **other) for index, value in enumerate(perplexities)]


def test_a_doubt_does_not_hide_a_loss() -> None:
    noisy = of_seeds("gpt2", 85.0, 104.0, 90.0)
    ours, llama = of_seeds("resnet-bk", 100.0, 101.0, 100.5), of_seeds("llama", 95.0, 96.1, 95.4)
    assert findings(with_runs(*ours, *llama, *noisy)).answer.startswith("resnet-bk loses to llama: ")
    # Where none is ahead for certain, the doubt is what there is to say.
    behind = of_seeds("llama", 105.0, 106.1, 105.4)
    assert "resnet-bk and gpt2 cannot be told apart" in findings(with_runs(*ours, *behind, *noisy)).answer


def test_a_win_by_the_carry_alone_says_so() -> None:
    results = with_runs(
        sample_run("resnet-bk", perplexity=99.2, held_out_perplexity_without_carry=102.5), sample_run("llama")
    )
    found = findings(results)
    assert found.answer.endswith("with its state reset at each segment it has 102.5 and does not.")
    assert "Without the carry it would not be ahead of llama." in notes(results, warning=True)


def test_where_both_carry_both_are_reset() -> None:
    def of(rival: float, reset: float) -> dict[str, Any]:
        carried = {"carry_state": True, "held_out_perplexity_overlapping": 98.0}
        ours = sample_run("resnet-bk", perplexity=99.2, held_out_perplexity_without_carry=104.0)
        pointed = sample_run("llama-pointer", perplexity=rival, held_out_perplexity_without_carry=reset, **carried)
        return with_runs(ours, pointed)

    ahead = of(100.0, 105.0)
    assert "reset" not in findings(ahead).answer
    assert "windows" not in findings(ahead).answer  # it has more context already
    assert "would not be ahead" not in notes(ahead, warning=True)
    behind = of(100.0, 103.0)
    said = "; with both states reset at each segment it has 104.0 against 103.0 and does not."
    assert findings(behind).answer.endswith(said)
    assert "Without the carry it would not be ahead of llama-pointer." in notes(behind, warning=True)


def test_a_carry_without_its_figure_is_a_warning() -> None:
    results = with_runs(sample_run("resnet-bk", held_out_perplexity_without_carry=None), sample_run("llama"))
    assert "no figure without it" in notes(results, warning=True)


def test_models_that_all_carry_need_no_figure_without() -> None:
    bare = {"held_out_perplexity_without_carry": None, "carry_state": True}
    results = with_runs(sample_run("resnet-bk", **bare), sample_run("llama", **bare))
    text = "carry their state from segment to segment; no figure without it."
    assert text in notes(results, warning=False)
    assert text not in notes(results, warning=True)


def test_a_carry_that_changes_no_order_is_no_warning() -> None:
    assert "reset at each segment it has 101.0" in notes(sample_results(), warning=False)


def test_level() -> None:
    results = with_runs(sample_run("resnet-bk", perplexity=100.0), sample_run("llama", perplexity=100.01))
    assert findings(results).answer.startswith("resnet-bk and llama are level: held-out perplexity 100.0 against 100.0")


def seeds(name: str, *values: float) -> list[dict[str, Any]]:
    return [
        sample_run(
            name, seed=seed, buckets=[], held_out_perplexity=value, held_out_perplexity_without_carry=value * 1.01
        )
        for seed, value in enumerate(values)
    ]


def test_a_difference_within_the_spread_is_no_win() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, 103.0, 101.0), *seeds("llama", 102.0, 100.0, 103.0))
    answer = findings(results).answer
    assert answer.startswith("resnet-bk and llama cannot be told apart over 3 seeds: held-out perplexity 101.0 ± 2.0")
    assert "paired p = 0." in answer


def test_a_difference_beyond_the_spread_is_one() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, 100.0, 101.0), *seeds("llama", 102.0, 103.1, 104.0))
    found = findings(results)
    assert found.answer.startswith("resnet-bk beats llama: ")
    assert "3 seeds, paired p " in found.answer
    assert "no spread" not in found.answer
    (comparison,) = found.comparisons
    assert (comparison.reference, comparison.other, comparison.test.count) == ("resnet-bk", "llama", 3)


def test_both_ways_of_reading_are_compared() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, 100.0, 101.0), *seeds("llama", 102.0, 103.1, 104.0))
    tokens = [100 + number for number in range(30)]
    results["data"]["document_tokens"] = tokens
    for run in results["runs"]:
        ours = run["model_name"] == "resnet-bk"
        run["held_out_perplexity_overlapping"] = (90.0 if ours else 91.0) + 0.1 * run["seed"] * (1 + ours)
        run["document_nll"] = [count * (4.5 if ours else 4.6) for count in tokens]
        run["overlapping_document_nll"] = [count * (4.4 if ours else 4.3) for count in tokens]
    (found,) = findings(results).comparisons
    assert found.test.ratio == pytest.approx(100 / 103.03, rel=1e-4)
    assert found.windows_test.ratio == pytest.approx(90.2 / 91.1, rel=1e-4)
    assert found.documents.ratio == pytest.approx(math.exp(-0.1))
    assert found.windows_documents.ratio == pytest.approx(math.exp(0.1))
    for run in results["runs"]:
        run |= {"overlapping_document_nll": None, "held_out_perplexity_overlapping": None}  # of before there were any
    (found,) = findings(results).comparisons
    assert (found.windows_test, found.windows_documents) == (None, None)
    assert found.test is not None


def test_what_unknown_words_make_of_a_ratio_is_said() -> None:
    def made(name: str, of_unknown: float, of_known: float) -> dict[str, Any]:
        figures = {"<unk>": (100, of_unknown), "1-9": (0, None), "10+": (900, of_known)}
        buckets = [{"name": key, "tokens": count, "perplexity": value} for key, (count, value) in figures.items()]
        return sample_run(name, perplexity=of_unknown**0.1 * of_known**0.9, buckets=buckets)

    ours, level, worse = made("resnet-bk", 10.0, 80.0), made("gpt2", 10.0, 100.0), made("llama", 40.0, 80.0)
    told = "But for `<unk>`, one word that stands for many, resnet-bk has 1.000 times the perplexity of llama instead"
    assert told + " of 0.871" in notes(with_runs(ours, level, worse), warning=True)
    # 0.8 ** 0.9 is 0.818: gpt2 is told of as well, and flattered by what both know of `<unk>` alike.
    assert "0.800 times the perplexity of gpt2 instead of 0.818" in notes(with_runs(ours, level), warning=False)
    for run in (ours, worse):
        run["buckets"] = run["buckets"][1:]  # a vocabulary without an unknown word
    assert "But for" not in notes(with_runs(ours, worse), warning=True)
    ours["buckets"] = []  # measured without
    assert "But for" not in notes(with_runs(ours, worse), warning=True)


def test_our_leak_comes_first_and_the_rest_is_compared() -> None:
    results = with_runs(sample_run("resnet-bk", audit="leaks"), sample_run("llama"), sample_run("gpt2"))
    answer = findings(results).answer
    assert answer.startswith("resnet-bk fails the causality audit")
    assert "llama beats gpt2" in answer
    assert "resnet-bk fails the causality audit" in notes(results, warning=True)


def test_our_divergence_comes_first() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, math.nan), *seeds("llama", 101.0, 102.0))
    assert findings(results).answer.startswith(
        "resnet-bk has no finite perplexity for 1 of 2 seeds and is not ranked. "
    )


def test_nothing_to_rank() -> None:
    results = with_runs(sample_run("resnet-bk-seed", audit="leaks"))
    assert findings(results).answer.startswith("No perplexity to report: resnet-bk-seed fails the causality audit")
    assert findings(results).comparisons == ()


def test_one_model_alone() -> None:
    found = findings(sample_results("resnet-bk"))
    assert found.answer.endswith("(one seed, no spread); there is no other perplexity to compare it with.")
    assert found.budget == "1,024,000 tokens in 500 steps, 1,490,112 parameters."


def test_without_ours_the_best_is_compared_with_the_next() -> None:
    assert findings(sample_results("gpt2", "llama")).answer.startswith("llama beats gpt2: ")


def test_reference_is_ours_though_it_loses() -> None:
    parsed = parse_results(with_runs(sample_run("llama"), sample_run("resnet-bk", perplexity=150.0)))
    reference = reference_model(summarize(parsed))
    assert reference is not None
    assert reference.name == "resnet-bk"


def test_equal_budget_is_computed() -> None:
    # 1,493,760 / 1,478,208 and 210,376 / 208,820, less one.
    assert findings(sample_results()).budget == (
        "Equal budget: each model saw 1,024,000 tokens in 500 steps; parameters lie within 1.1% of each other with "
        "embeddings, 0.7% without."
    )


def test_unequal_parameters() -> None:
    results = with_runs(sample_run("resnet-bk", parameters=1_600_000), sample_run("llama"))
    assert findings(results).budget.startswith("Same tokens and steps (1,024,000 in 500), unequal parameters")
    said = "Parameters differ by 8.2%, with embeddings or without, more than the rule of 2%."
    assert said in notes(results, warning=True)


def test_unequal_parameters_without_embeddings() -> None:
    """What the embeddings hide: in a small model they are most of it."""
    results = with_runs(sample_run("resnet-bk", parameters_without_embeddings=190_000), sample_run("llama"))
    assert findings(results).budget.startswith("Same tokens and steps (1,024,000 in 500), unequal parameters")
    assert "Parameters differ by 9.9%" in notes(results, warning=True)


def test_two_seeds_are_no_claim() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, 100.0), *seeds("llama", 101.0, 102.0))
    assert "2 seeds for some models: a claim needs three seeds or more." in notes(results, warning=True)


def test_where_the_runs_were_made() -> None:
    here = {"git_commit": "a" * 40, "git_dirty": False, "cpu": "one", "gpu": None, "threads": 2}
    there = here | {"git_commit": "b" * 40, "cpu": "another", "threads": 4}
    told = notes(
        with_runs(sample_run("resnet-bk", environment=here), sample_run("llama", environment=there)), warning=True
    )
    assert "different commits of the code" in told
    assert "different processors: their times cannot be compared" in told
    assert "different numbers of threads" in told
    assert "GPUs" not in told
    assert "not committed" not in told
    # The runs' own word counts, not that of the call which wrote the results.
    results = with_runs(sample_run("resnet-bk", environment=here | {"git_dirty": True}), sample_run("llama"))
    assert "not committed" in notes(results, warning=True)
    results = with_runs(sample_run("resnet-bk", environment=here), sample_run("llama", environment=here))
    results["environment"]["git_dirty"] = True
    assert "not committed" not in notes(results, warning=True)
    installed = with_runs(sample_run("resnet-bk", environment=here | {"git_commit": None}))
    assert "commit of the code is not known" in notes(installed, warning=True)


def test_a_run_that_went_on_elsewhere() -> None:
    here = {"git_commit": "a" * 40, "git_dirty": False, "cpu": "one", "gpu": None, "threads": 2, "python": "3.11.1"}
    there = here | {"threads": 1, "python": "3.12.0"}

    def told(*places: dict[str, Any]) -> str:
        calls = [{"from_step": 100 * number, "environment": place} for number, place in enumerate(places)]
        run = sample_run("resnet-bk", environment=places[-1], calls=calls)
        return notes(with_runs(run, sample_run("llama", environment=here)), warning=True)

    text = told(there, here)
    assert "resnet-bk (seed 0) was stopped and went on with another commit" in text
    assert "different numbers of threads" in text
    assert "different versions of Python or of libraries" in text
    assert "stopped" not in told(here, here)
    text = told(here | {"memory_settings": "MALLOC_TOP_PAD_=1"}, here | {"memory_settings": "default"})
    assert "different memory settings: their times cannot be compared" in text
    assert "stopped" not in text  # which changes no bit
    assert "stopped" not in told(there)


def test_where_figures_of_a_finished_run_were_measured() -> None:
    here = {"git_commit": "a" * 40, "git_dirty": False, "cpu": "one", "gpu": "not used", "threads": 2}
    there = here | {"git_commit": "b" * 40, "cpu": "another", "gpu": None}
    calls = [{"from_step": 0, "environment": here}]

    def told(**made: Any) -> str:
        run = sample_run("resnet-bk", calls=calls, **made)
        return notes(with_runs(run, sample_run("llama", environment=here)), warning=True)

    assert "different" not in told(environment=here)
    for made in ({"environment": there}, {"environment": here, "later": [{"figures": ["x"], "environment": there}]}):
        assert "different commits of the code" in told(**made)
        assert "times cannot be compared" not in told(**made)  # it was trained here


def test_windows_that_overlap_are_told() -> None:
    told = notes(sample_results(), warning=False)
    assert "llama sees one segment at a time; in windows that overlap by half, at twice the work, it has 101.1." in told
    assert "resnet-bk sees" not in told
    results = with_runs(
        sample_run("resnet-bk"), sample_run("llama", held_out_perplexity_overlapping=98.0), sample_run("gpt2")
    )
    assert findings(results).answer.endswith("; in windows that overlap by half llama has 98.0 and is ahead.")
    assert "at twice the work, it has 98.0 and is ahead of resnet-bk." in notes(results, warning=True)
    results = with_runs(sample_run("resnet-bk"), sample_run("llama", held_out_perplexity_overlapping=103.0))
    assert "windows" not in notes(results, warning=True) + notes(results, warning=False)


def test_unequal_tokens() -> None:
    results = with_runs(sample_run("resnet-bk", total_tokens=2_048_000, steps=1000), sample_run("llama"))
    assert findings(results).budget.startswith("Unequal budget: 1,024,000 to 2,048,000 tokens in 500 to 1,000 steps")
    assert "no comparison on an equal budget" in notes(results, warning=True)


def test_other_warnings() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, 100.0), *seeds("llama", 101.0), sample_run("gpt2", device="cuda"))
    results["environment"]["git_dirty"] = True
    told = notes(results, warning=True)
    assert "not trained on the same seeds (resnet-bk: 0, 1; llama: 0; gpt2: 0)" in told
    assert "different devices" in told
    assert "not committed" in told
    assert "One seed" not in told


def test_no_warning_without_cause() -> None:
    results = with_runs(*seeds("resnet-bk", 99.0, 100.0, 101.0), *seeds("llama", 102.0, 103.1, 104.0))
    results["protocol"]["name"] = "mine"  # none that ships, of which it would differ
    assert notes(results, warning=True) == ""
    assert "One seed, no spread" in notes(sample_results(), warning=True)


def test_rates_that_no_search_found_are_a_warning() -> None:
    results = sample_results("resnet-bk", "llama", learning_rates_tried=[])
    results["protocol"]["name"] = "mine"
    assert "Fewer than 3 learning rates were tried for resnet-bk and llama" in notes(results, warning=True)
    for entry in results["protocol"]["models"].values():
        entry["learning_rate_source"] = "resnet-bk bench quick --set learning_rates=[1e-3,3e-3,1e-2]"
    assert "learning rates" not in notes(results, warning=True)


def test_unequal_grids_are_a_warning() -> None:
    results = sample_results("resnet-bk", "llama")
    results["runs"][1]["learning_rates_tried"].append({"learning_rate": 3e-2, "held_out_perplexity": 300.0})
    assert "did not try the same learning rates" in notes(results, warning=True)


def test_the_answer_is_of_the_seeds_that_both_have() -> None:
    def runs(name: str, *values: float) -> list[dict[str, Any]]:
        return [sample_run(name, seed=seed) | {"held_out_perplexity": value} for seed, value in enumerate(values)]

    ours, theirs = runs("resnet-bk", 40.0, 40.2, 60.0), runs("gpt2", 42.0, 42.1)
    results = with_runs(*ours, *theirs)
    found = findings(results)
    (compared,) = found.comparisons
    assert compared.test is not None
    assert compared.test.ratio < 1
    assert found.answer.startswith("resnet-bk beats gpt2: held-out perplexity 40.1 ± 0.1 against 42.0")
    assert f"(ratio {compared.test.ratio:.3f}; 2 seeds, paired p" in found.answer
    assert "two are compared by those that both have" in notes(results, warning=True)
    # The rival is the model that is hardest to beat on the seeds that both have, whatever its other seeds reach.
    theirs, others = runs("gpt2", 39.0, 39.1, 60.0), runs("llama", 43.0, 43.2)
    answer = findings(with_runs(*runs("resnet-bk", 40.0, 40.2), *theirs, *others)).answer
    assert answer.startswith("resnet-bk loses to gpt2: held-out perplexity 40.1 ± 0.1 against 39.0")
    assert answer.endswith("though ahead of llama.")
    # Where they share no seed, each has its own.
    apart = [run | {"seed": run["seed"] + 7} for run in runs("gpt2", 42.0, 42.1)]
    results = with_runs(*runs("resnet-bk", 40.0, 40.2), *apart)
    assert findings(results).answer.startswith("resnet-bk beats gpt2: held-out perplexity 40.1 ± 0.1 against 42.0")
    assert "or by their own where they share none" in notes(results, warning=True)


def test_a_model_that_diverged_is_not_of_the_budget() -> None:
    lost = sample_run("llama") | {
        "held_out_perplexity": None,
        "diverged": "nan at step 2",
        "steps": 2,
        "total_tokens": 64,
    }
    results = with_runs(sample_run("resnet-bk"), sample_run("gpt2"), lost)
    assert findings(results).budget == findings(with_runs(sample_run("resnet-bk"), sample_run("gpt2"))).budget
    assert "no comparison on an equal budget" not in notes(results, warning=True)
    assert "llama has no finite perplexity" in notes(results, warning=True)
    alone = findings(with_runs(sample_run("resnet-bk"), lost | {"parameters": 9_000_000}))
    assert alone.budget.startswith("resnet-bk: 1,024,000 tokens in 500 steps")
    assert not any("Parameters differ" in note.text for note in alone.notes)


def test_a_protocol_that_was_changed_is_not_taken_for_the_one_that_ships() -> None:
    shipped = sample_results() | {"protocol": load_protocol("quick").model_dump()}
    assert "as it ships" not in notes(shipped, warning=True)
    same = {"hidden_size": 16, "steps": 20, "dataset": "embedded"}
    changed = shipped | {"protocol": shipped["protocol"] | same}
    said = "Not quick as it ships: steps 20 (there null), hidden_size 16 (there 64)."
    assert f"{said} Its description and learning rates were made for that one." in notes(changed, warning=True)
    models = {name: dict(entry) for name, entry in shipped["protocol"]["models"].items()}
    models["resnet-bk"]["config"] = {"pointer_heads": 0}
    models["llama"]["learning_rate"] = 1.0  # which the table shows
    bare = shipped | {"protocol": shipped["protocol"] | {"models": models | {"own": {"head": "model"}}}}
    said = 'Not quick as it ships: models.resnet-bk.config {"pointer_heads": 0} (there {"pointer_heads": 4}).'
    assert said in notes(bare, warning=True)
    own = {"description": "mine", "models": {"llama": {"learning_rate": 0.123}}, "dataset": "a/b.txt"}
    own_text = notes(shipped | {"protocol": changed["protocol"] | own}, warning=True)
    assert 'Not quick as it ships: dataset "a/b.txt" (there "embedded"), steps' in own_text
    assert "made for that one" not in own_text
    # A folder of one's own may be called as the text that comes with the package, and what does not come lies anywhere.
    own_folder = notes(shipped | {"protocol": shipped["protocol"] | {"dataset": "/tmp/embedded"}}, warning=True)
    assert 'Not quick as it ships: dataset "/tmp/embedded" (there "embedded").' in own_folder
    books = load_protocol("books").model_dump() | {"dataset": "/elsewhere/standard-ebooks"}
    assert "as it ships" not in notes(sample_results() | {"protocol": books}, warning=True)


def test_windows_put_a_model_ahead_only_of_one_that_has_not_read_them_better() -> None:
    def ahead(windows: float | None) -> str:
        ours = sample_run("resnet-bk", perplexity=100.0, held_out_perplexity_overlapping=windows)
        llama = sample_run("llama", perplexity=101.0, held_out_perplexity_overlapping=96.0, carry_state=False)
        results = with_runs(ours, llama)
        return findings(results).answer + notes(results, warning=True)

    assert "llama has 96.0 and is ahead" in ahead(None)
    assert "is ahead of resnet-bk" in ahead(97.0)
    assert "is ahead" not in ahead(95.0)


def test_orders_without_carry_and_in_windows_are_of_seeds_that_both_have() -> None:
    def ours(perplexity: float, without: float, seed: int) -> dict[str, Any]:
        return sample_run("resnet-bk", perplexity=perplexity, held_out_perplexity_without_carry=without, seed=seed)

    llama = sample_run("llama", perplexity=120.0, held_out_perplexity_overlapping=108.0, carry_state=False, seed=42)
    # With seed 42 ours is ahead of llama in every reading; its other seeds alone are not.
    results = with_runs(ours(100.0, 110.0, 42), ours(115.0, 140.0, 43), ours(115.0, 140.0, 44), llama)
    assert "would not be ahead" not in notes(results, warning=True)
    assert "is ahead of resnet-bk" not in notes(results, warning=True)
    passed = with_runs(ours(100.0, 130.0, 42), ours(80.0, 85.0, 43), llama)
    assert "Without the carry it would not be ahead of llama." in notes(passed, warning=True)
