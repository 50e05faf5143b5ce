"""Perplexity over a whole split.

Shape legend: B batch, T tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from resnet_bk.figures import perplexity
from resnet_bk.ops.linear_cross_entropy import IGNORED
from resnet_bk.training.loss import Head, autocast_to, causal_lm_loss
from resnet_bk.training.mode import evaluation_mode


@dataclass(frozen=True)
class Evaluation:
    """Sum of negative log likelihoods (nats) and number of the tokens predicted, in all and by bucket.

    `losses` is the loss of every token predicted, float32 [tokens] in the order of the text, where it was asked for.
    `measures` is what the model reports of itself, by name: the mean over the batches that it reports it of, each
    weighted by the tokens predicted in it. (What a model reports of a batch is over all its tokens; the last batch may
    be mostly padding.)
    """

    nll: float
    tokens: int
    bucket_nll: tuple[float, ...] = ()
    bucket_tokens: tuple[int, ...] = ()
    losses: Tensor | None = field(default=None, compare=False, repr=False)
    measures: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bucket_perplexities(self) -> list[float | None]:
        """None where a bucket holds no token."""
        pairs = zip(self.bucket_nll, self.bucket_tokens, strict=True)
        return [perplexity(nll / tokens) if tokens else None for nll, tokens in pairs]


@torch.no_grad()
def evaluate(
    model: Any,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    head: Head,
    carry_state: bool = False,
    bucket_of_token: Tensor | None = None,
    bucket_count: int = 1,
    dtype: str = "float32",
    keep_losses: Literal["rows", "windows"] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Sum the loss of every target of `batches`.

    Losses are summed in float64; logits exist for a chunk of tokens at a time (head "fused").

    Args:
        model: a causal LM of `transformers`; its train/eval mode is restored.
        batches: (input_ids, targets), int64 [B, T] each, targets -100 where there is nothing to predict. With
            `carry_state`, row b of a batch must continue row b of the batch before it.
        head: from `choose_head`.
        carry_state: hand the model's state from batch to batch; else every segment starts afresh.
        bucket_of_token: int64 [V], the bucket in which the loss of a target word is counted.
        bucket_count: number of buckets; above every entry of `bucket_of_token`.
        dtype: "bfloat16" for autocast.
        keep_losses: return every token's loss too. "rows": each row of the batches is a stretch of the text, one behind
            the other (`held_out_batches`); "windows": each batch goes on where that before it ended, row by row
            (`overlapping_batches`).
        progress: called after each batch with the number of targets so far.

    Raises:
        ValueError: there is nothing to predict, there are more buckets than `bucket_count`, a negative one or none
            for a target, or another head, dtype or `keep_losses` than these.
    """
    if keep_losses not in (None, "rows", "windows"):
        raise ValueError(f"keep_losses={keep_losses!r} must be rows, windows or None; see evaluate")
    if bucket_of_token is not None and int(bucket_of_token.max()) >= bucket_count:
        raise ValueError(
            f"bucket_count={bucket_count}: must be above every entry of bucket_of_token, which has "
            f"{int(bucket_of_token.max())}; give the number of buckets"
        )
    if bucket_of_token is not None and int(bucket_of_token.min()) < 0:
        raise ValueError(
            f"bucket_of_token must be numbers of at least 0, but has {int(bucket_of_token.min())}; see "
            "resnet_bk.data.frequency_buckets"
        )
    device = next(model.parameters()).device
    buckets = 1 if bucket_of_token is None else bucket_count
    lookup = None if bucket_of_token is None else bucket_of_token.cpu()
    # On the CPU, whatever the model is on: not every device has float64, or sums in a fixed order.
    nll = torch.zeros(buckets, dtype=torch.float64)
    count = torch.zeros(buckets, dtype=torch.int64)
    state = None
    kept_losses: list[tuple[Tensor, Tensor]] = []
    measured: dict[str, list[tuple[Tensor, int]]] = {}  # value and weight, of each batch
    done = 0
    with evaluation_mode(model):
        for input_ids, targets in batches:
            predicted = int((targets != IGNORED).sum())  # before they are on a GPU, which would have to be waited for
            done += predicted
            with autocast_to(dtype, device):
                losses, _, state, measures = causal_lm_loss(
                    model,
                    input_ids.to(device),
                    targets.to(device),
                    head,
                    carry_state=carry_state,
                    state=state,
                    reduction="none",
                )
            losses, targets = losses.cpu(), targets.cpu()
            kept = targets != IGNORED
            for name, value in measures.items() if predicted else ():
                measured.setdefault(name, []).append((value.cpu().double(), predicted))
            if keep_losses is not None:
                kept_losses.append((losses.float(), kept))
            target = targets[kept]
            if lookup is not None and len(target) and int(target.max()) >= len(lookup):
                raise ValueError(
                    f"bucket_of_token must have a bucket for every target, but has {len(lookup)} and target "
                    f"{int(target.max())} is predicted; make it with the tokenizer of the text"
                )
            bucket = torch.zeros_like(target) if lookup is None else lookup[target]
            nll += torch.bincount(bucket, losses[kept].double(), buckets)
            count += torch.bincount(bucket, minlength=buckets)
            if progress is not None:
                progress(done)
    tokens = int(count.sum())
    if tokens == 0:
        raise ValueError("the split to evaluate on has fewer than two tokens; give more text or another split")
    by_bucket = (tuple(nll.tolist()), tuple(count.tolist())) if bucket_of_token is not None else ((), ())
    in_order = None
    if keep_losses == "rows":
        rows, real = (torch.cat(parts, dim=1) for parts in zip(*kept_losses, strict=True))
        in_order = rows[real]
    elif keep_losses == "windows":
        in_order = torch.cat([losses[kept] for losses, kept in kept_losses])
    means = {name: _weighted_mean(found) for name, found in measured.items()}
    return Evaluation(float(nll.sum()), tokens, *by_bucket, losses=in_order, measures=means)


def _weighted_mean(found: Sequence[tuple[Tensor, int]]) -> float:
    return float(torch.stack([value * weight for value, weight in found]).sum()) / sum(weight for _, weight in found)
