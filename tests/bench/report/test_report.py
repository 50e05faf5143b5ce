import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from resnet_bk.bench.report.page import PLOT_NAMES, render_report, write_report
from resnet_bk.bench.report.results_schema import parse_results
from tests.bench.report_samples import BUCKETS, PERPLEXITIES, sample_results, sample_run

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What the tests look at: tags with attributes, text, and the cells of each table."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.titles: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        self.tables = [[[" ".join(cell.split()) for cell in row] for row in rows] for rows in self.tables]
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("dt", "dd", "th", "td", "h2"):
            self.words.append(" ")
        if tag == "h2":
            self.titles.append("")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "h2" in self.open:
            self.titles[-1] += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]

    def table(self, header: str) -> dict[str, dict[str, str]]:
        """Row label -> column -> cell, of the table that has this column."""
        for rows in self.tables:
            if header in rows[0]:
                return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
        raise AssertionError(f"no table has the column {header!r}")


def write(results: dict[str, Any], out: Path) -> Page:
    path = write_report(results, out)
    assert path == out / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def render(results: dict[str, Any]) -> Page:
    """The page without its plots, which take most of the time."""
    return Page(render_report(parse_results(results), []))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(sample_results(), out)
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["plots", "report.html"]
    assert {path.stem for path in (folder / "plots").iterdir()} == set(PLOT_NAMES)
    for path in (folder / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_answer_and_the_budget_stand_first(page: Page) -> None:
    start = page.text.index("ResNet-BK benchmark: quick resnet-bk beats llama, the better of two others")
    assert start < 100
    assert page.text.index("Equal budget: each model saw 1,024,000 tokens") < page.text.index("What was compared")
    assert "Caution. One seed, no spread" in page.text


def test_sections_in_order(page: Page) -> None:
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert page.titles == [
        "What was compared",
        "Results",
        "How training went",
        "Epoch by epoch",
        "By word frequency",
        "Causality audit",
        "What the figures mean",
        "Data",
        "Machine and versions",
        "How to repeat it",
    ]


def test_the_machine_is_that_of_the_runs() -> None:
    here = {"cpu": "one processor", "threads": 1, "git_commit": "aaa", "versions": {"torch": "2.13"}, "gpu": None}
    results = sample_results("resnet-bk", "llama", "gpt2", environment=here)
    results["runs"][1]["environment"] = here | {"cpu": "another one", "git_commit": "bbb"}
    results["environment"] = here | {"cpu": "that of the last call"}
    text = render(results).text
    assert "CPU one processor; another one" in text
    assert "Git commit aaa; bbb" in text
    assert "Versions torch 2.13 " in text
    assert "last call" not in text


def test_results_table(page: Page) -> None:
    table = page.table("Held-out perplexity")
    assert list(table) == ["resnet-bk", "llama", "gpt2"]  # best first
    ours = table["resnet-bk"]
    assert ours["Held-out perplexity"] == "99.2"
    assert ours["without carry"] == "101.0"
    assert ours["overlapping windows"] == "100.7"
    assert ours["Bits / char"] == "1.354"
    assert ours["Parameters without embeddings"] == "1,490,112 210,011"
    assert ours["Learning rate"] == "0.003"
    assert ours["s / step"] == "0.105"
    assert ours["Tokens / s"] == "19,505"
    assert ours["Training time"] == "52.5 s"
    assert ours["Peak memory"] == "742 MiB"
    assert ours["FLOPs / step"] == "18.3 GFLOP"
    assert ours["Audit"] == "causal"
    assert table["llama"]["without carry"] == "–"


def test_training_is_kept_apart_from_held_out() -> None:
    """One table of results, one of training by epoch, and no column of the first holds a training figure."""
    epochs = {"epoch_losses": [6.0, 5.0], "epoch_perplexities": [403.4, 148.4], "epoch_times": [30.0, 45.0]}
    results = sample_results("resnet-bk", "llama", seeds=(0, 1), **epochs)
    results["runs"][0]["epoch_losses"] = [6.2, 5.2]
    page = render(results)
    assert not any("raining" in header and header != "Training time" for header in page.table("Steps")["llama"])
    rows = next(rows for rows in page.tables if "Training perplexity" in rows[0])
    assert rows == [
        ["Model", "Epoch", "Training loss", "Training perplexity", "Time"],
        ["resnet-bk", "1", "6.100", "445.9", "30.0 s"],
        ["resnet-bk", "2", "5.100", "164.0", "45.0 s"],
        ["llama", "1", "6.000", "403.4", "30.0 s"],
        ["llama", "2", "5.000", "148.4", "45.0 s"],
    ]
    assert "means over seeds" in page.text


def test_ngram_baselines_stand_beside(page: Page) -> None:
    assert "n-gram baselines" not in page.text
    entry = {"name": "5-gram", "order": 5, "perplexity": 85.8, "bits_per_character": 1.23, "different_ngrams": 753_640}
    found = {"split": "validation", "method": "Kneser-Ney", "ngrams": [entry]}
    with_them = render(sample_results() | {"ngrams": found})
    row = with_them.table("Different n-grams")["5-gram"]
    assert list(row.values()) == ["5-gram", "85.8", "1.230", "753,640"]
    assert "Kneser-Ney, on the training text, with the same vocabulary" in with_them.text
    assert "perplexity over the same tokens of the validation split." in with_them.text
    assert row["Held-out perplexity"] == "85.8"


def test_ngrams_of_another_split_are_said_to_be_of_other_text() -> None:
    unread = "Held-out figures are of the validation split; the test split was not read."
    assert unread in render(sample_results("llama")).text
    entry = {"name": "5-gram", "order": 5, "perplexity": 85.8, "bits_per_character": 1.23, "different_ngrams": 753_640}
    found = {"split": "test", "method": "Kneser-Ney", "ngrams": [entry]}
    page = render(sample_results("llama") | {"ngrams": found})
    assert "Held-out figures are of the validation split." in page.text
    assert "of the split test, other text than the held-out figures of the models are of." in page.text
    assert page.table("Different n-grams")["5-gram"]["Perplexity, test"] == "85.8"


def test_what_kind_of_memory_it_is() -> None:
    page = render(sample_results("llama", peak_memory_kind="resident memory of the process, peak of the run"))
    assert "(here: resident memory of the process, peak of the run)" in page.text


def test_frequency_table(page: Page) -> None:
    table = page.table("Occurrences")
    assert table["101-1,000"]["resnet-bk"] == "413.3"
    assert table["<unk>"]["Share"] == "4.2%"
    assert table.pop("all but <unk>")["Share"] == "95.8%"
    assert sum(float(row["Share"].rstrip("%")) for row in table.values()) == pytest.approx(100, abs=0.3)


def test_protocol_data_and_machine(page: Page) -> None:
    assert "Vocabulary, tokens at most 10,000" in page.text
    assert "Grid of learning rates 0.001, 0.003, 0.01" in page.text
    row = page.table("Found by")["llama"]
    assert (row["Rates tried"], row["State carried"], row["Settings of its own"]) == (
        "0.001, 0.003, 0.01",
        "no",
        "conv_size 4",
    )
    assert "English Wikipedia extracts, CC BY-SA 4.0" in page.text
    assert "torch 2.13.0" in page.text
    assert "0123456789abcdef0123456789abcdef01234567" in page.text
    assert page.table("Backend")["resnet-bk"]["Backend"] == "propagate: numba; linear_cross_entropy: chunked"
    assert "in the folder from which it was called: resnet-bk bench OUT/protocol.yaml --out repeated" in page.text
    assert "97,100 tokens, each predicted once" in page.text  # the buckets' sum
    assert "4.23% of the held-out tokens are outside the vocabulary" in page.text


def test_the_page_asks_for_nothing(page: Page, folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    links = page.attributes("href") + page.attributes("src") + page.attributes("xlink:href")
    outside = [link for link in links if not link.startswith(("#", "data:"))]
    assert set(outside) == {"results.json", "protocol.yaml", *(f"plots/{name}.png" for name in PLOT_NAMES)}
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "img", "form"} == set()
    assert re.findall(r"@import|url\((?!#)", html) == []
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_accessible(page: Page) -> None:
    tags = page.tags
    assert ("html", {"lang": "en"}) in tags
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    images = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(images) == len(PLOT_NAMES)
    assert all(len(attributes["aria-label"] or "") > 60 for attributes in images)
    boxes = [attributes for _, attributes in tags if attributes.get("class") == "scroll"]
    assert len(boxes) == len(page.tables)
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in boxes)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert set(page.attributes("aria-labelledby") + page.attributes("aria-describedby")) <= set(ids)


def test_seeds_and_paired_tests() -> None:
    page = render(sample_results(seeds=(0, 1, 2)))
    assert "no spread" not in page.text
    assert re.fullmatch(r"\d+\.\d ± \d\.\d", page.table("Held-out perplexity")["llama"]["Held-out perplexity"])
    assert list(page.table("seed 2")["llama"]) == ["Model", "seed 0", "seed 1", "seed 2"]
    tests = page.table("p value")
    assert tests["llama"]["Seeds"] == "3"
    assert tests["llama"]["p value"].startswith("p ")
    assert "not adjusted for 2 comparisons" in page.text
    assert "Over documents" not in page.text
    assert tests["llama"]["In windows geometric mean"].startswith("0.")
    assert tests["llama"]["p value, in windows"].startswith("p ")
    assert "In windows: where both see the same text before each token" in page.text
    buckets = page.table("Occurrences")
    assert buckets["all but <unk>"]["Held-out tokens"] == "93,000"
    known = sum(count * math.log(value) for _, count, value in BUCKETS[:-1]) / 93_000  # of a run with 100 in all
    assert math.log(float(buckets["all but <unk>"]["llama"])) == pytest.approx(known, abs=0.1)
    results = sample_results("llama")
    results["runs"][0]["overlapping_buckets"] = [
        {"name": "<unk>", "tokens": 4_100, "perplexity": 9.0},
        {"name": "1-10", "tokens": 93_000, "perplexity": 50.0},
    ]
    row = render(results).table("Occurrences")["all but <unk>, in overlapping windows"]
    assert (row["llama"], row["Share"]) == ("50.0", "95.8%")


def test_ratios_are_of_the_seeds_that_both_have() -> None:
    """Ours is behind with the seed that both have, and has an easy one beside it."""
    results = sample_results("resnet-bk", "llama")
    results["runs"] = [
        sample_run(name, seed=seed, held_out_perplexity=value)
        for name, seed, value in (
            ("resnet-bk", 1, 80.0),
            ("resnet-bk", 2, 60.0),
            ("llama", 1, 79.0),
            ("llama", 3, 100.0),
        )
    ]
    page = render(results)
    assert "loses to llama" in page.text
    assert "0.988×" in page.text
    assert "the lowest is bold" not in page.text


def test_how_words_are_split_is_no_setting_of_a_tokenizer_that_exists() -> None:
    results = sample_results()
    assert "Split into" in render(results).text
    results["protocol"]["tokenizer"] = "a/folder"
    assert "Split into" not in render(results).text


def test_the_bootstrap_over_documents() -> None:
    results = sample_results()
    counts = [100, 200, 300] * 10
    results["data"]["document_tokens"] = counts
    for run, level in zip(results["runs"], (4.5, 5.0, 4.6), strict=True):
        run["document_nll"] = [level * count for count in counts]
    page = render(results)
    assert "draws the 30 held-out documents anew" in page.text
    found = page.table("Over documents 95% interval")
    assert found["gpt2"]["Over documents 95% interval"] == "0.607 0.607 to 0.607"
    assert found["llama"]["Over documents 95% interval"] == "0.905 0.905 to 0.905"


def test_one_seed_has_no_table_of_seeds(page: Page) -> None:
    assert "Seed by seed" not in page.text
    assert "One seed (0), no spread." in page.text


@pytest.mark.parametrize(
    ("seeds", "says", "epochs"),
    [
        ({"a": (42,), "b": (42,)}, "One seed (42), no spread.", "one seed"),
        ({"a": (42,), "b": (43,)}, "One seed a model (a: 42; b: 43), no spread.", "one seed"),
        (
            {"a": (42, 43), "b": (42, 43)},
            "Mean ± sample standard deviation over the seeds 42, 43; costs are means.",
            "means over seeds",
        ),
        (
            {"a": (42, 43), "b": (42, 44), "c": (42, 43)},
            "Mean ± sample standard deviation over the seeds of each model (a, c: 42, 43; b: 42, 44); costs are means.",
            "means over seeds",
        ),
        (
            {"a": (42, 43), "b": (42,)},
            "Mean ± sample standard deviation over the seeds of each model (a: 42, 43; b: 42); one seed has no spread; "
            "costs are means.",
            "means over seeds",
        ),
    ],
)
def test_the_caption_says_which_seeds_a_model_has(seeds: dict[str, tuple[int, ...]], says: str, epochs: str) -> None:
    runs = [sample_run(name, seed=seed) for name, of in seeds.items() for seed in of]
    text = render(sample_results("llama") | {"runs": runs}).text
    assert f" {says} Lower perplexity is better" in text
    assert f"the perplexity of it, and time, {epochs}." in text


def test_a_loss_is_said_first() -> None:
    results = sample_results()
    results["runs"][0] = sample_run("resnet-bk", perplexity=105.0)
    page = render(results)
    assert page.text.split("ResNet-BK benchmark: quick")[-1].strip().startswith("resnet-bk loses to llama")
    assert next(iter(page.table("Held-out perplexity"))) == "llama"


def test_a_leak_takes_the_place_of_the_perplexity() -> None:
    results = sample_results()
    results["runs"].append(sample_run("resnet-bk-seed", audit="leaks"))
    page = render(results)
    row = page.table("Held-out perplexity")["resnet-bk-seed"]
    assert (row["Held-out perplexity"], row["Bits / char"], row["Audit"]) == ("leaks", "–", "leaks")
    verdict = page.table("Verdict")["resnet-bk-seed"]
    assert verdict == {
        "Model": "resnet-bk-seed",
        "Verdict": "leaks",
        "What was found": "changing token 64 moves the logits at 63 by 0.41",
    }
    assert "resnet-bk-seed" not in page.table("Occurrences")["<unk>"]


def test_only_leaks(tmp_path: Path) -> None:
    page = write(sample_results("resnet-bk-seed", audit="leaks"), tmp_path)
    assert "No perplexity to report" in page.text
    assert list((tmp_path / "plots").iterdir()) == []


def test_divergence() -> None:
    page = render(sample_results("resnet-bk", "llama", seeds=(0, 1), held_out_perplexity=float("inf")))
    assert page.table("Held-out perplexity")["llama"]["Held-out perplexity"] == "diverged"
    assert page.table("seed 1")["llama"]["seed 1"] == "–"


def test_six_models_with_long_names() -> None:
    page = render(sample_results(*PERPLEXITIES, seeds=(0, 1)))
    assert set(page.table("Held-out perplexity")) == set(PERPLEXITIES)


def test_only_what_is_required(tmp_path: Path) -> None:
    required = {
        "model_name": "llama",
        "seed": 3,
        "audit": "causal",
        "held_out_perplexity": 50.0,
        "learning_rate": 1e-3,
        "parameters": 10,
        "parameters_without_embeddings": 5,
        "steps": 7,
        "total_tokens": 70,
    }
    page = write({"protocol": {}, "environment": {}, "data": {}, "runs": [required]}, tmp_path)
    assert page.table("Held-out perplexity")["llama"]["Peak memory"] == "–"
    assert "llama reaches a held-out perplexity of 50.0" in page.text


def test_the_test_split_is_shown_once_it_was_read(page: Page) -> None:
    assert "the test split was not read" in page.text
    after = render(sample_results("llama", test_perplexity=101.5))
    assert "the test split was not read" not in after.text
    assert after.table("Test perplexity")["llama"]["Test perplexity"] == "101.5"
    runs = [sample_run("llama", seed=seed, test_perplexity=value) for seed, value in ((1, 100.0), (2, 102.0))]
    two = render(sample_results() | {"runs": runs})
    assert two.table("Test perplexity")["llama"]["Test perplexity"] == "101.0 ± 1.4"
    lost = sample_run("llama", seed=3, held_out_perplexity=None, held_out_loss=None)
    diverged = render(sample_results() | {"runs": [sample_run("gpt2"), *runs, lost]})
    assert "the test split was not read" not in diverged.text


def test_the_test_split_is_shown_without_the_carried_state_too() -> None:
    results = sample_results("resnet-bk", "llama", test_perplexity=101.5)
    results["runs"][0]["test_perplexity_without_carry"] = 104.25
    table = render(results).table("Test perplexity, state not carried")
    assert table["resnet-bk"]["Test perplexity, state not carried"] == "104.2"
    assert table["llama"]["Test perplexity, state not carried"] == "–"


def test_the_sizes_of_all_documents_are_no_fact_for_a_reader() -> None:
    text = render(sample_results("llama")).text
    assert "Vocabulary" in text
    assert "Document tokens" not in text


def test_sources_of_fixed_rates() -> None:
    results = sample_results("llama", learning_rates_tried=[])
    command = "resnet-bk bench quick --set learning_rates=[3e-3,1e-2,3e-2]"
    results["protocol"]["models"]["llama"]["learning_rate_source"] = command
    assert render(results).table("Found by")["llama"]["Found by"] == command


HOSTILE = "</style></title><script>alert(1)</script>\"'&amp;{{ 7 * 7 }}"


def test_hostile_text_is_text(tmp_path: Path) -> None:
    results = sample_results("resnet-bk", HOSTILE, audit_detail=HOSTILE, device=HOSTILE, head=HOSTILE)
    results["protocol"] |= {"name": HOSTILE, "description": HOSTILE, "dataset": HOSTILE}
    results["data"] |= {"name": HOSTILE, "description": HOSTILE}
    results["environment"][HOSTILE] = {HOSTILE: HOSTILE}
    for run in results["runs"]:
        run["backend"] = {HOSTILE: [HOSTILE]}
        run["buckets"][0]["name"] = HOSTILE
    page = write(results, tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) > 20
    assert " ".join(HOSTILE.split()) in {" ".join(name.split()) for name in page.table("Found by")}


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "report.html").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_report(sample_results("llama"), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.rglob(".*"))  # no temporary file is left behind


def test_plots_of_an_earlier_report_go(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "plots" / "mine.png").write_bytes(b"kept")
    write_report(sample_results(validation_log=[], buckets=[]), tmp_path)
    left = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert left == {"loss-seconds", "loss-steps", "depth-steps", "kept-steps", "mine"}


def test_same_results_same_page(tmp_path: Path, folder: Path) -> None:
    write_report(sample_results(), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()
