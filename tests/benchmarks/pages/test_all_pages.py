"""All pages are written by one command, and agree with results/."""

from pathlib import Path

import pytest

from benchmarks.pages import __main__ as pages

every_writer = pytest.mark.parametrize("writer", pages.WRITERS, ids=lambda writer: writer.__name__)


@every_writer
def test_the_pages_of_the_repository(writer):
    assert writer.main(["--check"]) == 0


def test_every_writer_of_a_page_is_called():
    folder = Path(pages.__file__).parent
    writers = {file.stem for file in folder.glob("*.py") if "\nmain = page_writer(" in file.read_text(encoding="utf-8")}
    assert {writer.__name__ for writer in pages.WRITERS} == {f"benchmarks.pages.{name}" for name in writers}


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((0, 1), 1), ((1, 0), 1)])
def test_one_page_that_differs_is_enough(codes, expected, monkeypatch):
    seen = []

    class Writer:
        def __init__(self, code):
            self.code = code

        def main(self, arguments):
            seen.append(arguments)
            return self.code

    monkeypatch.setattr(pages, "WRITERS", [Writer(code) for code in codes])
    assert pages.main(["--check"]) == expected
    assert seen == [["--check"]] * 2  # those after it are looked at too


@every_writer
@pytest.mark.parametrize("content", ["{}", '{"runs": 3}', '{"runs": [3]}'])
def test_a_file_of_something_else_is_a_bad_call(content, writer, tmp_path):
    file = tmp_path / "other.json"
    file.write_text(content)
    told = r"other\.json.*(lacks what the page is made of|runs must be a list of objects)"
    with pytest.raises(ValueError, match=told):
        writer.main([str(file), "--check"])
