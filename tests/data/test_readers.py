import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resnet_bk.data import readers
from resnet_bk.data.corpus import Piece
from tests.data.conftest import make_documents, write_parquet

WIKITEXT = """ 
 = Valkyria = 
 
 A game with <unk> in it . 
 Its score is x = y and
 = not a heading = 
 since text follows . 
 
 = = Gameplay = = 
 
 More of it . 
 
 = Gambia women 's team = 
 
 The team . 
"""


def joined(pieces: list[Piece]) -> list[str]:
    return "".join(text + ("\x00" if last else "") for text, last in pieces).split("\x00")[:-1]


def test_wikitext_is_cut_into_articles_at_their_headings(tmp_path: Path) -> None:
    path = tmp_path / "wiki.train.tokens"
    path.write_text(WIKITEXT)
    articles = joined(list(readers.wikitext_pieces([path])))
    assert [article.split("\n")[0] for article in articles] == [" = Valkyria = ", " = Gambia women 's team = "]
    assert " = = Gameplay = = " in articles[0]
    assert " = not a heading = " in articles[0]
    assert "".join(articles) == WIKITEXT.removeprefix(" \n")


def test_wikitext_rows_are_lines_and_give_the_same_articles(tmp_path: Path) -> None:
    # As on the hub: a blank line is an empty row, another keeps its line feed.
    rows = ["" if not line.strip() else line + "\n" for line in WIKITEXT.split("\n")[:-1]]
    articles = joined(list(readers.row_pieces(rows)))
    path = tmp_path / "wiki.train.raw"
    path.write_text(WIKITEXT)
    from_file = joined(list(readers.wikitext_pieces([path])))
    assert [article.split() for article in articles] == [article.split() for article in from_file]
    assert len(articles) == 2


def test_text_before_the_first_heading_and_text_without_headings_are_documents() -> None:
    lines = ["Preface .\n", "\n", " = One = \n", "\n", "Text .\n"]
    assert joined(list(readers.article_pieces(lines))) == ["Preface .\n\n", " = One = \n\nText .\n"]
    assert joined(list(readers.article_pieces(["a\n", "b"]))) == ["a\nb"]
    assert list(readers.article_pieces([])) == []


def test_rows_that_are_documents_stay_documents() -> None:
    rows = ["", "= A title inside =\nand its text", "second", " "]
    assert joined(list(readers.row_pieces(rows))) == ["= A title inside =\nand its text", "second"]
    # Whole articles, of which the first ends in a heading as it begins with one; a document that looks like a heading.
    articles = [" = One = \n\n Text . \n\n = = Notes = = \n", " = Two = \n\n Text . \n"]
    assert joined(list(readers.row_pieces(articles))) == articles
    assert joined(list(readers.row_pieces(["= x =", "second"]))) == ["= x =", "second"]
    assert joined(list(readers.row_pieces(["= x ="]))) == ["= x ="]


@pytest.mark.parametrize("place", [0, 5, readers.CHUNK_BYTES - 1, readers.CHUNK_BYTES, readers.CHUNK_BYTES + 3])
def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path: Path, place: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * place + b"\xe9t\xe9" + b"b" * 10)
    with pytest.raises(ValueError, match=rf"latin\.txt is not UTF-8 at byte {place} .*iconv"):
        "".join(readers.read_text(path))


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be"])
def test_text_of_two_bytes_a_character_is_known(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "wide.txt"
    path.write_bytes("\ufeffwords".encode(coding))
    with pytest.raises(ValueError, match=r"not UTF-8 at byte 0 .*`iconv -f UTF-16 -t UTF-8`"):
        "".join(readers.read_text(path))


def test_text_of_two_bytes_a_character_without_a_mark_is_known(tmp_path: Path) -> None:
    path = tmp_path / "wide.txt"
    path.write_bytes("words".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"wide\.txt is not UTF-8, for it is full of bytes of 0; .*iconv"):
        "".join(readers.read_text(path))


def test_a_byte_of_0_may_stray_into_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("some\0 words")
    assert "".join(readers.read_text(path)) == "some\0 words"


def test_a_packed_file_under_another_name_is_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(b'{"text": "words"}'))
    with pytest.raises(ValueError, match=r"rows\.jsonl is not UTF-8 at byte 1 .*gunzip"):
        "".join(readers.read_text(path))


def test_a_character_cut_off_at_the_end_is_named_with_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes("ab宮".encode()[:-1])
    with pytest.raises(ValueError, match="not UTF-8 at byte 2 "):
        "".join(readers.read_text(path))


def test_characters_across_chunks_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = "宮津" * readers.CHUNK_BYTES
    path = tmp_path / "long.txt"
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert "".join(readers.read_text(path)) == text
    assert "".join(readers.read_text(path, 3, 3 + 9)) == "宮津宮"


def test_line_ends_of_other_systems_are_line_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", 4)
    path = tmp_path / "windows.txt"
    path.write_bytes("one\r\n\r\ntwo 宮\rthree\r".encode())
    text = "one\n\ntwo 宮\nthree\n"
    assert "".join(readers.read_text(path)) == text
    assert readers.sha256_of_text(path) == readers.sha256_of(path)


def test_lines_keep_their_line_feeds_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", 3)
    path = tmp_path / "lines.txt"
    path.write_text("one\n\ntwo three\nfour")
    assert list(readers.read_lines(path)) == ["one\n", "\n", "two three\n", "four"]
    path.write_text("a long line of many chunks\n")
    assert list(readers.read_lines(path)) == ["a long line of many chunks\n"]


def test_parquet_rows_cross_batches_and_null_reads_as_empty(tmp_path: Path) -> None:
    texts: list[str | None] = [*make_documents(300, 1), None, ""]
    path = write_parquet(tmp_path / "a.parquet", texts)
    assert list(readers.parquet_rows([path])) == [text or "" for text in texts]
    assert readers.check_parquet(path) == 302


def test_parquet_strings_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    wrong = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"text": wrong}), path)
    with pytest.raises(ValueError, match=r"a\.parquet holds a text that is not UTF-8 at byte 0 of it"):
        list(readers.parquet_rows([path]))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_string_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["one", "two", "one"]).cast(kind)}), path)
    readers.check_parquet(path)
    assert list(readers.parquet_rows([path])) == ["one", "two", "one"]


def test_damaged_pages_of_parquet_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", list(make_documents(300, 1)))
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996  # the footer stays whole
    path.write_bytes(content)
    readers.check_parquet(path)
    with pytest.raises(ValueError, match=r"a\.parquet is truncated or no parquet file"):
        list(readers.parquet_rows([path]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 3: not JSON \("),
        ('{"body": "x", "id": 1}', "line 3: no 'text', only body, id; rename"),
        ('{"text": 3}', r"line 3: 'text' is no string \(3\); write the text there"),
        ('{"text": null}', r"line 3: 'text' is no string \(null\); write the text there"),
        ("{}", "line 3: no 'text', only an empty object; rename the key of the text, or take the row out"),
        ('["' + 50 * "文" + '"]', r'line 3: is no JSON object \(\["文{35}\.\.\.\); write'),
        ('{"text": "x", "of": ' + 100_000 * "[", r"line 3: not JSON \("),
        ('{"text": "x", "of": ' + 5_000 * "1" + "}", r"line 3: not JSON \(Exceeds the limit"),
        ("[1]", r'line 3: is no JSON object \(\[1\]\); write {"text": "..."}'),
        (r'{"text": "half \ud800"}', r"line 3: half a pair of surrogates \('\\ud800'\), .* write it whole"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one"}) + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        list(readers.jsonl_rows([path]))


def test_a_file_that_vanished_is_a_clear_error(tmp_path: Path) -> None:
    for read in (readers.sha256_of, lambda path: list(readers.read_text(path))):
        with pytest.raises(ValueError, match=r"gone\.txt cannot be read \(No such file"):
            read(tmp_path / "gone.txt")


def test_a_document_larger_than_memory_would_hold_is_read_in_little(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    line = "some words of a long text\n"
    path.write_text(line * 700_000)  # 18 MB
    tracemalloc.start()
    try:
        total = sum(len(text) for text, _ in readers.text_pieces([path]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 700_000 * len(line)
    # A chunk as bytes and as text, the buffer and its remainder: at most six times a chunk.
    assert peak < 6 * readers.CHUNK_BYTES
