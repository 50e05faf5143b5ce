"""One more token after a text of P tokens, and what a model keeps of that text: ResNet-BK a state of one size, Llama
the keys and values of every token.

The models have the shape of `small`, fresh weights and parameters equal to within 2%; tokens are random. Everything is
float32 and one forward pass a token, without sampling or `generate()` around it. Llama runs with two caches: one whose
memory is there beforehand, and the one that `generate()` makes, which is copied to grow by a token.

Shape legend: B batch (1), P tokens before, H heads, D size of a head.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from benchmarks.cases.attention import crossovers
from benchmarks.gate import Check, relative_error
from benchmarks.row import OURS, Row, Table, comparison
from resnet_bk.bench.peers import build_model
from resnet_bk.bench.protocol import load_protocol
from resnet_bk.bench.resolve import protocol_config
from resnet_bk.bench.sizing import count_parameters
from resnet_bk.models import ResNetBKCache

CASE = "one more token"
PROTOCOL = "small"
QUICK_SETTINGS = (
    *("vocab_size=200", "hidden_size=16", "num_heads=2", "num_layers=1"),
    *("sequence_length=16", "parameters_without_embeddings=null", "parameter_tolerance=0.5"),
)
BEFORE = (256, 1024, 4096, 16384)
QUICK = (16, 32)
SEGMENT = 512  # tokens that are read at once before the clock starts
DIFFERENT = 256  # tokens that are read in turn while the clock runs
# Float32: the same sums over up to P tokens in another order.
TOLERANCE = 1e-4


class RoomyLayer(DynamicLayer):
    """Keys and values in memory for so many tokens. (`StaticCache` has that too, but makes attention build and read a
    mask for every token.)"""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes [B, H, tokens, D] behind what is there."""
        batch, heads, tokens, size = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = key_states.new_empty(2, batch, heads, self.longest, size)
        start = self.get_seq_length()
        stop = start + tokens
        self.room[0, :, :, start:stop], self.room[1, :, :, start:stop] = key_states, value_states
        self.keys, self.values = self.room[0, :, :, :stop], self.room[1, :, :, :stop]
        return self.keys, self.values


def roomy(config: Any, longest: int) -> Cache:
    return Cache(layers=[RoomyLayer(longest) for _ in range(config.num_hidden_layers)])


# Contender -> its model in the protocol and its cache for at most so many tokens.
LLAMA, COPIED, POINTERLESS = "llama", "llama, copied cache", "ours without the pointer"
CONTENDERS: dict[str, tuple[str, Callable[[Any, int], Cache]]] = {
    OURS: ("resnet-bk", lambda config, longest: ResNetBKCache(config)),
    POINTERLESS: ("no-pointer", lambda config, longest: ResNetBKCache(config)),
    LLAMA: ("llama", roomy),
    COPIED: ("llama", lambda config, longest: DynamicCache(config=config)),
}


class Reader:
    """A model that has read P tokens; a call reads another one and gives the logits after it, [B, V].

    Keys and values of that one are taken back, so that every call comes after P tokens: two slices a layer, within the
    time of the call. A state cannot be taken back, and need not be: the work does not depend on how much was read.
    """

    def __init__(self, model: Any, cache: Cache, tokens: Tensor, before: int) -> None:
        self.model, self.cache = model, cache
        for segment in tokens[:, :before].split(SEGMENT, dim=1):
            self._read(segment)
        self.kept = kept_bytes(cache)
        self.following = itertools.cycle(tokens[:, before:].split(1, dim=1))

    def __call__(self) -> Tensor:
        logits = self._read(next(self.following))
        if not isinstance(self.cache, ResNetBKCache):
            self.cache.crop(-1)
        return logits

    @torch.no_grad()
    def _read(self, tokens: Tensor) -> Tensor:
        output = self.model(input_ids=tokens, cache=self.cache, use_cache=True, logits_to_keep=1)
        found: Tensor = output.logits[:, -1]
        return found


def kept_bytes(cache: Any) -> int:
    """What a cache holds of the text."""
    if isinstance(cache, ResNetBKCache):
        return cache.nbytes
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def rows(quick: bool) -> Iterator[Row]:
    """A row a length, from which length on ours is faster, and what is kept."""
    protocol = load_protocol(PROTOCOL, QUICK_SETTINGS if quick else ())
    models = {
        name: build_model(protocol_config(protocol, name), seed=0).eval()
        for name in dict.fromkeys(name for name, _ in CONTENDERS.values())
    }
    shape = f"{protocol.hidden_size} wide, {protocol.num_layers} layers, vocabulary of {protocol.vocab_size:,}"
    notes = tuple(f"{name}: {count_parameters(model)} parameters" for name, model in models.items())
    kept, found = [], dict[int, Row]()
    for before in QUICK if quick else BEFORE:
        generator = torch.Generator().manual_seed(before)
        tokens = torch.randint(protocol.vocab_size, (1, before + DIFFERENT), generator=generator)
        readers = {
            contender: Reader(models[name], cache(models[name].config, before + 1), tokens, before)
            for contender, (name, cache) in CONTENDERS.items()
        }
        kept.append((before, *(readers[name].kept / 2**20 for name in (OURS, POINTERLESS, LLAMA))))
        found[before] = comparison(
            CASE,
            f"a token after {before:,}, B=1, {shape}",
            dict(readers),
            partial(checks, readers, tokens[:, : before + 1]),
            seconds=0.05 if quick else 8.0,
            most_rounds=1 if quick else 41,
            notes=notes,
        )
        yield found[before]
        notes = ()
    yield from crossovers(found, CASE, (OURS, POINTERLESS), LLAMA, "one more token")
    yield Row(CASE, "MiB kept of the text", table=Table(("tokens before", OURS, POINTERLESS, LLAMA), tuple(kept)))


def checks(readers: dict[str, Reader], tokens: Tensor) -> Iterator[Check]:
    """The logits after the last of P + 1 tokens, read from what was kept of the others, against those of one call; then
    a cache of keys and values holds P again."""
    whole: dict[int, Tensor] = {}
    for name, reader in readers.items():
        if id(reader.model) not in whole:
            with torch.no_grad():
                whole[id(reader.model)] = reader.model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[
                    :, -1
                ]
        error = relative_error(reader(), whole[id(reader.model)])
        yield Check(f"{name}: logits against those of one call", error, TOLERANCE)
        if not isinstance(reader.cache, ResNetBKCache):
            kept = reader.cache.get_seq_length()
            yield Check(f"{name}: tokens kept beyond those before", float(abs(kept - tokens.shape[1] + 1)), 0.0)
