"""A tiny benchmark in a folder."""

import io

import pytest
from rich.console import Console

from resnet_bk.bench.protocol import check_protocol
from resnet_bk.bench.runner import bench
from tests.bench.tiny_bench import settings, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def run(text, tmp_path, tmp_path_factory):
    """Runs a protocol without the report, and returns results and printed lines."""

    def call(out="out", only=None, test=False, **changes):
        paper = Console(file=io.StringIO(), width=200)
        protocol = check_protocol(settings(text, **changes), "tiny")
        cache = tmp_path_factory.getbasetemp() / "cache"
        results = bench(protocol, tmp_path / out, models=only, test=test, report=False, cache_dir=cache, console=paper)
        return results, paper.file.getvalue().splitlines()

    return call
