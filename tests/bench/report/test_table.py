import io
from typing import Any

import pytest
from rich.console import Console

from resnet_bk.bench.report.table import results_table
from tests.bench.report_samples import sample_results, sample_run


def printed(results: dict[str, Any], *, color: bool = False, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=color, color_system="standard" if color else None)
    console.print(results_table(results))
    return stream.getvalue()


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_every_figure_is_there_at_100_columns() -> None:
    text = printed(sample_results())
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())
    assert "…" not in text
    assert "quick on embedded" in text
    assert row(text, "resnet-bk").split() == (
        ["resnet-bk", "99.2", "101.0", "101.2", "1.354", "1.49M", "500", "0.003", "0.105", "0:52", "742", "causal"]
    )
    below = text.splitlines()[text.splitlines().index(row(text, "resnet-bk")) + 1]
    # Overlapping windows, parameters without embeddings, tokens a second.
    assert below.split() == ["100.7", "210k", "19.5k"]
    assert "one seed, no spread" in text
    assert "4.23% of the held-out tokens are <unk>" in text
    assert "±" not in text
    assert "<unk>" not in printed(sample_results(unk_rate=0.0))


def test_views_that_were_not_measured_have_no_column() -> None:
    views = dict.fromkeys(("held_out_perplexity_without_carry", "held_out_perplexity_overlapping"))
    text = printed(sample_results("resnet-bk", **views))
    assert row(text, "resnet-bk").split()[:3] == ["resnet-bk", "99.2", "101.2"]
    assert "windows" not in text.lower()


def test_spread_over_seeds() -> None:
    text = printed(sample_results(seeds=(0, 1, 2)))
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())
    assert "±" in row(text, "resnet-bk")
    assert "sample standard deviation over 3 seeds" in text
    assert "causal" in row(text, "llama")


def test_no_spread_is_claimed_where_no_model_has_a_perplexity() -> None:
    results = sample_results("llama", seeds=(0, 1))
    for run in results["runs"]:
        run["held_out_perplexity"] = None
    assert "deviation" not in printed(results)


def test_unequal_numbers_of_seeds_are_stated() -> None:
    results = sample_results(seeds=(0, 1))
    results["runs"].pop()
    assert "over 1 to 2 seeds" in printed(results)


def test_leaks_stand_in_the_place_of_the_perplexity() -> None:
    results = sample_results()
    results["runs"].append(sample_run("resnet-bk-seed", audit="leaks"))
    line = row(printed(results), "resnet-bk-s")
    # The training perplexity of a model that leaks is no held-out one and is shown as what it is.
    assert line.split()[1:5] == ["leaks", "–", "112.2", "–"]
    assert line.split()[-1] == "leaks"


def test_divergence_is_shown() -> None:
    results = sample_results()
    results["runs"][1]["held_out_perplexity"] = float("nan")
    assert row(printed(results), "gpt2").split()[1] == "diverged"


def test_only_the_best_is_bold() -> None:
    bold = "\x1b[1m"
    text = printed(sample_results(), color=True)
    assert bold in next(line for line in text.splitlines() if "resnet-bk" in line)
    assert not any(bold in line for line in text.splitlines() if "llama" in line or "gpt2" in line)
    assert not any(
        bold in line for line in printed(sample_results("llama"), color=True).splitlines() if "llama" in line
    )


def test_markup_in_a_name_is_text() -> None:
    assert "[red]x[/red]" in printed(sample_results("[red]x[/red]"), width=120)


def test_missing_figures() -> None:
    missing = dict.fromkeys(("seconds_per_step", "tokens_per_second", "training_time", "peak_memory_mb"))
    assert row(printed(sample_results("llama", **missing)), "llama").split()[-4:] == ["–", "–", "–", "causal"]


def test_bad_results() -> None:
    with pytest.raises(ValueError, match="results: runs is missing"):
        results_table({"protocol": {}, "environment": {}, "data": {}})
