"""What was meant: the nearest name, a folder of the home. Imports nothing heavy."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest; None where none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.7)  # at 0.6 "test" would be near "steps"
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest name, in brackets behind a blank; empty where none is near."""
    close = nearest(name, known)
    return "" if close is None else f" (did you mean {close}?)"


def in_home(text: str, where: str) -> Path:
    """A path with ~ for the home, as a shell understands it.

    Args:
        text: the path.
        where: what it is of, for the message.

    Raises:
        ValueError: it is below the home of a user who is not there.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{where}={text}: {str(error).rstrip('.')}; name a folder that can be written") from error
