"""The whole audit: plain, padded and packed rows, in evaluation and training mode, in every dtype.

Every combination is a check of its own, with its own first leak. A combination that a model does not take is "not
run", with the reason, and never counts as passed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from resnet_bk.bench.audit.inputs import check_sizes, packed_case, padded_case, plain_case
from resnet_bk.bench.audit.probe import Case, Finding, Leak, Probe

# From two tokens to more than the largest chunk of any operator here (256, Mamba-2's), odd ones among them.
FULL_LENGTHS = (2, 17, 65, 128, 301)
LAYOUTS = ("plain", "left padding", "right padding", "packed")
MODES = ("eval", "train")
# Weights in that dtype; "autocast" is float32 weights under torch.autocast in bfloat16, as in mixed precision training.
DTYPES = ("float32", "bfloat16", "autocast")

# Half precision is looked at in so many lengths, the longest among them: what it adds is other kernels.
HALF_LENGTHS = 3

# What tells a model where packed documents end, and whether it thereby promises to keep them apart: with document_ids
# it does; position_ids that start anew keep them apart in some attention implementations and only count in others.
PACKING = {"document_ids": True, "position_ids": False}


@dataclass(frozen=True)
class Check:
    """One combination.

    Attributes:
        layout, mode, dtype: of `LAYOUTS`, `MODES`, `DTYPES`.
        outcome: "passes", "leaks" or "not run".
        decided_by: "bits" (no bit moved), "size" or "gradient" (see `probe`); None where it was not run.
        lengths: tokens of the rows that were looked at.
        changed_tokens: tokens that were changed, each alone.
        leak: the first one, or None.
        rounding: largest movement that the gradient excused; 0 where every bit stayed.
        note: why it was not run, or what else was seen.
    """

    layout: str
    mode: str
    dtype: str
    outcome: Literal["passes", "leaks", "not run"]
    decided_by: str | None
    lengths: tuple[int, ...]
    changed_tokens: int
    leak: Leak | None = None
    rounding: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class FullAudit:
    """All checks of a model.

    Attributes:
        model: its name.
        verdict: "causal" where no check leaks and at least the plain one of float32 in eval mode passes.
        checks: in the order of the table.
        seconds: that it took.
    """

    model: str
    verdict: Literal["causal", "leaks"]
    checks: tuple[Check, ...]
    seconds: float

    @property
    def first_leak(self) -> Check | None:
        """The first check that leaks."""
        return next((check for check in self.checks if check.outcome == "leaks"), None)

    @property
    def detail(self) -> str:
        """One sentence."""
        found = self.first_leak
        if found is not None and found.leak is not None:
            where = f"{found.layout}, {found.mode} mode, {found.dtype}, {found.leak.length} tokens"
            return f"{found.leak.sentence()} ({where})"
        passed = [check for check in self.checks if check.outcome == "passes"]
        tokens = sum(check.changed_tokens for check in passed)
        text = f"{tokens} changed tokens in {len(passed)} checks moved no logit before them"
        missing = len(self.checks) - len(passed)
        return f"{text}; {missing} checks were not run" if missing else text

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: a movement that is not finite is null."""
        checks = []
        for check in self.checks:
            plain = asdict(check)
            if plain["leak"] is not None and not abs(plain["leak"]["size"]) < float("inf"):
                plain["leak"]["size"] = None
            checks.append(plain)
        found = self.first_leak
        return {
            "model": self.model,
            "verdict": self.verdict,
            "detail": self.detail,
            "first_leak": None if found is None or found.leak is None else found.leak.moved,
            "seconds": self.seconds,
            "checks": checks,
        }


def full_audit(
    model: Any,
    vocab_size: int,
    *,
    name: str = "model",
    lengths: Sequence[int] = FULL_LENGTHS,
    progress: Callable[[str], None] = lambda text: None,
) -> FullAudit:
    """Look for a logit that depends on a later token, in every layout, mode and dtype. The model is not touched.

    Args:
        model: a causal LM of `transformers`.
        vocab_size: tokens are drawn below it; at least 2.
        name: for the result.
        lengths: numbers of tokens to look at, at least 2 each.
        progress: told what is looked at.

    Raises:
        ValueError: a length below 2, a vocabulary of fewer than 2 words, or a model of which the plain check in float32
            and eval mode says nothing (it fails to run, or its logits are not finite or do not respond).
    """
    check_sizes(vocab_size, lengths)
    started = time.perf_counter()
    ordered = sorted(set(lengths))
    some = sorted({ordered[(len(ordered) - 1) * i // (HALF_LENGTHS - 1)] for i in range(HALF_LENGTHS)})
    found: dict[tuple[str, str, str], Check] = {}
    for dtype in DTYPES:
        probe = Probe(model)
        probe.model.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        probe.autocast = torch.bfloat16 if dtype == "autocast" else None
        for mode in MODES:
            probe.model.train(mode == "train")
            for layout in LAYOUTS:
                progress(f"{layout}, {mode} mode, {dtype}")
                at = ordered if dtype == "float32" else some
                found[layout, mode, dtype] = _check(probe, layout, mode, dtype, at, vocab_size)
        first = found["plain", "eval", "float32"]
        if first.outcome == "not run":
            raise ValueError(f"model {name!r} cannot be audited: {first.note}")
        del probe  # before the next copy is made
    checks = tuple(found[layout, mode, dtype] for layout in LAYOUTS for mode in MODES for dtype in DTYPES)
    leaks = any(check.outcome == "leaks" for check in checks)
    return FullAudit(name, "leaks" if leaks else "causal", checks, time.perf_counter() - started)


def _check(probe: Probe, layout: str, mode: str, dtype: str, lengths: Sequence[int], vocab_size: int) -> Check:
    """All lengths of one combination, to the first leak."""

    def not_run(reason: str) -> Check:
        return Check(layout, mode, dtype, "not run", None, (), 0, note=reason)

    if layout.endswith("padding") and not probe.takes("attention_mask"):
        return not_run("takes no attention_mask")
    packing = next((name for name in PACKING if probe.takes(name)), None)
    if layout == "packed" and packing is None:
        return not_run(f"takes none of {', '.join(PACKING)}")
    apart, note = layout == "packed", f"by {packing}" if layout == "packed" else ""
    done: list[int] = []
    tokens, rounding, responds = 0, 0.0, False
    with probe.own_random_numbers(1):
        for length in lengths:
            case = _case(layout, packing, length, vocab_size, probe.device, apart)
            if case is None:
                continue
            try:
                result = probe.look(case, vocab_size)
                if apart and packing is not None and _only_across(result) and not PACKING[packing]:
                    apart, note = False, f"by {packing}, which does not keep documents apart here"
                    case = _case(layout, packing, length, vocab_size, probe.device, apart)
                    assert case is not None
                    result = probe.look(case, vocab_size)
            except Exception as error:  # any of a hundred architectures may refuse a layout or a dtype in its own way
                return not_run(f"refused at {length} tokens: {reason(error)}")
            done.append(length)
            tokens += len(case.changed)
            rounding, responds = max(rounding, result.rounding), responds or result.responds
            if result.problem is not None:
                return not_run(f"{result.problem} (at {length} tokens)")
            if result.leak is not None:
                by = result.leak.decided_by
                return Check(layout, mode, dtype, "leaks", by, tuple(done), tokens, result.leak, rounding, note)
    if not done:
        return not_run("no length is long enough")
    if not responds:
        return not_run("no logit moves, whatever the token")
    decided_by = "gradient" if rounding else "bits"
    return Check(layout, mode, dtype, "passes", decided_by, tuple(done), tokens, None, rounding, note)


def _case(
    layout: str, packing: str | None, length: int, vocab_size: int, device: torch.device, apart: bool
) -> Case | None:
    if layout == "plain":
        return plain_case(length, vocab_size, device)
    if layout == "packed":
        assert packing is not None
        return packed_case(packing, length, vocab_size, device, apart)
    return padded_case(layout.removesuffix(" padding"), length, vocab_size, device)


def _only_across(result: Finding) -> bool:
    """The logits that moved first are not before the changed token: they belong to a later document."""
    return result.leak is not None and result.leak.moved > result.leak.changed


def reason(error: Exception) -> str:
    """The first line of an error, with its class unless it is a plain refusal."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
