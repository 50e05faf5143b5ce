"""Hints at what was meant. Imports nothing heavy."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest; None where none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.7)  # at 0.6 "test" would be near "steps"
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest name, in brackets behind a blank; empty where none is near."""
    close = nearest(name, known)
    return "" if close is None else f" (did you mean {close}?)"
