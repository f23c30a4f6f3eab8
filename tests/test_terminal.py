from __future__ import annotations

import io

from rich.console import Console

from rosi_edge.commands.terminal import TerminalProgress


def test_the_time_left_is_known_even_when_units_are_minutes_apart() -> None:
    now = [0.0]
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, get_time=lambda: now[0])
    with TerminalProgress(console) as progress, progress.stage("Model: refusal", 100) as advance:
        # What a batch brings on a slow machine. The first bar cannot know how long its first batch took.
        for _ in range(3):
            now[0] += 90
            advance(20)
        progress._bars.refresh()
    assert "60/100" in screen.getvalue()
    # 20 units in 90 seconds, 40 to go.
    assert "0:03:00" in screen.getvalue()


def test_no_bar_is_drawn_where_there_is_no_terminal() -> None:
    screen = io.StringIO()
    with TerminalProgress(Console(file=screen)) as progress, progress.stage("Model: refusal", 2) as advance:
        advance(1)
        progress.note("a line worth keeping")
    assert screen.getvalue() == "a line worth keeping\n"


def test_long_stages_are_told_in_lines_where_there_is_no_terminal() -> None:
    now = [0.0]
    screen = io.StringIO()
    with TerminalProgress(Console(file=screen, get_time=lambda: now[0])) as progress:
        with progress.stage("Base: refusal", 200) as advance:
            for _ in range(20):
                now[0] += 9
                advance(10)
        with progress.stage("Reading") as advance:
            now[0] += 61
            advance(1234)
    assert screen.getvalue().splitlines() == [
        "Base: refusal: 35%",
        "Base: refusal: 70%",
        "Reading: 1234",
    ]
