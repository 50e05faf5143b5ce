"""The page gets its figures from result files, and agrees with those in the repository."""

import json

import pytest

from benchmarks.command import guarded
from benchmarks.gate import Check, run_gate
from benchmarks.pages import performance
from benchmarks.pages.page import PLACE
from benchmarks.row import OURS, Row, Table, Target
from benchmarks.text import cell, markdown, seconds
from benchmarks.timing import Spread, Timing

MACHINE = {
    "cpu": "A chip",
    "cpu_count": 2,
    "cores_allowed": 2,
    "memory_gib": 24.0,
    "simd": "AVX512",
    "threads": 2,
    "load_before": 0.1,
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
    "git_commit": "0123456789abcdef",
    "git_dirty": True,
}
GREEN = Row(
    "vector",
    "T=128",
    run_gate(lambda: [Check("output", 1e-7, 1e-6)]),
    {OURS: Timing((0.002,), 1), "a | b": Timing((0.01,), 1)},
    {"a | b": Spread(5.0, 4.5, 5.5)},
    (Target("speed in units of a copy", "at least", 0.6, 0.5),),
    Table(("sites", "share"), ((4096, None),)),
    ("a note",),
)
RED = Row("vector", "T=256", run_gate(lambda: [Check("output", 1.0, 1e-6)]))
PAGE = """# Page

<!-- begin ops:machine -->
<!-- end -->

Words.

<!-- begin ops:vector -->
old
<!-- end -->

<!-- begin models:training step -->
kept
<!-- end -->
"""


def results(*rows, **changes):
    return {
        "suite": "ops",
        "quick": False,
        "complete": True,
        "machine": MACHINE,
        "rows": [row.as_dict() for row in rows],
    } | changes


def test_a_page_is_filled():
    page = performance.fill(PAGE, [results(GREEN, RED)])
    assert "old" not in page
    for line in (
        "- commit 0123456789ab with uncommitted changes",
        "- A chip, 2 of 2 cores, 24 GiB, AVX512",
        "| T=128 | ours | 2.00 ms |  |",
        "|  | a / b | 10.0 ms | 5.00 (4.50 to 5.50) |",
        "| T=256 | ours | gate RED: output 1.0e+00 (tolerance 1.0e-06) | – |",
        "| 4,096 | – |",
        "- T=128: speed in units of a copy: at least 0.6, reached 0.500: MISSED",
        "- T=128: a note",
        "kept",
        "Words.",
    ):
        assert line in page.splitlines(), line
    assert performance.fill(page, [results(GREEN, RED)]) == page


def test_what_the_gates_saw_is_one_line_unless_one_is_red():
    def lines(*rows):
        return markdown([row.as_dict() for row in rows]).splitlines()

    near = Row("vector", "T=64", run_gate(lambda: [Check("output", 1e-7, 1e-6), Check("gradient of x", 5e-7, 1e-6)]))
    bits = Row("vector", "T=32", run_gate(lambda: [Check("output", 0.0, 0.0)]))
    closest = "the closest at 50% of its own (T=64: gradient of x)."
    assert f"- 4 of 4 comparisons: within their tolerances, {closest}" in lines(GREEN, near, bits)
    folded = "<details><summary>Correctness and notes</summary>"
    assert lines(bits) == [folded, "", "- 1 of 1 comparisons: equal bit for bit.", "", "</details>"]
    red = lines(GREEN, RED)
    start = red.index("Correctness, where it FAILED:")
    assert red[start + 2 : start + 4] == ["- T=256: RED: output 1.0e+00 (tolerance 1.0e-06)", ""]
    assert red.index(folded) > start
    assert not any("comparisons" in line for line in red)


def test_a_note_of_several_rows_stands_once():
    def row(name, *notes, compared=True):
        return Row("vector", name, ratios={"a copy": Spread(5.0, 4.5, 5.5)} if compared else {}, notes=notes).as_dict()

    def notes(*rows):
        return [line for line in markdown(rows).splitlines() if line.startswith("- ")]

    assert notes(row("a", "of all", "of one"), row("b", "of all"), row("c", compared=False)) == [
        "- of all",
        "- a: of one",
    ]
    assert notes(*(row(name, "of three") for name in "abc"), row("d")) == ["- of three (3 of 4 rows)"]


def test_long_tables_are_folded_and_longer_ones_left_out():
    def text(lines, *columns):
        return markdown([Row("x", "figures", table=Table(columns, ((4,) * len(columns),) * lines)).as_dict()])

    folded = text(13, "a")
    assert folded.startswith("<details><summary>Figures (13 lines)</summary>\n\n| a |")
    assert folded.endswith("| 4 |\n\n</details>")
    assert text(21, "a") == "Figures: 21 lines, in the JSON."
    assert text(1, "crossover, tokens") == "Figures: 4 (crossover, tokens)."
    assert text(1, "a", "b") == "Figures:\n\n| a | b |\n|---|---|\n| 4 | 4 |"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (results(GREEN, quick=True), "quick or unfinished"),
        (results(GREEN, complete=False), "quick or unfinished"),
        (results(GREEN, whole=False), "of a part of one, or of other models"),
        (results(), "the results have none"),
        (results(GREEN, Row("head", "x")), "the results have head, vector"),
    ],
)
def test_results_that_do_not_fit_the_page(found, says):
    with pytest.raises(ValueError, match=says):
        performance.fill(PAGE, [found])


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        guarded(lambda _: performance.main([str(argument) for argument in arguments]))
    return ended.value.code


def test_the_command(tmp_path, capsys):
    page, file = tmp_path / "page.md", tmp_path / "ops.json"
    page.write_text(PAGE)
    file.write_text(json.dumps(results(GREEN)))
    assert call(file, "--page", page, "--check") == 1
    assert page.read_text() == PAGE
    assert call(file, "--page", page) == 0
    assert call(file, "--page", page, "--check") == 0
    assert "agrees with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"), [(None, "does not exist"), ("{", "cannot be read"), ("{}", "lacks what the page is made of")]
)
def test_bad_files(content, says, tmp_path, capsys):
    page, file = tmp_path / "page.md", tmp_path / "ops.json"
    page.write_text(PAGE)
    if content is not None:
        file.write_text(content)
    assert call(file, "--page", page) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_page_that_is_not_there(tmp_path, capsys):
    assert call("--page", tmp_path / "none.md") == 2
    assert "--page" in capsys.readouterr().err


def test_the_page_has_a_place_for_every_case():
    page = performance.PAGE.read_text(encoding="utf-8")
    places = {(match["suite"], match["name"]) for match in PLACE.finditer(page)}
    from benchmarks.ops import CASES

    assert places == {
        *(("ops", case) for case in (*CASES, "machine")),
        ("models", "machine"),
        ("models", "training step"),
        ("models", "gradients"),
        ("models", "short convolution"),
        ("models", "pointer"),
        ("scaling", "machine"),
        ("scaling", "training by length"),
        ("generation", "machine"),
        ("generation", "one more token"),
    }


def test_cells():
    assert [cell(value) for value in (None, True, False, 12345, 0.5, 1e-6, 0.0, "x")] == [
        *("–", "yes", "NO", "12,345", "0.500", "1.0e-06", "0", "x")
    ]
    assert [seconds(value) for value in (2.0, 0.99996, 0.0123, 4.2e-5)] == ["2.00 s", "1.00 s", "12.3 ms", "42.0 µs"]


def test_a_table_only_case():
    table = Table(("a",), ((1,), (2,)))
    assert markdown([Row("x", "figures", table=table).as_dict()]) == "Figures:\n\n| a |\n|---|\n| 1 |\n| 2 |"
