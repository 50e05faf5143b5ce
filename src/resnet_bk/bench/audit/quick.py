"""The audit that stands before every figure: a few seconds, in evaluation and in training mode, at several lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnet_bk.bench.audit.inputs import check_sizes, plain_case
from resnet_bk.bench.audit.probe import Probe

LENGTHS = (2, 17, 65, 128)  # odd, and across the borders of chunks of 16, 32 and 64
MODES = ("eval", "train")


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
) -> Audit:
    """Look for a logit that depends on a later token. The model is not touched.

    A model of which it cannot be told (logits that are not finite, that differ from call to call, or that no token
    moves) counts as leaking: it has not been shown to be causal.

    Args:
        model: a causal LM of `transformers`.
        vocab_size: tokens are drawn below it; at least 2.
        lengths: numbers of tokens to look at, at least 2 each.

    Raises:
        ValueError: a length below 2 or a vocabulary of fewer than 2 words.
    """
    check_sizes(vocab_size, lengths)
    probe = Probe(model)
    looked_at = 0
    with probe.own_random_numbers(1):
        for length in sorted(set(lengths)):
            case = plain_case(length, vocab_size, probe.device)
            for mode in MODES:
                probe.model.train(mode == "train")
                found = probe.look(case, vocab_size)
                where = f"({length} tokens, {mode} mode)"
                if found.leak is not None:
                    return Audit("leaks", found.leak.moved, f"{found.leak.sentence()} {where}")
                problem = found.problem or (None if found.responds else "no logit moves, whatever the token")
                if problem is not None:
                    return Audit("leaks", 0, f"not shown to be causal: {problem} {where}")
                looked_at += len(case.changed)
    shown = ", ".join(str(length) for length in sorted(set(lengths)))
    return Audit(
        "causal",
        None,
        f"{looked_at} changed tokens at lengths {shown} in {' and '.join(MODES)} mode moved no logit before them",
    )
