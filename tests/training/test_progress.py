"""What a user sees of a run."""

import io

import pytest
from rich.console import Console

from resnet_bk.figures import clock
from resnet_bk.training import progress
from resnet_bk.training.progress import Bar, Lines, counter, training_progress


@pytest.fixture
def paper():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=100, force_terminal=True)


def test_lines_where_nobody_watches(paper, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with training_progress("gpt2", 10, 0, paper) as display:
        assert isinstance(display, Lines)
        display.update(1, None, None, 2.0)
        display.update(5, 3.25, 12345.6, 10.0)
        display.update(10, 3.0, 12000.0, 20.0)
    assert paper.file.getvalue().splitlines() == [
        "gpt2  step 1/10  0:18 left",
        "gpt2  step 5/10  loss 3.250  12,346 tokens/s  0:10 left",
        "gpt2  step 10/10  loss 3.000  12,000 tokens/s  done in 0:20",
    ]


def test_few_lines_but_always_the_last(paper):
    with training_progress("gpt2", 3, 0, paper) as display:
        for step in (1, 2, 3):
            display.update(step, 3.0, 100.0, float(step))
    assert len(paper.file.getvalue().splitlines()) == 1


def test_a_resumed_run_estimates_from_its_own_speed(paper, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with training_progress("gpt2", 10, 4, paper) as display:
        display.update(5, None, None, 100.0)
        display.update(6, None, None, 101.0)
    assert "0:04 left" in paper.file.getvalue()
    assert paper.file.getvalue().splitlines()[0] == "gpt2  goes on at step 4 of 10"


def test_the_time_left_is_of_the_steps_that_were_timed(paper, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with training_progress("gpt2", 100, 0, paper) as display:
        for step in (10, 20, 30):  # the clock is read at every 20th
            display.update(step, None, None, 40.0 if step >= 20 else 0.0)
    assert paper.file.getvalue().splitlines() == [
        "gpt2  step 10/100",
        "gpt2  step 20/100  2:40 left",
        "gpt2  step 30/100  2:20 left",
    ]


def test_a_bar_on_a_terminal(screen):
    with training_progress("llama", 4, 0, screen) as display:
        assert isinstance(display, Bar)
        display.update(4, 2.5, 1000.0, 1.0)
    assert "llama" in screen.file.getvalue()
    assert "loss 2.500  1,000 tokens/s" in screen.file.getvalue()


def test_counter(paper, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with counter("tokens", paper) as update:
        update(1000)
        update(2500)
    assert paper.file.getvalue().startswith("tokens: 1,000\ntokens: 2,500\ntokens: 2,500 in 0:0")


def test_a_counter_that_knows_its_end(paper, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with counter("tokens", paper, end=2500) as update:
        update(1000)
    assert paper.file.getvalue().startswith("tokens: 1,000 of 2,500\ntokens: 1,000 in 0:0")


def test_a_counter_waits_before_it_speaks(paper, monkeypatch):
    seconds = iter([0.0, 4.0, 12.0, 13.0, 31.0, 31.0])  # it begins, three updates, it ends
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with counter("tokens", paper, patience=10.0) as update:
        for total in (100, 200, 300):
            update(total)
    assert paper.file.getvalue() == "tokens: 200\ntokens: 300 in 0:31\n"


def test_a_counter_of_quick_work_is_silent(paper, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with counter("tokens", paper, patience=10.0) as update:
        update(7)
    assert paper.file.getvalue() == ""


def test_a_counter_shows_brackets(paper):
    with counter("tokens of notes[final].txt", paper) as update:
        update(7)
    assert "notes[final].txt" in paper.file.getvalue()


def test_a_counter_is_never_wrapped(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    narrow, name = Console(file=io.StringIO(), width=20), "a name that is longer than the console"
    with counter(name, narrow) as update:
        update(7)
    lines = narrow.file.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{name}: 7") for line in lines)


def test_a_counter_without_work_is_silent(paper):
    with counter("tokens", paper):
        pass
    assert paper.file.getvalue() == ""


def test_clock():
    assert [clock(7), clock(67), clock(3607)] == ["0:07", "1:07", "1:00:07"]
