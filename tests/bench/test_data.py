"""Where the data of a protocol is kept."""

from pathlib import Path

import pytest

from resnet_bk.bench.data import default_cache_dir


def test_a_cache_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNET_BK_CACHE", raising=False)
    assert default_cache_dir() == Path.home() / ".cache" / "resnet-bk"
    monkeypatch.setenv("RESNET_BK_CACHE", "~/elsewhere")  # as from a file that no shell read
    assert default_cache_dir() == Path.home() / "elsewhere"
    monkeypatch.setenv("RESNET_BK_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(ValueError, match=r"RESNET_BK_CACHE=~nobody-of-this-name/x: .*; name a folder"):
        default_cache_dir()
