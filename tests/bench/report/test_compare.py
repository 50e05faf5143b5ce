"""Benchmarks side by side."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resnet_bk import cli
from resnet_bk.bench.report.compare import compare_results, comparison_table
from tests.bench.report_samples import sample_results, sample_run

HASHES = {"validation_tokens": "a", "tokenizer": "b", "corpus": "c", "train_tokens": "d"}


def write(folder: Path, results: dict[str, Any], **data: Any) -> Path:
    results = copy.deepcopy(results)
    results["data"] |= {"fingerprints": HASHES, "train_unk_rate": 0.02, "validation_unk_rate": 0.03} | data
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    small, large = sample_results(seeds=(0, 1)), sample_results("resnet-bk", "llama", training_time=400.0)
    other = {"name": "wikitext-103", "train_tokens": 103_000_000, "vocab_size": 30_000}
    ngrams = {
        "split": "validation",
        "method": "Kneser-Ney",
        "ngrams": [
            {"name": "unigram", "order": 1, "perplexity": 800.0, "bits_per_character": 2.0, "different_ngrams": 9}
        ],
    }
    return [
        write(tmp_path / "small", small | {"ngrams": ngrams}, name="wikitext-2", train_tokens=2_000_000),
        write(tmp_path / "large", large, **other, fingerprints=HASHES | {"validation_tokens": "other"}),
    ]


def printed(compared: dict[str, Any]) -> dict[str, list[str]]:
    """Rows of the table by their first cell; those of models as `model/row`."""
    table = comparison_table(compared)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    rows: dict[str, list[str]] = {}
    model = ""
    for label, *cells in zip(*columns, strict=True):
        if label.startswith("  "):
            rows[f"{model}/{label.strip()}"] = cells
        else:
            model, rows[label] = label, cells
    return rows


def test_figures_of_two_data_sets(two: list[Path]) -> None:
    compared = compare_results(two)
    json.dumps(compared, allow_nan=False)
    assert not compared["perplexities_comparable"]
    small, large = compared["results"]
    assert (small["dataset_name"], large["dataset_name"]) == ("wikitext-2", "wikitext-103")
    assert large["data"]["train_tokens"] == 103_000_000
    runs = [run for run in json.loads((two[0] / "results.json").read_text())["runs"] if run["model_name"] == "llama"]
    for key, field in [("held_out_perplexity",) * 2, ("training_perplexity", "final_perplexity")]:
        assert small["models"]["llama"][key] == pytest.approx(sum(run[field] for run in runs) / 2)
    assert small["models"]["llama"]["seeds"] == [0, 1]
    assert large["models"]["llama"]["training_time"] == 400.0
    assert "gpt2" in small["models"]
    assert "gpt2" not in large["models"]

    rows = printed(compared)
    assert rows["training tokens"] == ["2,000,000", "103,000,000", "51.5"]
    assert rows["vocabulary"][1] == "30,000"
    assert rows["<unk>, held-out"] == ["3.00%", "3.00%", "1.00"]
    assert rows["unigram perplexity"] == ["800.0", "–", ""]
    assert rows["gpt2/held-out perplexity"][1:] == ["–", ""]
    assert rows["llama/training time"][1] == "6 min 40 s"
    assert rows["llama/FLOPs of the training"] == ["9.15 TFLOP", "9.15 TFLOP", "1.00"]
    assert rows["llama/held-out perplexity"][2] == ""  # other text: no ratio
    assert rows["llama/held-out bits/character"][2] == ""  # <unk> costs little
    assert "no contest" in str(comparison_table(compared).caption)
    assert "the fewer the more words are <unk>" in str(comparison_table(compared).caption)


def test_bits_a_character_have_a_ratio_where_no_word_is_unknown(tmp_path: Path) -> None:
    known = {"validation_unk_rate": 0.0}
    other = known | {"fingerprints": HASHES | {"tokenizer": "other"}}
    results = sample_results("llama")
    compared = compare_results([write(tmp_path / "a", results, **known), write(tmp_path / "b", results, **other)])
    assert printed(compared)["llama/held-out bits/character"][2] == "1.00"
    assert "Bits a character depend less on the vocabulary." in str(comparison_table(compared).caption)
    elsewhere = known | {"fingerprints": other["fingerprints"] | {"corpus": "other"}}
    compared = compare_results([tmp_path / "a", write(tmp_path / "c", results, **elsewhere)])
    assert printed(compared)["llama/held-out bits/character"][2] == ""
    assert "for the texts are not known to be one" in str(comparison_table(compared).caption)


def test_the_same_text_has_ratios_of_perplexities(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a", sample_results("llama")), write(tmp_path / "b", sample_results("llama"))]
    compared = compare_results([paths[0], paths[1] / "results.json"])
    assert compared["perplexities_comparable"]
    assert printed(compared)["llama/held-out perplexity"] == ["102.1", "102.1", "1.00"]


def test_the_same_text_in_another_number_of_rows(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, sample_results("resnet-bk")) for name in ("a", "b")]
    results = json.loads((paths[1] / "results.json").read_text())
    results["protocol"]["batch_size"] = 400
    (paths[1] / "results.json").write_text(json.dumps(results))
    compared = compare_results(paths)
    assert compared["perplexities_comparable"]
    assert not compared["rows_alike"]
    rows = printed(compared)
    assert rows["resnet-bk/held-out perplexity"][2] == rows["resnet-bk/the same, state not carried"][2] == ""
    assert rows["resnet-bk/the same, overlapping windows"][2] == "1.00"
    assert rows["resnet-bk/training perplexity, last epoch"][2] == ""
    assert "perplexities can be compared" not in str(comparison_table(compared).caption)
    assert "in overlapping windows, and none of training perplexities." in str(comparison_table(compared).caption)
    results["data"]["fingerprints"]["validation_tokens"] = "other"
    (paths[1] / "results.json").write_text(json.dumps(results))
    assert "shown but in overlapping windows," in str(comparison_table(compare_results(paths)).caption)


def test_another_device_of_the_same_machine_is_another_machine(tmp_path: Path) -> None:
    results = sample_results("llama")
    on_gpu = json.loads(json.dumps(results))
    for run in on_gpu["runs"]:
        run["device"] = "cuda"
    assert {run["device"] for run in results["runs"]} == {"cpu"}
    assert compare_results([write(tmp_path / name, results) for name in "ab"])["times_comparable"]
    paths = [write(tmp_path / "c", results), write(tmp_path / "d", on_gpu)]
    assert not compare_results(paths)["times_comparable"]


def test_ratios_are_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    """Of another seed's luck there is no ratio, and none where no seed is shared."""

    def made(name: str, **perplexities: float) -> Path:
        results = sample_results("llama")
        results["runs"] = [
            sample_run("llama", seed=int(seed[1:]), held_out_perplexity=value) for seed, value in perplexities.items()
        ]
        return write(tmp_path / name, results)

    several, one, other = made("several", s1=100.0, s2=120.0), made("one", s1=110.0), made("other", s3=110.0)
    compared = compare_results([several, one])
    assert printed(compared)["llama/held-out perplexity"] == ["110.0", "110.0", "1.10"]
    assert str(comparison_table(compared).caption).endswith("Ratios are of the seeds that both have.")
    assert printed(compare_results([several, other]))["llama/held-out perplexity"] == ["110.0", "110.0", ""]


def test_peaks_of_different_kinds_have_no_ratio(tmp_path: Path) -> None:
    results = sample_results("llama")
    other = copy.deepcopy(results)
    for run in other["runs"]:
        run["peak_memory_kind"] = "since the start of the process"
    first = write(tmp_path / "first", results)
    same = compare_results([first, write(tmp_path / "same", results)])
    unlike = compare_results([first, write(tmp_path / "unlike", other)])
    assert [printed(compared)["llama/peak memory"][2] for compared in (same, unlike)] == ["1.00", ""]
    assert printed(unlike)["llama/training time"][2] == "1.00"
    captions = [str(comparison_table(compared).caption) for compared in (same, unlike)]
    assert ["peak_memory_kind" in caption for caption in captions] == [False, True]


def test_of_a_run_without_a_peak_there_is_no_other_kind(tmp_path: Path) -> None:
    results = sample_results("llama", peak_memory_kind="since the start of the process")
    diverged = sample_results("llama", perplexity=None, peak_memory_mb=None)
    diverged["runs"][0]["held_out_perplexity"] = None
    compared = compare_results([write(tmp_path / "first", results), write(tmp_path / "diverged", diverged)])
    assert "peak_memory_kind" not in str(comparison_table(compared).caption)


def test_what_a_model_has_without_its_state_stands_below(tmp_path: Path) -> None:
    carried = sample_results("resnet-bk", "llama")
    for run in carried["runs"]:
        run["held_out_perplexity_without_carry"] = 150.0 if run["model_name"] == "resnet-bk" else None
    rows = printed(compare_results([write(tmp_path / name, carried) for name in "ab"]))
    assert rows["resnet-bk/the same, state not carried"] == ["150.0", "150.0", "1.00"]
    assert "llama/the same, state not carried" not in rows


def test_what_decides_the_speed_of_a_run(tmp_path: Path) -> None:
    def made(device: str, **place: Any) -> Path:
        results = sample_results("llama")
        for run in results["runs"]:
            run["device"], run["environment"] = device, results["environment"] | place
        return write(tmp_path / str(len(list(tmp_path.iterdir()))), results)

    def comparable(*paths: Path) -> bool:
        return compare_results(paths)["times_comparable"]

    assert comparable(made("cpu", gpu="not used"), made("cpu", gpu=None))
    assert comparable(made("cuda:0", gpu="one"), made("cuda", gpu="one"))
    assert not comparable(made("cuda", gpu="one"), made("cuda", gpu="another"))
    kernels = [made("cpu", kernel_instructions=name) for name in ("AMX", "AVX-512")]
    assert not comparable(*kernels)
    assert comparable(kernels[0], made("cpu"))  # of before results said so


def test_times_of_other_machines_are_marked(tmp_path: Path) -> None:
    here, there = sample_results("llama"), sample_results("llama")
    note = "times and memory cannot be compared"
    same = compare_results([write(tmp_path / "a", here), write(tmp_path / "b", there)])
    assert same["times_comparable"]
    assert note not in str(comparison_table(same).caption)
    there["runs"][0]["environment"] = there["environment"] | {"threads": 64}
    other = compare_results([tmp_path / "a", write(tmp_path / "c", there)])
    assert not other["times_comparable"]
    assert note in str(comparison_table(other).caption)
    assert printed(same)["llama/training time"][2] == "1.00"
    for row in ("training time", "tokens/s", "peak memory"):
        assert printed(other)[f"llama/{row}"][2] == ""
    assert printed(other)["llama/FLOPs a step"][2] == "1.00"


def test_results_that_do_not_tell_their_text_are_not_comparable(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, sample_results("llama"), fingerprints={}) for name in "ab"]
    assert not compare_results(paths)["perplexities_comparable"]


def test_ngrams_of_another_split_do_not_stand_beside(two: list[Path]) -> None:
    results = json.loads((two[0] / "results.json").read_text())
    results["ngrams"]["split"] = "test"
    (two[0] / "results.json").write_text(json.dumps(results))
    assert compare_results(two)["results"][0]["ngrams"] == {}


def test_three_columns_and_a_leak(tmp_path: Path) -> None:
    leaking = sample_results("llama")
    leaking["runs"].append(sample_run("resnet-bk-seed", audit="leaks"))
    leaking["runs"][-1] |= {"held_out_perplexity": None, "held_out_perplexity_without_carry": None}
    paths = [write(tmp_path / name, leaking) for name in "abc"]
    rows = printed(compare_results(paths))
    assert rows["resnet-bk-seed/held-out perplexity"] == ["leaks"] * 3
    assert len(rows["resnet-bk-seed/training perplexity, last epoch"]) == 3


def test_what_cannot_be_compared(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or more folders that resnet-bk bench wrote, but got 1"):
        compare_results(two[:1])
    with pytest.raises(ValueError, match=r"small/results.json is given twice; name each benchmark once"):
        compare_results([two[0], two[1], two[0] / "results.json"])
    with pytest.raises(ValueError, match=r"nowhere: .*nowhere/results.json does not exist"):
        compare_results([two[0], tmp_path / "nowhere"])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json: results: protocol is missing"):
        compare_results([two[0], tmp_path / "other.json"])


def test_the_command(two: list[Path]) -> None:
    paths = [str(path) for path in two]
    table = CliRunner().invoke(cli.app, ["compare", *paths])
    assert table.exit_code == 0, table.output
    for word in ("wikitext-2", "wikitext-103", "training tokens", "FLOPs of the training", "second /"):
        assert word in table.stdout
    told = CliRunner().invoke(cli.app, ["compare", *paths, "--json"])
    assert json.loads(told.stdout) == compare_results(two)
    wrong = CliRunner().invoke(cli.app, ["compare", paths[0]])
    assert (wrong.exit_code, len(wrong.stderr.strip().splitlines())) == (2, 1)


def test_the_table_fits_a_terminal(two: list[Path]) -> None:
    console = Console(width=100, record=True, quiet=True)
    console.print(comparison_table(compare_results(two)))
    assert all(len(line) <= 100 for line in console.export_text().splitlines())


def test_what_was_lost_and_on_what_it_was_trained(tmp_path: Path) -> None:
    lost = sample_run("llama", seed=1) | {"held_out_perplexity": None, "diverged": "nan at step 2"}
    whole = sample_results(seeds=(0, 1))
    other = whole | {"runs": [run for run in whole["runs"] if run["model_name"] != "llama"] + [lost]}
    folders = [
        write(tmp_path / "whole", whole),
        write(tmp_path / "part", other, fingerprints=HASHES | {"train_tokens": "fewer"}),
    ]
    compared = compare_results(folders)
    assert compared["perplexities_comparable"]
    assert not compared["training_perplexities_comparable"]
    rows = printed(compared)
    assert rows["llama/held-out perplexity"][1:] == ["diverged", ""]
    assert rows["llama/seeds"] == ["0, 1", "1", ""]
    assert rows["gpt2/learning rates"][2] == ""
    assert rows["gpt2/held-out perplexity"][2] == "1.00"
    assert rows["gpt2/training perplexity, last epoch"][2] == ""
    assert "no ratio of training perplexities is shown" in str(comparison_table(compared).caption)
