"""The check of the data path's memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import data as check
from benchmarks.command import guarded


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests keeps its settings."""
    monkeypatch.setattr(check, "tune_process", lambda: None)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{i % 50} ," for i in range(1000)))
    return path


def test_a_repeated_corpus(text: Path) -> None:
    once, thrice = check.repeated(str(text), 1), check.repeated(str(text), 3)
    assert list(thrice.documents("train")) == 3 * list(once.documents("train"))
    assert once.fingerprint != thrice.fingerprint
    # 90% of 1,000 words and as many commas, and an end.
    assert check.count_tokens(str(text)) == pytest.approx(1801, abs=5)


def test_stages_one_after_another(text: Path, tmp_path: Path) -> None:
    """In this process, so its memory says nothing; the counts do."""
    found = [check.measure(stage, str(text), 4, 5000, 60, str(tmp_path / "cache")) for stage in check.STAGES]
    assert [entry["count"] for entry in found] == [54, 5000, 4096]
    assert all(entry["peak_memory_mb"] > 0 for entry in found)


def test_a_stage_is_measured_with_the_settings_of_the_command_line() -> None:
    """They are made before PyTorch is loaded, which takes seconds: this process ends there."""
    program = """
import sys
from benchmarks import data
from resnet_bk import process

assert data.tune_process is process.tune_process
data.tune_process = lambda: sys.exit("too late" if "torch" in sys.modules else 7)
data.measure("epoch of batches", "embedded", 1, 5000, 60, "nowhere")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize(("limit", "code"), [(4000.0, 0), (1.0, 1)])
def test_the_limit_decides(
    text: Path, tmp_path: Path, limit: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Here:
        """Runs what it is given at once, for a fresh process takes seconds to import."""

        def __init__(self, *arguments: object, **options: object) -> None: ...
        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *error: object) -> None: ...
        def submit(self, task):
            self.done = task()
            return self

        def result(self):
            return self.done

    monkeypatch.setattr(check, "ProcessPoolExecutor", Here)
    out = tmp_path / "out" / "data.json"
    options = ["--data", str(text), "--tokens", "5000", "--vocab-size", "60", "--limit-mb", str(limit)]
    assert check.main([*options, "--out", str(out)]) == code
    found = json.loads(out.read_text())
    assert (found["passed"], found["passes"], found["tokens"]) == (code == 0, 3, 5000)
    assert [stage["stage"] for stage in found["stages"]] == list(check.STAGES)
    assert ("TOO MUCH" in capsys.readouterr().out) == (code == 1)


@pytest.mark.parametrize(("options", "usual"), [([], True), (["--limit-mb", "4000"], False), (["--quick"], False)])
def test_only_the_usual_run_goes_into_results(
    options: list[str], usual: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(check, "run", lambda *arguments: {"passed": True, "passes": 3, "stages": []})
    monkeypatch.setattr(check, "out_file", lambda out, name, whole: asked.append(whole) or tmp_path / "data.json")
    check.main(options)
    assert asked == [usual]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "2048"], "--tokens 2048: must be more than 16 x 128"),
        (["--limit-mb", "0"], "--limit-mb 0: must be above 0"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--tokens", "many"], "invalid int value"),
    ],
)
def test_bad_calls(options: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        guarded(lambda _: check.main([*options, "--out", str(tmp_path / "x.json")]))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
