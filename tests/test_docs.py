"""What docs/ says of the command line exists: commands, options, protocols, models and settings, and these give models
of the sizes that their protocols ask for. (test_readme.py runs the commands of the README.)"""

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from resnet_bk import cli
from resnet_bk.bench.held_out import VIEWS
from resnet_bk.bench.protocol import load_protocol
from resnet_bk.bench.protocols import recall_protocols, shipped_protocols
from resnet_bk.bench.recall import load_recall
from resnet_bk.bench.resolve import SPECIAL_IDS, resolve_configs

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
INDEX = ROOT / "results" / "README.md"
ALL_PAGES = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", INDEX]
COMMANDS = typer.main.get_command(cli.app).commands


def commands(page: Path) -> list[str]:
    """The indented lines of a page that call resnet-bk, continued lines in one; those with [brackets] are synopses."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ {4,}((?:\w+=\S+ )?resnet-bk .*)$", text, flags=re.MULTILINE)
    return [line for line in found if " [" not in line]


FOUND = [(page.name, line) for page in PAGES for line in commands(page)]


def test_there_are_commands():
    assert {name for name, _ in FOUND} >= {"benchmark.md", "reproduction.md", "results.md", "switches.md"}


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[line[:60] for _, line in FOUND])
def test_a_command_of_the_docs(page, line):
    words = shlex.split(line, comments=True)
    name, *arguments = words[words.index("resnet-bk") + 1 :]
    options = COMMANDS[name].make_context(name, arguments).params
    if name != "bench":
        return
    of_recall = options["protocol"] in recall_protocols()
    protocol = (load_recall if of_recall else load_protocol)(options["protocol"], options.get("settings") or ())
    chosen = set((options.get("models") or "").split(",")) - {""}
    assert chosen <= set(protocol.models)
    if not of_recall:  # the models have the sizes that the protocol asks for
        assert resolve_configs(protocol, protocol.vocab_size, SPECIAL_IDS, chosen or None)


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_row_of_a_table_is_one_line(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    broken = [line for row, line in itertools.pairwise(lines) if row.startswith("|") and line[:1] not in ("", "|")]
    assert broken == []


EXAMPLES = [
    (page.name, example)
    for page in PAGES
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "example"), EXAMPLES, ids=[page for page, _ in EXAMPLES])
def test_a_python_example(page, example):
    exec(compile(example, page, "exec"), {})


def test_patches_of_the_present_code_apply():
    """A page that names no commit beside one says "After `git apply FILE`"."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    patches = re.findall(r"After `git apply (\S+)`", pages)
    assert patches
    for patch in patches:
        done = subprocess.run(["git", "apply", "--check", patch], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_key_of_a_run_has_a_row():
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    table = page.split("### The keys of results.json")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines() if row[:1] == "|")))
    # tests/bench/test_runner.py holds a run to the keys of this one, and to those that came later.
    results = json.loads((ROOT / "results" / "quick" / "results.json").read_text(encoding="utf-8"))
    assert named == {*results["runs"][0], *VIEWS["overlapping"]}


def test_every_protocol_has_a_row():
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert {name for name in shipped_protocols() if f"`{name}`" not in rows} == set()


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_exist(page):
    found = re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = []
    for file, anchor in found:
        text = (page.parent / file if file else page).read_text(encoding="utf-8")
        if anchor not in map(slug, re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)):
            missing.append(f"{file}#{anchor}")
    assert missing == []


def test_the_index_of_results_is_whole():
    rows = [line.split("|")[1] for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = re.findall(r"`([^`]+)`", " ".join(rows))
    assert sorted(named) == sorted(path.name for path in INDEX.parent.iterdir() if path != INDEX)


def test_every_result_has_a_page():
    """Those that the tables of a page are made of need not be named on it."""
    written = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks" / "pages").glob("*.py"))
    pages = " ".join(page.read_text(encoding="utf-8") for page in ALL_PAGES if page != INDEX)
    names = {path.name for path in INDEX.parent.iterdir() if path != INDEX}
    unnamed = {name for name in names if not re.search(rf"results/{re.escape(name)}(?![\w-])", pages)}
    assert {name for name in unnamed if name.removesuffix(".json") not in written} == set()
