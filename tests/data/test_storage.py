import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnet_bk.data.storage import cached_folder


def read(folder: Path) -> str | None:
    try:
        return (folder / "value").read_text()
    except OSError:
        return None


def test_a_folder_is_built_once_even_when_many_ask_at_once(tmp_path: Path) -> None:
    built: list[int] = []
    results: list[str] = []
    missed = threading.Barrier(4)  # all have found nothing before the first goes on to build
    first = threading.local()

    def load(folder: Path) -> str | None:
        value = read(folder)
        if not hasattr(first, "done"):
            first.done = True
            missed.wait(timeout=60)
        return value

    def build(folder: Path) -> None:
        built.append(1)
        (folder / "value").write_text("v")

    threads = [
        threading.Thread(target=lambda: results.append(cached_folder(tmp_path / "cache/x", load, build)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["v"] * 4
    assert built == [1]


def test_a_failed_build_leaves_nothing_and_passes_its_error_on(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "value").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path / "x", read, build)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_killed_build_is_never_taken_for_a_result(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom resnet_bk.data.storage import cached_folder\n"
        "def build(folder):\n    (folder / 'value').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cached_folder(Path(sys.argv[1]), lambda folder: None, build)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    assert (tmp_path / ".x.building").exists()

    def build(folder: Path) -> None:
        (folder / "value").write_text("whole")

    assert cached_folder(tmp_path / "x", read, build) == "whole"
    assert not (tmp_path / ".x.building").exists()


def test_a_valid_folder_is_read_without_writing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/value").write_text("v")
    before = sorted(os.listdir(tmp_path))

    def build(folder: Path) -> None:
        raise AssertionError("must not be built")

    assert cached_folder(tmp_path / "x", read, build) == "v"
    assert sorted(os.listdir(tmp_path)) == before


def test_what_cannot_be_read_is_not_about_the_folder(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (tmp_path / "corpus.txt").read_text()

    with pytest.raises(FileNotFoundError, match=r"corpus\.txt"):
        cached_folder(tmp_path / "cache" / "x", read, build)


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); set RESNET_BK_CACHE"):
        cached_folder(tmp_path / "x", read, build)


def test_a_disk_that_loses_what_is_written_is_a_clear_error(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "value").write_text("v")

    def load(folder: Path) -> str | None:
        (folder / "value").unlink(missing_ok=True)
        return read(folder)

    with pytest.raises(ValueError, match=r"cache_dir '.*' does not give .*: x is damaged .*; set RESNET_BK_CACHE"):
        cached_folder(tmp_path / "x", load, build)


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cached_folder(Path("~/cache/item"), lambda path: path if path.exists() else None, lambda path: None)
    assert (tmp_path / "home" / "cache" / "item").is_dir()
    assert not (tmp_path / "~").exists()
