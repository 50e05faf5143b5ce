"""The README's tables of ResNet-BK beside Llama come from results/, and agree with them."""

import pytest

from benchmarks.pages import front

PAGE = "".join(f"<!-- begin front:{place} -->\nold\n<!-- end -->\n" for place in ("summary", "table"))
PLACE = {"git_commit": "0" * 40, "git_dirty": False, "python": "3", "versions": {}, "threads": 1, "cpu_count": 2}


def run(name, carried, alone=None, windows=None, seed=0, **changes):
    return {
        "model_name": name,
        "seed": seed,
        "held_out_perplexity": carried,
        "held_out_perplexity_without_carry": alone,
        "held_out_perplexity_overlapping": windows,
        "carry_state": alone is not None,
        "parameters": 4_100_000,
        "seconds_per_step": 0.2,
        "peak_memory_mb": 300.0,
        "calls": [{"environment": PLACE | {"cpu": "one"}}],
    } | changes


def results(name, *runs, vocabulary=30_000):
    data = {"vocab_size": vocabulary, "train_tokens": 10_000_000}
    return {"protocol": {"name": name, "sequence_length": 128}, "data": data, "runs": list(runs)}


PEERS = [run("llama", 40.0, windows=36.0, seconds_per_step=0.1), run("llama-pointer", 32.0, 33.0, 34.0)]
WORDS = results(
    "seed-local-tuned",
    run("resnet-bk", 29.0, 31.0, 30.0),
    run("resnet-bk", 31.0, 33.0, 32.0, seed=1),
    run("no-pointer", 38.0, 42.0, 36.0),
    *PEERS,
)
SMALL = results("small", run("resnet-bk", 20.0, 21.0), run("llama", 25.0), vocabulary=8_192)
QUICK = results("quick", run("resnet-bk", 70.0, 72.0, 71.0), run("llama", 100.0, windows=99.0), vocabulary=10_000)
BOOKS = results(
    "books", *(run(*of, seed=seed) for seed in (0, 1) for of in (("no-pointer", 9.0, 9.5, 9.2), ("llama", 10.0)))
)
ALL = [WORDS, SMALL, QUICK, BOOKS]


def table(found):
    """(Protocol's place, pointer) -> label and the cells by view; and the sentence below."""
    head, _, *lines, empty, costs = front.rows(front.entries(found)).splitlines()
    assert empty == ""
    views = head.strip("| ").split(" | ")[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    names = [label.partition("`")[2].partition("`")[0] for label, *_ in cells[::2]]
    return {
        (names[place // 2], pointer): (label, dict(zip(views, found, strict=True)))
        for place, (label, pointer, *found) in enumerate(cells)
    }, costs


def test_pairs_are_of_the_same_reading_and_of_the_seeds_that_both_have():
    lines, _ = table(ALL)
    assert lines["seed-local-tuned", "neither"] == (
        "**Kyoto articles, 30,000 words** (`seed-local-tuned`)<br>"
        "10.0M tokens, 4.1M parameters, segments of 128, 2 seeds",
        {
            "overlapping windows": "36.0 / 36.0 (1.00), 1 seed",
            "state not carried": "42.0 / **40.0** (1.05), 1 seed",
            "state carried": "**38.0** / 40.0 (0.95), 1 seed",
        },
    )
    assert lines["seed-local-tuned", "both"] == (
        "",
        {
            "overlapping windows": "**30.0** / 34.0 (0.88), 1 seed",
            "state not carried": "**31.0** / 33.0 (0.94), 1 seed",
            "state carried": "**29.0** / 32.0 (0.91), 1 seed",
        },
    )
    other = [run("llama", 40.0, seed=3), *WORDS["runs"][:3]]
    lines, _ = table([results("seed-local-tuned", *other), SMALL, QUICK, BOOKS])
    # What was not trained or not read so is left open.
    assert {
        *lines["seed-local-tuned", "neither"][1].values(),
        *lines["small", "neither"][1].values(),
        *lines["small", "both"][1].values(),
    } == {"–"}


def test_a_carried_figure_is_not_taken_for_that_of_segments_alone():
    carries = [run("no-pointer", 38.0, carry_state=True), run("llama", 40.0)]  # the other view was not measured
    lines, _ = table([results("seed-local-tuned", WORDS["runs"][0], *carries), SMALL, QUICK, BOOKS])
    assert lines["seed-local-tuned", "neither"][1]["state not carried"] == "–"
    assert lines["seed-local-tuned", "neither"][1]["state carried"] == "**38.0** / 40.0 (0.95)"


def test_models_of_another_file_join_their_protocol():
    more = results("quick-pointer", run("llama-pointer", 80.0), run("resnet-bk", 1.0))
    lines, _ = table([*ALL, more])
    assert lines["quick", "both"][1]["state carried"] == "**70.0** / 80.0 (0.88)"


def test_times_are_those_of_their_own_file():
    takes = "A training step of ResNet-BK with the pointer takes {} times as long as one of Llama without "
    takes += "(`quick`, `seed-local-tuned` and `small`), and {}"  # of `books` there is none
    assert table(ALL)[1].startswith(takes.format("1.00, 2.00 and 1.00", "1.00, 1.00 and 1.00 times its memory."))
    pair = [run("resnet-bk", 1.0, seconds_per_step=0.3), run("llama", 1.0, seconds_per_step=0.2)]
    assert table([*ALL, results("small-times", *pair)])[1].startswith(takes.format("1.00, 2.00 and 1.50", ""))
    pointers = [run(name, 8.0, windows=8.0, seconds_per_step=5.0) for name in ("resnet-bk", "llama-pointer")]
    shared = results("books", *BOOKS["runs"], *pointers)
    assert table([WORDS, SMALL, QUICK, shared])[1].startswith(takes.format("1.00, 2.00 and 1.00", ""))
    pair[1]["calls"] = [{"environment": PLACE | {"cpu": "another"}}]
    with pytest.raises(ValueError, match="the runs are of several machines"):
        table([*ALL, results("small-times", *pair)])


def test_ratios_where_both_read_the_same_text():
    page = front.fill(
        PAGE, [results("books", run("no-pointer", 1.0, windows=9.0), run("llama", 1.0, windows=10.0)), *ALL[:3]]
    )
    assert "old" not in page
    for line in (
        "| books (held out: one novel), 30,000 words (`books`): 10.0M tokens, 4.1M parameters | 0.90 | not trained |",
        "| Kyoto articles, 30,000 words (`seed-local-tuned`): 10.0M tokens, 4.1M parameters | 1.00 | 0.88 |",
    ):
        assert f"{line}\n" in page


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"has no place for wikitext-2; name results of .*quick-pointer"):
        front.entries([*ALL, results("wikitext-2")])
    with pytest.raises(ValueError, match="the table lacks quick, books, small; name their results too"):
        front.entries([WORDS])
    with pytest.raises(ValueError, match="the results of books have no resnet-bk or no-pointer; train one of them"):
        front.entries([WORDS, SMALL, QUICK, results("books", run("llama", 40.0))])
    leaky = results("books", *BOOKS["runs"], run("llama", None, seed=2, audit="leaks"))
    with pytest.raises(ValueError, match=r"^llama of books has no perplexity \(seed 2, audit: leaks\); leave it out"):
        front.entries([WORDS, SMALL, QUICK, leaky])
