"""Token ids of a split as a memory-mapped file, built as a stream and keyed by content."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from resnet_bk.data.corpus import Corpus, Piece
from resnet_bk.data.saved_tokenizer import check_numbering, unknown_id
from resnet_bk.data.storage import cached_folder
from resnet_bk.data.tokenizer import reads_pieces, tokenizer_fingerprint

BATCH_CHARACTERS = 1 << 19
BATCH_PIECES = 1024
_TOKENS, _METADATA = "tokens.bin", "metadata.json"


@dataclass(frozen=True)
class TokenCache:
    """Tokens of a split, each document followed by `<eos>`.

    tokens: [N] uint16, or int32 for vocabularies beyond 65,536; read-only, memory-mapped.
    characters: characters of the text that the tokens stand for, white space included, `<eos>` not.
    unknown: how many tokens are `<unk>`.
    documents: how many documents the tokens come from; with a limit the last one may be cut short.
    fingerprint: sha256 of the tokens (hexadecimal).
    path: the folder that holds them.
    """

    tokens: np.memmap = field(compare=False)
    characters: int
    unknown: int
    documents: int
    fingerprint: str
    path: Path

    @property
    def unknown_rate(self) -> float:
        """Share of tokens that are `<unk>`."""
        return self.unknown / len(self.tokens)


def token_cache(
    corpus: Corpus,
    split: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    cache_dir: str | Path,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> TokenCache:
    """Tokens of a split, from the cache under cache_dir or built into it.

    Memory is bounded by the batches encoded at a time, whatever the size of the corpus or of a document (by the largest
    document where the tokenizer was not trained here). The cache is keyed by the content of corpus and tokenizer, the
    split and the limit; a damaged one is built again.

    limit: only the first `limit` tokens of the split, `<eos>` included; None for all.
    progress: called with the number of tokens so far while the cache is built; never called if it exists.

    Raises ValueError for a missing or empty split, a limit below 1, a tokenizer without end-of-text token, damaged
    text and a cache_dir that cannot be written.
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit {limit!r} must be a positive number of tokens, or none for the whole split")
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer has no eos_token, which ends each document; set tokenizer.eos_token")
    check_numbering(tokenizer)
    # A missing split is named before anything is written.
    pieces = corpus.pieces(split) if reads_pieces(tokenizer) else corpus.whole_documents(split)
    # The second number: of all but byte-pair encoding, since the name of a control token in a text is unknown.
    version = "tokens-2" if isinstance(tokenizer.backend_tokenizer.model, BPE) else "tokens-3"
    special = [unknown_id(tokenizer), *sorted(tokenizer.all_special_ids)]
    key = json.dumps([version, corpus.fingerprint, split, tokenizer_fingerprint(tokenizer), special, limit])

    def build(folder: Path) -> None:
        _build(folder, pieces, tokenizer, limit, progress or (lambda tokens: None))

    name = f"tokens-{split}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return cached_folder(Path(cache_dir) / name, _load, build)


def _build(
    folder: Path,
    pieces: Iterable[Piece],
    tokenizer: PreTrainedTokenizerFast,
    limit: int | None,
    progress: Callable[[int], object],
) -> None:
    # A copy, so that padding or truncation set on the caller's tokenizer changes nothing here.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    # Pieces of words can spell "<eos>" out, where it is text. Where it is itself a word or piece (of Unigram, of
    # WordPiece), "<unk>" stands for it, or documents would end where they do not.
    backend.encode_special_tokens = not isinstance(backend.model, WordLevel)
    end, unknown = tokenizer.eos_token_id, unknown_id(tokenizer)
    unwritten = {*tokenizer.all_special_ids} if unknown is not None else set()
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<i4")
    digest = hashlib.sha256()
    totals = {"tokens": 0, "characters": 0, "unknown": 0, "documents": 0}
    with (folder / _TOKENS).open("wb") as file:
        for batch in _batches(pieces):
            room = None if limit is None else limit - totals["tokens"]
            ids, characters, documents = _encode(backend, batch, end, room, dict.fromkeys(unwritten, unknown))
            data = ids.astype(dtype).tobytes()
            file.write(data)
            digest.update(data)
            totals["tokens"] += len(ids)
            totals["characters"] += characters
            totals["unknown"] += 0 if unknown is None else int(np.count_nonzero(ids == unknown))
            totals["documents"] += documents
            progress(totals["tokens"])
            if totals["tokens"] == limit:
                break
    metadata = {"dtype": dtype.str, "sha256": digest.hexdigest(), **totals}
    (folder / _METADATA).write_text(json.dumps(metadata), encoding="utf-8")


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_PIECES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(
    backend: Any, batch: list[Piece], end: int, room: int | None, instead: dict[int, int | None]
) -> tuple[np.ndarray, int, int]:
    """Ids [n] of a batch of pieces, at most `room` of them, some with another `instead`; the characters they stand for;
    documents begun or ended."""
    parts: list[np.ndarray] = []
    count = characters = documents = 0
    try:
        encodings = backend.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)
    except Exception as error:
        if type(error) is not Exception:  # the library has no class of its own
            raise
        raise ValueError(
            f"tokenizer: cannot encode the text ({error}); give it a token for what it does not know, or take another"
        ) from error
    for (text, last), encoding in zip(batch, encodings, strict=True):
        ids = np.array([*(instead.get(word, word) for word in encoding.ids), *([end] if last else [])], dtype=np.int64)
        if room is not None and count + len(ids) >= room:
            kept = room - count
            parts.append(ids[:kept])
            if kept < len(encoding.ids):  # only here are the places of tokens in the text needed
                offsets = backend.encode(text, add_special_tokens=False).offsets
                characters += offsets[kept - 1][1]
            else:
                characters += len(text)
            return np.concatenate(parts), characters, documents + 1
        parts.append(ids)
        count += len(ids)
        characters += len(text)
        documents += last
    return np.concatenate(parts), characters, documents


def _load(folder: Path) -> TokenCache | None:
    """The cache in a folder; None where there is none or where its tokens are not those that were written."""
    try:
        metadata = json.loads((folder / _METADATA).read_bytes())
        size = (folder / _TOKENS).stat().st_size
        dtype, count = np.dtype(metadata["dtype"]), metadata["tokens"]
        if size != count * dtype.itemsize:
            return None
        with (folder / _TOKENS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != metadata["sha256"]:
                return None
        return TokenCache(
            tokens=np.memmap(folder / _TOKENS, dtype=dtype, mode="r", shape=(count,)),
            characters=metadata["characters"],
            unknown=metadata["unknown"],
            documents=metadata["documents"],
            fingerprint=metadata["sha256"],
            path=folder,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
