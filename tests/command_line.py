"""Calls of the command line in this process, and a folder with what they need."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from resnet_bk import cli
from tests.bench.tiny_bench import settings, write_text

PROGRAM = [sys.executable, "-c", "from resnet_bk.cli import main; main()"]


def tiny_home(folder: Path, **changes: Any) -> Iterator[Path]:
    """A folder with text and protocol, and its own cache, for as long as a fixture lives."""
    text = write_text(folder / "text.txt")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings(text, **changes), sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
        yield folder


def trained_home(folder: Path) -> Iterator[Path]:
    """The same with two trained models in `out`, and in `other` one whose tokenizer is another."""
    for home in tiny_home(folder, steps=3):
        assert call("bench", home / "tiny.yaml", "--out", home / "out").exit_code == 0
        assert call("train", home / "tiny.yaml", "--set", "vocab_size=32", "--out", home / "other").exit_code == 0
        yield home


def call(*arguments: object, name: str | None = None) -> Result:
    """What a call prints, and its exit code."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name=name)


def assert_bad_call(done: Result, *parts: str) -> None:
    """It ended with exit code 2 and one line, which holds every part."""
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert "Traceback" not in done.output
