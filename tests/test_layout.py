"""Imports go down only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "resnet_bk"
# A part may import from itself and from those below.
BELOW = {
    "ops": set(),
    "data": set(),
    "layers": {"ops"},
    "models": {"ops", "layers"},
    "training": {"ops", "layers", "models", "data"},
    "bench": {"ops", "layers", "models", "data", "training"},
}


def imported(file: Path) -> set[str]:
    """Parts of the package that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, file
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("resnet_bk.")}
    return found & {*BELOW, "cli", "cli_options"}


@pytest.mark.parametrize("part", BELOW)
def test_imports_go_down(part):
    files = list((PACKAGE / part).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(PACKAGE)): imported(file) - BELOW[part] - {part} for file in files}
    assert {file: parts for file, parts in wrong.items() if parts} == {}
