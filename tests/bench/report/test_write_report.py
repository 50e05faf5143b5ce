"""What keeps the report from being written, and whose fault that is."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from resnet_bk.bench.report.page import write_report
from tests.bench.report_samples import sample_results

UNPLOTTED: dict[str, Any] = {"log": [], "validation_log": [], "buckets": []}  # plots take most of the time


def test_bad_results_write_nothing(tmp_path: Path) -> None:
    results = sample_results()
    del results["runs"][0]["steps"]
    with pytest.raises(ValueError, match=r"runs\[0\]\.steps is missing"):
        write_report(results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=r"out='.*file': .*; give a folder that you can write to"):
        write_report(sample_results(**UNPLOTTED), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("code", "of_the_call"),
    [
        (errno.EACCES, True),
        (errno.EPERM, True),
        (errno.EROFS, True),
        (errno.EISDIR, True),
        (errno.ENOSPC, False),
        (errno.EIO, False),
        (errno.EDQUOT, False),
    ],
    ids=lambda value: errno.errorcode[value] if type(value) is int else None,
)
def test_only_what_another_folder_mends_is_a_bad_call(
    code: int, of_the_call: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("resnet_bk.bench.report.page.replace_file", fail)
    says = rf"^out=.*: {os.strerror(code)}; give a folder that you can write to$"
    with pytest.raises(ValueError if of_the_call else OSError, match=says if of_the_call else os.strerror(code)):
        write_report(sample_results("llama", **UNPLOTTED), tmp_path)
