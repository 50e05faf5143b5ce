"""Training batches of the recall task, drawn as they are needed.

Shape legend: B batch, T tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resnet_bk.bench.recall.task import Recall, draw


class RecallStream:
    """Endless batches, each of one kind of example; an epoch holds every kind's number of examples, in mixed order.

    What a batch holds depends on seed, epoch and its place in the epoch alone, so that a stopped run goes on with the
    batches it would have seen. No example comes twice, up to chance.

    Args:
        kinds: of the examples.
        batch_tokens: B T at most; short examples come in larger batches.
        vocabulary: words.
        seed: of the examples.

    Raises:
        ValueError: an example is longer than a batch may be.
    """

    def __init__(self, kinds: Sequence[Recall], batch_tokens: int, vocabulary: int, seed: int) -> None:
        longest = max(kind.length for kind in kinds)
        if batch_tokens < longest:
            raise ValueError(
                f"batch_tokens={batch_tokens}: an example of length {longest} does not fit; raise it to {longest}"
            )
        self.kinds = tuple(kinds)
        self.batch_tokens = batch_tokens
        self.vocabulary = vocabulary
        self.seed = seed
        self._batches = 0
        self._order: tuple[int, list[tuple[Recall, int]]] | None = None  # epoch, its batches
        self.steps_per_epoch = len(self._epoch(0))

    @property
    def starts_epoch(self) -> bool:
        """Whether the batch returned last is the first of its epoch."""
        return self._batches > 0 and (self._batches - 1) % self.steps_per_epoch == 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next input_ids and targets, int64 [B, T]."""
        epoch, place = divmod(self._batches, self.steps_per_epoch)
        self._batches += 1
        kind, count = self._epoch(epoch)[place]
        return draw(kind, count, self.vocabulary, self._generator(epoch, place + 1))

    def state_dict(self) -> dict[str, Any]:
        """Place in the stream, and what it is made of."""
        return {**self._made_of(), "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError where the stream was made of something else."""
        if any(state.get(key) != value for key, value in self._made_of().items()):
            raise ValueError(f"the saved stream is {state}, this one {self._made_of()}; start a new run")
        self._batches = int(state["batches"])

    def _made_of(self) -> dict[str, Any]:
        kinds = [[kind.length, kind.pairs, kind.examples] for kind in self.kinds]
        return {"kinds": kinds, "batch_tokens": self.batch_tokens, "vocabulary": self.vocabulary, "seed": self.seed}

    def _epoch(self, epoch: int) -> list[tuple[Recall, int]]:
        """Kind and size of every batch of an epoch."""
        if self._order is None or self._order[0] != epoch:
            batches = []
            for kind in self.kinds:
                size = self.batch_tokens // kind.length
                batches += [(kind, min(size, kind.examples - first)) for first in range(0, kind.examples, size)]
            order = torch.randperm(len(batches), generator=self._generator(epoch, 0)).tolist()
            self._order = epoch, [batches[i] for i in order]
        return self._order[1]

    def _generator(self, epoch: int, place: int) -> torch.Generator:
        # Of a seed the generator reads 32 bits; the odd factors keep the streams of two seeds apart.
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + epoch) * 1_000_003 + place) % 2**32)
