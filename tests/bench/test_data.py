"""The data of a protocol: where it is kept, and what it must have."""

from pathlib import Path

import pytest

from resnet_bk.bench.data import default_cache_dir, open_corpus
from resnet_bk.bench.protocol import load_protocol


def test_a_cache_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNET_BK_CACHE", raising=False)
    assert default_cache_dir() == Path.home() / ".cache" / "resnet-bk"
    monkeypatch.setenv("RESNET_BK_CACHE", "~/elsewhere")  # as from a file that no shell read
    assert default_cache_dir() == Path.home() / "elsewhere"
    monkeypatch.setenv("RESNET_BK_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(ValueError, match=r"RESNET_BK_CACHE=~nobody-of-this-name/x: .*; name a folder"):
        default_cache_dir()


def test_data_without_a_split_that_a_protocol_reads(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("some words\n")
    protocol = load_protocol("quick", data=str(tmp_path))
    says = (
        r"has no split 'validation', only train, test; name a file or folder so, or give the .* \(give other .*--data\)"
    )
    with pytest.raises(ValueError, match=says):
        open_corpus(protocol)
    assert set(open_corpus(protocol, ["test"]).splits) == {"train", "test"}
