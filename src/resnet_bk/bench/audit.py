"""Does a language model see the answer? The causality audit that stands before every figure.

A causal model predicts token t from the tokens before it. So a change of token t must leave every logit before t as
it was, bit by bit. That is looked at for several lengths and positions, in evaluation and in training mode, on a copy
of the model whose parameters are disturbed, so that a projection that starts at zero cannot hide a leak.

Where tokens are regrouped (experts), the same logit may come out of sums in another order, and rounding moves it. If
the change is of the size of rounding, the gradient of the logits before t with respect to the embedding of token t and
of all later ones decides: it must be exactly zero.

Shape legend: P positions that are looked at, one a row; T tokens; V vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

LENGTHS = (2, 17, 65, 128)  # odd, and across the borders of chunks of 16, 32 and 64
BORDERS = (1, 16, 32, 63, 64, 100)
NOISE = 0.02
# Float32 sums in another order differ by about 1e-6 of the largest logit; a leak through a disturbed model by far more.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        verdict: "causal" or "leaks".
        first_leak: first position (from 0) whose logits moved though only a later token changed; None if there is none.
        detail: one sentence.
    """

    verdict: Literal["causal", "leaks"]
    first_leak: int | None
    detail: str


def audit_causality(
    model: Any,
    vocab_size: int,
    *,
    lengths: Sequence[int] = LENGTHS,
    modes: Sequence[Literal["eval", "train"]] = ("eval", "train"),
    seed: int = 0,
) -> Audit:
    """Look for a logit that depends on a later token. The model is not touched.

    Args:
        model: a causal LM of `transformers`.
        vocab_size: tokens are drawn below it; at least 2.
        lengths: numbers of tokens to look at, at least 2 each.
        modes: of the model.
        seed: of tokens and disturbance.

    Raises:
        ValueError: a length below 2 or a vocabulary of fewer than 2 words.
    """
    if vocab_size < 2 or not lengths or min(lengths) < 2:
        raise ValueError(
            f"vocab_size={vocab_size}, lengths={list(lengths)}: an audit changes one token after another one; "
            "it needs at least 2 words and lengths of at least 2"
        )
    device = next(model.parameters()).device
    looked_at = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        probe = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in probe.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=NOISE)
        for length in sorted(set(lengths)):
            positions = sorted({t for t in (*BORDERS, length // 2, length - 1) if t < length})
            row = torch.randint(vocab_size, (length,), device=device)
            for mode in modes:
                probe.train(mode == "train")
                leak = _first_moved(probe, row, positions, vocab_size)
                if leak is not None:
                    moved, changed, size = leak
                    return Audit(
                        "leaks",
                        moved,
                        f"changing token {changed} moves the logits at {moved}, before it, by {size:.2g} "
                        f"({length} tokens, {mode} mode)",
                    )
                looked_at += len(positions)
    shown = ", ".join(str(length) for length in sorted(set(lengths)))
    return Audit(
        "causal",
        None,
        f"{looked_at} changed tokens at lengths {shown} in {' and '.join(modes)} mode moved no logit before them",
    )


def _first_moved(probe: Any, row: Tensor, positions: list[int], vocab_size: int) -> tuple[int, int, float] | None:
    """(position that moved, token that changed, by how much) for the first row that leaks."""
    tokens = row.repeat(len(positions), 1)
    changed = tokens.clone()
    for index, position in enumerate(positions):
        # Another word, whatever the word was.
        changed[index, position] = (row[position] + 1 + int(torch.randint(vocab_size - 1, ()))) % vocab_size
    before, after = _logits(probe, tokens), _logits(probe, changed)
    limit = ROUNDING * float(before.abs().amax())
    for index, position in enumerate(positions):
        difference = (after[index, :position] - before[index, :position]).abs().amax(-1)
        if not bool(difference.any()) and bool(difference.isfinite().all()):
            continue
        largest = float(difference.amax())
        moved = int((difference > limit).int().argmax()) if largest > limit else int(difference.argmax())
        if not largest <= limit or _has_gradient(probe, row, position):
            return moved, position, largest
    return None


def _logits(probe: Any, tokens: Tensor) -> Tensor:
    """[P, T, V], with gradients on in training mode: a model may then take another path."""
    torch.manual_seed(0)  # the same dropout in both calls
    with torch.set_grad_enabled(probe.training):
        logits: Tensor = probe(input_ids=tokens, use_cache=False).logits
    return logits.detach().float()


def _has_gradient(probe: Any, row: Tensor, position: int) -> bool:
    """Whether a logit before `position` has a gradient with respect to the token there or to later ones."""
    embeddings = probe.get_input_embeddings()(row[None]).detach().requires_grad_()
    torch.manual_seed(0)
    logits = probe(inputs_embeds=embeddings, use_cache=False).logits[:, :position].float()
    (gradient,) = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), embeddings)
    return bool(gradient[:, position:].any())
