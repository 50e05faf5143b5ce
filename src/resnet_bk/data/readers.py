"""Readers of text, parquet, jsonl and WikiText files, each a stream in bounded memory."""

import codecs
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from resnet_bk.data.corpus import Piece, document_pieces, is_blank

COLUMN = "text"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # how text of Windows that is no UTF-8 often begins
GZIP = b"\x1f\x8b"
CHUNK_BYTES = 1 << 20
ROWS = 128  # rows of parquet decoded at once: few, since a row may be a whole book


def sha256_of(path: Path) -> str:
    """sha256 of a file, read as a stream."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"data: {path} cannot be read ({error.strerror})") from error


def read_text(
    path: Path, start: int = 0, stop: int | None = None, on_bytes: Callable[[bytes], object] = lambda data: None
) -> Iterator[str]:
    """Text of the bytes [start, stop) of a UTF-8 file, in chunks; `on_bytes` is shown every chunk of bytes.

    Line ends of other systems become line feeds, so that a text has as many characters wherever it was written.

    Raises ValueError naming the file and the first byte that is not UTF-8.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    offset = start
    try:
        with path.open("rb") as file:
            file.seek(start)
            while True:
                data = file.read(CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - offset))
                on_bytes(data)
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    begins = error.object if offset == pending else b""
                    other = "UTF-16" if begins.startswith(UTF16) else "LATIN1"
                    way_out = f"convert it first, for example with `iconv -f {other} -t UTF-8`"
                    if begins.startswith(GZIP):
                        way_out = "unpack it first, as with `gunzip`, for it is gzip's"
                    place = offset - pending + error.start
                    raise ValueError(
                        f"data: {path} is not UTF-8 at byte {place} ({error.reason}); {way_out}"
                    ) from error
                if offset == 0 and 4 * text.count("\0") > len(text):  # of Latin letters in UTF-16 every other byte
                    raise ValueError(
                        f"data: {path} is not UTF-8, for it is full of bytes of 0; if it is UTF-16, convert it with "
                        "`iconv -f UTF-16LE -t UTF-8`, or with UTF-16BE"
                    )
                if offset == 0:
                    text = text.removeprefix("\ufeff")  # byte order mark
                if text:
                    yield text
                if not data:
                    return
                offset += len(data)
    except OSError as error:
        raise ValueError(f"data: {path} cannot be read ({error.strerror})") from error


def sha256_of_text(path: Path) -> str:
    """sha256 of a file that must be UTF-8 and not blank. Raises ValueError where it is neither."""
    digest = hashlib.sha256()
    blank = True
    for text in read_text(path, on_bytes=digest.update):
        blank = blank and is_blank(text)
    if blank:
        raise ValueError(f"data: {path} is empty; give a file with text, or remove it")
    return digest.hexdigest()


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, each with its line feed."""
    begun: list[str] = []  # parts of a line that may be long: joined once, at its end
    for text in read_text(path):
        first, *others = text.split("\n")
        begun.append(first)
        for line in others:
            yield "".join(begun) + "\n"
            begun = [line]
    rest = "".join(begun)
    if rest:
        yield rest


def text_pieces(paths: Sequence[Path]) -> Iterator[Piece]:
    """Documents of text files, one document a file."""
    for path in paths:
        yield from document_pieces(read_text(path))


def jsonl_rows(paths: Sequence[Path]) -> Iterator[str]:
    """Texts of files with one JSON object a line. Raises ValueError naming file and line."""
    for path in paths:
        for number, line in enumerate(read_lines(path), start=1):
            if is_blank(line):
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # also numbers that are too long, and lists in lists in lists
                why = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise ValueError(f"data: {path}, line {number}: not JSON ({why}); write one object a line") from error
            text = row.get(COLUMN) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise ValueError(f"data: {path}, line {number}: {_no_text(row)}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"data: {path}, line {number}: half a pair of surrogates ({error.object[error.start]!r}), which is "
                    "no character; write it whole, or take it out"
                ) from error
            yield text


def _no_text(row: Any) -> str:
    """Why a row of jsonl has none, and the way out."""
    if not isinstance(row, dict):
        return f'is no JSON object ({_short(row)}); write {{"{COLUMN}": "..."}}'
    if COLUMN in row:
        return f"{COLUMN!r} is no string ({_short(row[COLUMN])}); write the text there, or take the row out"
    return f"no {COLUMN!r}, only {', '.join(row) or 'an empty object'}; rename the key of the text, or take the row out"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_parquet(path: Path) -> int:
    """Rows of a parquet file. Raises ValueError where it is damaged or lacks a text column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(_damaged(path, error)) from error
    if COLUMN not in schema.names:
        raise ValueError(
            f"data: {path} has no column {COLUMN!r}, only {', '.join(schema.names)}; rename the text column"
        )
    if schema.names.count(COLUMN) > 1:
        raise ValueError(f"data: {path} has {schema.names.count(COLUMN)} columns {COLUMN!r}; keep one")
    if not _is_string(schema.field(COLUMN).type):
        raise ValueError(
            f"data: column {COLUMN!r} of {path} holds {schema.field(COLUMN).type}, not strings; write the texts there"
        )
    return rows


def parquet_rows(paths: Sequence[Path]) -> Iterator[str]:
    """Texts of parquet files, row by row; null rows read as empty. Raises ValueError where a file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        try:
            # Without pre-buffering a row group is read page by page, not as a whole.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK_BYTES) as file:
                for batch in file.iter_batches(batch_size=ROWS, columns=[COLUMN], use_threads=False):
                    yield from arrow_texts(batch.column(0), str(path))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(_damaged(path, error)) from error


def arrow_texts(column: Any, source: str) -> Iterator[str]:
    """Texts of an arrow column, one at a time, for one may be a whole book; null reads as empty.

    Raises ValueError naming the source where one is no UTF-8, which arrow does not look at.
    """
    for value in column:
        try:
            yield value.as_py() or ""
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data: {source} holds a text that is not UTF-8 at byte {error.start} of it ({error.reason}); write it "
                "again from text that is"
            ) from error


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"data: {path} is truncated or no parquet file ({reason}); fetch it again and compare its size"


def row_pieces(rows: Iterable[str]) -> Iterator[Piece]:
    """Documents of rows: one a row, or, where the rows are the lines of WikiText, one an article.

    WikiText on the hub has one line a row. Such a set begins with the heading of its first article as a row of its
    own and a blank row, which is how it is told from a set of documents.
    """
    rows = iter(rows)
    first = []
    for row in rows:
        first.append(row)
        if not is_blank(row):
            break
    heading = bool(first) and is_heading(first[-1])
    after = list(islice(rows, 1)) if heading else []
    rows = chain(first, after, rows)
    if after and is_blank(after[0]):
        yield from article_pieces(row if row.endswith("\n") else row + "\n" for row in rows)
    else:
        for row in rows:
            yield from document_pieces([row])


def wikitext_pieces(paths: Sequence[Path]) -> Iterator[Piece]:
    """Articles of WikiText token files (`wiki.train.tokens`, `wiki.train.raw`)."""
    for path in paths:
        yield from article_pieces(read_lines(path))


def is_heading(line: str) -> bool:
    """Whether a text is one line, the heading of a WikiText article, ` = Title = `; sections have more signs."""
    line = line.strip()
    framed = len(line) > 4 and line.startswith("= ") and line.endswith(" =")
    return framed and not line.startswith("= =") and "\n" not in line


def article_pieces(lines: Iterable[str]) -> Iterator[Piece]:
    """Articles of WikiText lines. A heading starts an article where the lines before and after it are blank."""
    marked = _mark_headings(lines)
    following: list[str] = [line for _, line in [next(marked, (False, ""))]]

    def article() -> Iterator[str]:
        yield following.pop()
        for starts, line in marked:
            if starts:
                following.append(line)
                return
            yield line

    while following:
        yield from document_pieces(article())


def _mark_headings(lines: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """Each line with whether it starts an article."""
    before, line = "", None
    for after in chain(lines, [""]):
        if line is not None:
            yield is_heading(line) and is_blank(before) and is_blank(after), line
            before = line
        line = after
