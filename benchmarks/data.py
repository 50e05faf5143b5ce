"""Memory and speed of the data path on a large corpus, which is a small one repeated.

    python -m benchmarks.data [--tokens N] [--data D] [--vocab-size V] [--limit-mb M] [--quick] [--out FILE]

Three stages, each in a process of its own, of which the peak of resident memory (libraries and mapped files included)
is taken: the vocabulary is counted; the token cache is built; an epoch of training batches is read from it. Exit code 1
where one of them takes more than the limit.
"""

import hashlib
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from benchmarks.command import Parser, guarded, out_file, parser
from resnet_bk.process import tune_process

TOKENS, QUICK_TOKENS = 100_000_000, 1_000_000
VOCABULARY = 30_000
LIMIT_MB = 1_500.0
BATCH, LENGTH = 16, 128  # of the protocol `seed`


def repeated(data: str, passes: int) -> Any:
    """The corpus `data` with its train split read so many times over."""
    from resnet_bk.data import Corpus, load_corpus
    from resnet_bk.data.corpus import Piece

    source = load_corpus(data)

    def read() -> Iterator[Piece]:
        for _ in range(passes):
            yield from source.pieces("train")

    fingerprint = hashlib.sha256(f"repeated {passes} {source.fingerprint}".encode()).hexdigest()
    return Corpus(f"{passes} x {source.name}", fingerprint, source.description, {"train": read})


def count_tokens(data: str) -> int:
    """Tokens of one pass of the train split: words, punctuation marks and ends of documents."""
    from resnet_bk.data import load_corpus
    from resnet_bk.data.tokenizer import WORDS

    word = re.compile(WORDS)
    return sum(sum(1 for _ in word.finditer(text)) + last for text, last in load_corpus(data).pieces("train"))


def vocabulary(corpus: Any, tokens: int, vocab_size: int, cache_dir: str) -> int:
    """Stage 1; returns the words that there are."""
    from resnet_bk.data import cached_tokenizer
    from resnet_bk.training.progress import counter

    with counter(f"vocabulary of {corpus.name}, characters") as progress:
        return len(cached_tokenizer(corpus, vocab_size=vocab_size, cache_dir=cache_dir, progress=progress))


def token_file(corpus: Any, tokens: int, vocab_size: int, cache_dir: str) -> int:
    """Stage 2; returns the tokens in the cache."""
    from resnet_bk.data import cached_tokenizer, token_cache
    from resnet_bk.training.progress import counter

    tokenizer = cached_tokenizer(corpus, vocab_size=vocab_size, cache_dir=cache_dir)
    with counter(f"tokens of {corpus.name}") as progress:
        return len(token_cache(corpus, "train", tokenizer, cache_dir=cache_dir, limit=tokens, progress=progress).tokens)


def epoch(corpus: Any, tokens: int, vocab_size: int, cache_dir: str) -> int:
    """Stage 3; returns the tokens in the batches of an epoch."""
    from resnet_bk.data import TokenStream, cached_tokenizer, token_cache

    tokenizer = cached_tokenizer(corpus, vocab_size=vocab_size, cache_dir=cache_dir)
    cache = token_cache(corpus, "train", tokenizer, cache_dir=cache_dir, limit=tokens)
    stream = TokenStream(cache.tokens, BATCH, LENGTH)
    return sum(stream.next_batch()[0].numel() for _ in range(stream.steps_per_epoch))


STAGES: dict[str, Callable[[Any, int, int, str], int]] = {
    "vocabulary": vocabulary,
    "token cache": token_file,
    "epoch of batches": epoch,
}


def measure(stage: str, data: str, passes: int, tokens: int, vocab_size: int, cache_dir: str) -> dict[str, Any]:
    """Run a stage in this process, which should be a fresh one, with the settings of the `resnet-bk` command line."""
    tune_process()  # before PyTorch is loaded
    import torch

    from resnet_bk.training.memory import peak_memory_mb

    corpus = repeated(data, passes)
    started = time.perf_counter()
    count = STAGES[stage](corpus, tokens, vocab_size, cache_dir)
    seconds = time.perf_counter() - started
    return {
        "stage": stage,
        "count": count,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(torch.device("cpu")),
    }


def run(data: str, tokens: int, vocab_size: int, limit_mb: float) -> dict[str, Any]:
    """All stages, each in a fresh process."""
    source_tokens = count_tokens(data)
    passes = math.ceil(tokens / source_tokens)
    stages = []
    with tempfile.TemporaryDirectory(prefix="resnet-bk-") as folder:
        for stage in STAGES:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                task = partial(measure, stage, data, passes, tokens, vocab_size, folder)
                found = pool.submit(task).result()
            stages.append(found | {"passed": found["peak_memory_mb"] <= limit_mb})
            print(
                f"{stage}: peak {found['peak_memory_mb']:,.0f} MiB of {limit_mb:,.0f} allowed, {found['seconds']:.0f} s"
                f"{'' if stages[-1]['passed'] else '   TOO MUCH'}"
            )
    return {
        "suite": "data",
        "data": data,
        "source_tokens": source_tokens,
        "passes": passes,
        "tokens": tokens,
        "vocab_size": vocab_size,
        "limit_mb": limit_mb,
        "stages": stages,
        "passed": all(stage["passed"] for stage in stages),
    }


def arguments() -> Parser:
    found = parser("benchmarks.data", __doc__)
    found.add_argument("--data", default="embedded", metavar="D", help="what is repeated: as --data of resnet-bk")
    found.add_argument("--tokens", type=int, metavar="N", help=f"of the large corpus; by default {TOKENS:,}")
    found.add_argument("--vocab-size", type=int, default=VOCABULARY, metavar="V", help="words of the vocabulary")
    found.add_argument("--limit-mb", type=float, default=LIMIT_MB, metavar="M", help="resident memory, MiB")
    return found


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code: 0 within the limit, 1 beyond it.

    Raises:
        ValueError: a bad call.
    """
    given = arguments().parse_args(argv)
    tokens = given.tokens if given.tokens is not None else (QUICK_TOKENS if given.quick else TOKENS)
    if tokens <= BATCH * LENGTH:
        raise ValueError(f"--tokens {tokens}: must be more than {BATCH} x {LENGTH}, one batch")
    if given.limit_mb <= 0:
        raise ValueError(f"--limit-mb {given.limit_mb:g}: must be above 0")
    chosen = (given.data, tokens, given.vocab_size, given.limit_mb)
    usual = chosen == ("embedded", TOKENS, VOCABULARY, LIMIT_MB)
    out = out_file(given.out, "data", whole=usual)
    from benchmarks.machine import describe, machine
    from resnet_bk.bench.json_files import write_json

    where = machine()
    for line in describe(where):
        print(line)
    found = run(given.data, tokens, given.vocab_size, given.limit_mb) | {"machine": where}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, found)
    print(f"written: {out}")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    guarded(main)
