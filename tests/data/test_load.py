import os
import re
from pathlib import Path

import pytest

from resnet_bk.data import load as load_module
from resnet_bk.data import load_corpus
from tests.data.conftest import write_splits


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Repositories and configs that the hub is asked for; it refuses each."""
    calls: list[tuple[str, str | None]] = []

    def refuse(name: str, repository: str, config: str | None) -> None:
        calls.append((repository, config))
        raise ValueError(f"data {name!r}: refused")

    monkeypatch.setattr(load_module, "load_hub", refuse)
    return calls


@pytest.mark.parametrize(
    "name",
    [
        "no/such/folder",
        "./missing",
        "/missing",
        "~/missing-folder",
        "missing",
        "texts/missing.txt",
        "a/b.parquet",
        "a/",
    ],
)
def test_a_path_that_does_not_exist_is_an_error_and_the_hub_is_not_asked(
    name: str, asked: list[tuple[str, str | None]]
) -> None:
    absolute = name.startswith(("/", "~"))
    place = "" if absolute else f" in {re.escape(os.getcwd())}, from where it is looked for"
    with pytest.raises(
        ValueError,
        match=rf"no such file or folder{place}; data is 'embedded', .* owner/name or owner/name:config",
    ):
        load_corpus(name)
    assert asked == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("wikitext-2", ("Salesforce/wikitext", "wikitext-2-raw-v1")),
        ("wikitext-103", ("Salesforce/wikitext", "wikitext-103-raw-v1")),
        ("wikitext-2-raw-v1", ("Salesforce/wikitext", "wikitext-2-raw-v1")),
        ("wikitext-103-v1", ("Salesforce/wikitext", "wikitext-103-v1")),
        ("Salesforce/wikitext:wikitext-2-v1", ("Salesforce/wikitext", "wikitext-2-v1")),
        ("wikitext:wikitext-103-raw-v1", ("Salesforce/wikitext", "wikitext-103-raw-v1")),
        ("wikitext/wikitext-103-v1", ("Salesforce/wikitext", "wikitext-103-v1")),
        ("Salesforce/wikitext/wikitext-103-raw-v1", ("Salesforce/wikitext", "wikitext-103-raw-v1")),
        ("Salesforce/wikitext:wikitext-103", ("Salesforce/wikitext", "wikitext-103-raw-v1")),
        ("roneneldan/TinyStories", ("roneneldan/TinyStories", None)),
        ("allenai/c4:en", ("allenai/c4", "en")),
    ],
)
def test_hub_names(name: str, target: tuple[str, str | None], asked: list[tuple[str, str | None]]) -> None:
    with pytest.raises(ValueError, match="refused"):
        load_corpus(name)
    assert asked == [target]


@pytest.mark.parametrize(
    "name",
    ["wikitext", "Salesforce/wikitext", "wikitext:wikitext-3", "Salesforce/wikitext:raw", "wikitext/wikitext-2-raw"],
)
def test_wikitext_without_a_config_that_it_has(name: str, asked: list[tuple[str, str | None]]) -> None:
    with pytest.raises(
        ValueError,
        match=rf"data '{name}': .* takes one of wikitext-2, wikitext-103, .*wikitext-103-v1; write for example",
    ):
        load_corpus(name)
    assert asked == []


def test_a_path_object_never_means_the_hub(asked: list[tuple[str, str | None]]) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        load_corpus(Path("owner/name"))
    assert asked == []


def test_an_existing_folder_wins_over_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, str | None]]
) -> None:
    write_splits(tmp_path / "owner/name")
    monkeypatch.chdir(tmp_path)
    assert load_corpus("owner/name").name == "name"
    assert asked == []


def test_a_folder_of_an_aliass_name_is_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, str | None]]
) -> None:
    write_splits(tmp_path / "wikitext-2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"refused; for the local folder of this name write \./wikitext-2"):
        load_corpus("wikitext-2")
    assert load_corpus("./wikitext-2").name == "wikitext-2"


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="is empty; data is 'embedded'"):
        load_corpus(name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\x00b", "~nobody-of-this-name/x"])
def test_names_that_no_file_can_have_are_errors_too(name: str) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        load_corpus(name)


def test_a_source_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its name is neither a path nor a data set of the hub."""
    write_splits(tmp_path / "texts")
    monkeypatch.setitem(load_module.SOURCES, "mine", lambda: load_corpus(tmp_path / "texts"))
    assert load_corpus("mine").name == "texts"
    assert not load_module.is_missing_here("mine")
    assert load_module.is_missing_here("another")


@pytest.mark.parametrize("name", [None, b"text.txt", 3])
def test_what_is_no_name_is_an_error(name) -> None:
    with pytest.raises(ValueError, match=rf"^data {re.escape(repr(name))} must be a name or a path; "):
        load_corpus(name)
