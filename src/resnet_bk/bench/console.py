"""Where the commands print."""

from collections.abc import Callable

from rich.console import Console


def standard_output() -> Console:
    """Wide enough for the table where nobody says how wide."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def speaker(console: Console) -> Callable[[str], None]:
    """Prints lines as they are: never wrapped, no markup."""
    return lambda text: console.print(text, soft_wrap=True, highlight=False, markup=False)
