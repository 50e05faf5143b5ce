"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_bk.figures import clock

LINE_SECONDS = 10.0  # between two plain lines


def describe(loss: float | None, tokens_per_second: float | None) -> str:
    """'loss 5.312  18,204 tokens/s', with what is known."""
    parts = [] if loss is None else [f"loss {loss:.3f}"]
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:,.0f} tokens/s")
    return "  ".join(parts)


def training_progress(name: str, steps: int, done: int = 0, console: Console | None = None) -> "Bar | Lines":
    """Progress of the run `name` that has done `done` of `steps` steps; to `console`, by default standard error.

    Its `update` is called after each step, with loss and speed of the last log line and the seconds of training when
    the clock was last read.
    """
    console = console or Console(stderr=True)
    if done:
        console.print(f"{name}  goes on at step {done} of {steps}", highlight=False, soft_wrap=True, markup=False)
    return Bar(name, steps, done, console) if console.is_terminal else Lines(name, steps, done, console)


class Bar:
    """A live bar of rich: step, loss, tokens a second, time left."""

    def __init__(self, name: str, steps: int, done: int, console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[measured]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            expand=True,
        )
        self.task = self.bar.add_task(name, total=steps, completed=done, measured="")

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, step: int, loss: float | None, tokens_per_second: float | None, seconds: float) -> None:
        self.bar.update(self.task, completed=step, measured=describe(loss, tokens_per_second))


class Lines:
    """A line every few seconds, and one at the end: for logs and pipes."""

    def __init__(self, name: str, steps: int, done: int, console: Console) -> None:
        self.name, self.steps, self.console = name, steps, console
        self.first_step, self.first_seconds = done, None if done else 0.0
        self.read_at, self.seconds = done, self.first_seconds
        self.printed = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, step: int, loss: float | None, tokens_per_second: float | None, seconds: float) -> None:
        if self.first_seconds is None:  # a resumed run: its speed is that of this call
            self.first_step, self.first_seconds = step, seconds
        if seconds != self.seconds:  # the clock is not read at every step
            self.read_at, self.seconds = step, seconds
        if step < self.steps and time.monotonic() - self.printed < LINE_SECONDS:
            return
        self.printed = time.monotonic()
        parts = [self.name, f"step {step}/{self.steps}", describe(loss, tokens_per_second)]
        if step == self.steps:
            parts.append(f"done in {clock(seconds)}")
        elif self.read_at > self.first_step:
            of_a_step = (seconds - self.first_seconds) / (self.read_at - self.first_step)
            parts.append(f"{clock(of_a_step * (self.steps - step))} left")
        self.console.print("  ".join(filter(None, parts)), highlight=False, soft_wrap=True, markup=False)


@contextmanager
def counter(
    name: str, console: Console | None = None, patience: float = 0.0, end: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows a growing count, and its end where that is known; silent if it is never called, and of work that takes less
    than `patience` seconds."""
    console = console or Console(stderr=True)
    of_all = "" if end is None else f" of {end:,}"
    started = shown = time.monotonic()
    count = 0

    def update(total: int) -> None:
        nonlocal count, shown
        count = total
        now = time.monotonic()
        if now - started >= patience and now - shown >= (0.2 if console.is_terminal else LINE_SECONDS):
            shown = now
            line_end = "\r" if console.is_terminal else "\n"
            console.print(f"{name}: {total:,}{of_all}", end=line_end, highlight=False, soft_wrap=True, markup=False)

    yield update
    if count and time.monotonic() - started >= patience:
        done = f"{name}: {count:,} in {clock(time.monotonic() - started)}"
        console.print(done, highlight=False, soft_wrap=True, markup=False)
