"""What a corpus is: named splits, each a stream of documents.

Readers hand documents on in *pieces*, so that one document may be larger than memory. A piece is a pair
`(text, last)`; `last` is true for the piece that ends its document. Pieces are cut where whitespace follows a
character that is no whitespace. No pre-tokenizer of this package makes a token across such a place, so the tokens
of the pieces are exactly the tokens of the whole document. Tokenizers that exist already get whole documents.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

SPLITS = ("train", "validation", "test")
WHOLE = "all"  # of a set that came without splits
PIECE_CHARACTERS = 4_096
DIVISION = "division-3"  # of `hash_split`, in the fingerprints of what it divided
KEY_CHARACTERS = 2_048  # of a document, white space as single blanks, by which it is put into a split
SEPARATORS = "\x1c\x1d\x1e\x1f"  # whitespace to Python, and to no tokenizer

Piece = tuple[str, bool]
Reader = Callable[[], Iterator[Piece]]


@dataclass(frozen=True)
class Corpus:
    """Text in splits, read as a stream.

    name: short name for reports.
    fingerprint: hash of the content (hexadecimal); equal fingerprints mean equal documents in equal splits.
    description: where the text comes from, with its licence or credit line where known.
    readers: for each split a function that starts a new pass over its documents.
    whole: the same for all of a set that came without splits, which the split "all" names; None where it had splits.
    """

    name: str
    fingerprint: str
    description: str
    readers: Mapping[str, Reader] = field(repr=False, compare=False)
    whole: Reader | None = field(default=None, repr=False, compare=False)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, train, validation and test first."""
        ordered = [name for name in SPLITS if name in self.readers]
        return (*ordered, *sorted(name for name in self.readers if name not in SPLITS))

    def pieces(self, split: str) -> Iterator[Piece]:
        """Start a pass over a split, document by document, long documents in pieces. Blank documents are left out.

        Raises ValueError where the split does not exist, and at its end where it held no text.
        """
        if split in self.readers:
            return self._pieces(split, self.readers[split])
        if split == WHOLE and self.whole is not None:
            return self._pieces(split, self.whole)
        if split == WHOLE:
            raise ValueError(
                f"data: {self.name!r} came divided and has no split {split!r}; take one of {', '.join(self.splits)}"
            )
        of_undivided = "" if self.whole is None else f", and {WHOLE} for the whole set"
        raise ValueError(
            f"data: {self.name!r} has no split {split!r}, only {', '.join(self.splits)}{of_undivided}; add a file or "
            f"folder named {split!r}, or give one set without split names, which is divided 90/5/5 by document"
        )

    def _pieces(self, split: str, reader: Reader) -> Iterator[Piece]:
        empty = True
        for piece in reader():
            empty = False
            yield piece
        if empty:
            divided = (
                "too little text to divide 90/5/5; documents that begin alike stay in one split, and a single text is "
                "cut at white space"
            )
            why = divided if split in self.readers and self.whole is not None else "no document, or only blank ones"
            raise ValueError(
                f"data: split {split!r} of {self.name!r} holds no text ({why}); "
                f"give more documents, or name the files of each split ({', '.join(SPLITS)}) yourself"
            )

    def whole_documents(self, split: str) -> Iterator[Piece]:
        """The same with every document in one piece. Raises ValueError as `pieces` does."""
        pieces = self.pieces(split)
        return ((text, True) for text in _join(pieces))

    def documents(self, split: str) -> Iterator[str]:
        """Start a pass over the whole documents of a split. Raises ValueError as `pieces` does."""
        return _join(self.pieces(split))


def _join(pieces: Iterator[Piece]) -> Iterator[str]:
    parts: list[str] = []
    for text, last in pieces:
        parts.append(text)
        if last:
            yield "".join(parts)
            parts.clear()


def document_pieces(chunks: Iterable[str]) -> Iterator[Piece]:
    """Pieces of one document that arrives in chunks of any size. A blank document has no pieces."""
    buffer = ""
    started = False
    size = PIECE_CHARACTERS
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start > size:
            end = _cut(buffer, start, start + size)
            if end == start:  # one long word, or only whitespace: look further
                size *= 2
                continue
            yield buffer[start:end], False
            started, start, size = True, end, PIECE_CHARACTERS
        buffer = buffer[start:]
    if started or not is_blank(buffer):
        yield buffer, True


def _cut(text: str, start: int, stop: int) -> int:
    """Last place in text[start:stop] with whitespace after and none before; start if there is none."""
    end = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
    while end > start and text[end - 1].isspace() and text[end - 1] not in SEPARATORS:
        end -= 1
    return max(end, start)


def is_blank(text: str) -> bool:
    return not text or text.isspace()


def split_of(key: str) -> str:
    """Split of a document by a fixed hash of its key: 90% train, 5% validation, 5% test."""
    share = int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()) / 2**64
    return "train" if share < 0.90 else "validation" if share < 0.95 else "test"


def hash_split(read_all: Reader) -> dict[str, Reader]:
    """Readers of the three splits of a set without splits, by a fixed hash of how each document begins.

    The key is content, so renaming or reordering files moves nothing and duplicates stay in one split, also those that
    differ in white space.
    """

    def read(split: str) -> Iterator[Piece]:
        keep: bool | None = None  # not known yet
        begin: list[Piece] = []
        for piece in read_all():
            text, last = piece
            if keep is None:
                # The first piece may hold less than a key: a title, or little but white space.
                begin.append(piece)
                key = " ".join("".join(text for text, _ in begin).split())
                if last or len(key) >= KEY_CHARACTERS:
                    keep = split_of(key[:KEY_CHARACTERS]) == split
                    if keep:
                        yield from begin
                    begin = []
            elif keep:
                yield text, last
            if last:
                keep = None

    return {split: partial(read, split) for split in SPLITS}
