"""Text for training and measuring: corpora, tokenizer, token cache and token streams.

    corpus = load_corpus("embedded")
    tokenizer = cached_tokenizer(corpus, vocab_size=10_000, cache_dir="cache")
    train = token_cache(corpus, "train", tokenizer, cache_dir="cache", limit=10_000_000)
    stream = TokenStream(train.tokens, batch_size=16, sequence_length=128)
    input_ids, targets = stream.next_batch()

Nothing here holds a corpus in memory: documents are read as a stream, tokens are memory-mapped.
"""

from resnet_bk.data.cache import TokenCache, token_cache
from resnet_bk.data.corpus import Corpus
from resnet_bk.data.frequency import frequency_buckets
from resnet_bk.data.load import load_corpus
from resnet_bk.data.streams import TokenStream, held_out_batches, overlapping_batches
from resnet_bk.data.tokenizer import cached_tokenizer, train_tokenizer

__all__ = [
    "Corpus",
    "TokenCache",
    "TokenStream",
    "cached_tokenizer",
    "frequency_buckets",
    "held_out_batches",
    "load_corpus",
    "overlapping_batches",
    "token_cache",
    "train_tokenizer",
]
