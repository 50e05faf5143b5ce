"""The tables of `lengths` and `repeats`: rows and columns that can be told apart, and notes that hold."""

import io

from rich.console import Console

from resnet_bk.bench.trained.lengths_table import lengths_table
from resnet_bk.bench.trained.repeats_table import repeats_table


def model(name, run, problem=None, carries="a state"):
    readings = [
        {"name": "carried", "problem": problem, "seconds": None if problem else 1.0, "perplexity": [2.0]},
        {"name": "window 16", "problem": None, "seconds": 1.0, "perplexity": [3.0]},
    ]
    facts = {"model_name": name, "seed": 42, "run": run, "segment": 16, "carries": carries}
    return facts | {"readings": readings, "losses": [1.0], "loss": 1.0}


def printed(*models):
    """Both tables, of these models, with single blanks."""
    of_both = {"dataset_name": "text", "split": "validation", "tokens": 32, "models": models}
    console = Console(width=120, file=io.StringIO())
    console.print(lengths_table(of_both | {"documents": 2, "places": [[0, 32]]}))
    lengths = " ".join(console.file.getvalue().split())
    console.print(repeats_table(of_both | {"window": 16, "kinds": [{"name": "new word", "share": 1.0}]}))
    return lengths, " ".join(console.file.getvalue().split()).removeprefix(lengths)


def test_runs_of_one_name_and_seed_have_their_folder():
    alike = [model("gpt2", f"{out}/gpt2/seed-42") for out in ("a", "b")]
    lengths, repeats = printed(*alike, model("mine", "b/mine/seed-42"))
    for folder in ("a/gpt2/seed-42", "b/gpt2/seed-42"):
        assert f"gpt2, seed 42: {folder} carried" in lengths
        assert f"gpt2, {folder}: trained on segments of 16" in lengths
        assert folder in repeats
    for table in printed(alike[0], model("mine", "b/mine/seed-42")):
        assert "/seed-42" not in table


def test_what_is_not_read_as_one_stream_carries_nothing():
    lengths, _ = printed(model("mine", "a/mine/seed-42", "it returns no cache", "its cache"), model("gpt2", "x"))
    assert "mine: trained on segments of 16. mine: window 16" in lengths
    assert "mine, carried: it returns no cache." in lengths
    assert "gpt2: trained on segments of 16, carries a state." in lengths
