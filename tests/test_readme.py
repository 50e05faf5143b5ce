"""Every command and every Python example of the README runs, in order, on settings small enough for a test."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_bk import cli
from tests.bench.tiny_bench import write_text

pytestmark = pytest.mark.sweep
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A comparison that takes minutes is cut to a few steps of narrow models; otherwise the command is run as printed.
SMALL = (
    "steps=3 vocab_size=200 hidden_size=16 num_heads=2 num_layers=1 sequence_length=16 batch_size=256 data_limit=13000 "
    "held_out_views=[] evaluations=1"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"RESNET_BK_CACHE": str(folder / "cache")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def made(target: list[str]) -> list[list[str]]:
    """The commands behind a make target, without running them; ARGS of the environment are for another one."""
    printed = run(["make", "--dry-run", "--no-print-directory", "ARGS=", *target], ROOT)
    return [shlex.split(line) for line in printed.splitlines()]


def small_training(words: list[str]) -> list[str]:
    own = {word.partition("=")[0] for word in words}  # the command's own settings stay
    settings = [word for pair in SMALL.split() if pair.partition("=")[0] not in own for word in ("--set", pair)]
    place = 3  # behind program, command and protocol
    several = any(word.startswith("seeds=") for word in words)  # but one of one model is enough here
    rest = ["seeds=[0]" if word.startswith("seeds=") else word for word in words[place:]]
    return [*words[:place], *settings, *rest, *(["--models", "resnet-bk"] if several else [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def here(words: list[str]) -> None:
    """A command of the program, in this process."""
    done = CliRunner().invoke(cli.app, words[1:])
    assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"


def test_commands(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write_text(folder / "my-text.txt")
    monkeypatch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
    monkeypatch.setattr("resnet_bk.bench.audit.command.FULL_LENGTHS", (2, 17))
    program = str(Path(sys.executable).with_name("resnet-bk"))
    seen, started = set(), False
    for words in commands():
        name = Path(words[0]).name
        if name == "make":
            recipe = made(words[1:])
            assert recipe, f"{shlex.join(words)} does nothing"
            seen.update(words[1:])
            # `make test` runs this test, `make install` has run before it, `make lint` is a step of its own in CI.
            if words[1] != "bench":
                continue
            words = next(line for line in recipe if line[0].endswith("resnet-bk"))
            name = "resnet-bk"
        assert name == "resnet-bk", f"the README shows {shlex.join(words)}, which this test does not know how to run"
        trains = words[1] in ("bench", "train")
        words = small_training([program, *words[1:]]) if trains else [program, *words[1:]]
        if started:  # one as a user has it; a process takes seconds to import what this one has
            here(words)
        else:
            run(words, folder)
            started = True
    assert started
    assert {"bench", "test"} <= seen


def test_python_examples(folder, monkeypatch):
    monkeypatch.chdir(folder)
    examples = blocks("python")
    assert examples
    exec("\n".join(examples), {"__name__": "readme"})
    monkeypatch.setenv("RESNET_BK_CACHE", str(folder / "cache"))
    said = re.findall(r"^#.*(resnet-bk .+)$", "\n".join(examples), flags=re.MULTILINE)  # on what they have saved
    assert [shlex.split(line)[1] for line in said] == ["eval", "generate"]
    for line in said:
        here(shlex.split(line))


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
