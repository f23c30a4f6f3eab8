"""The first step: lists, the browser, typed and dragged paths, MODEL on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drive_wizard import Driver
from fake_session import FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.panes.model import cleaned
from rosi_edge_tui.steps import Step
from textual import events
from textual.widgets import DirectoryTree, Input

Play = Callable[..., Wizard]


@pytest.mark.parametrize(
    ("pasted", "path"),
    [
        ("/a/b.gguf", "/a/b.gguf"),
        ("  /a/b.gguf \n", "/a/b.gguf"),
        ("'/a/with space.gguf' ", "/a/with space.gguf"),
        ("/a/with\\ space.gguf", "/a/with space.gguf"),
        ("file:///a/with%20space.gguf", "/a/with space.gguf"),
        ("it's", "it's"),
        ("hf:org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
        ("two words", "two words"),
    ],
)
def test_dragged_paths(pasted: str, path: str) -> None:
    assert cleaned(pasted) == path


def test_a_file_dragged_in(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.at(Step.MODEL)
        driver.wizard.screen.query_one("#models").focus()
        await driver.pilot.pause()
        driver.wizard.screen.query_one("#models").post_message(events.Paste("'/a/with space.gguf' "))
        field = driver.wizard.screen.query_one("#path", Input)
        await driver.until(lambda: field.value == "/a/with space.gguf" and field.has_focus)
        await driver.press("enter")
        await driver.at(Step.CHECKUP)
        assert driver.journey.choices.model == "/a/with space.gguf"

    play(script)


def test_the_browser_knows_models(play: Play, library: FakeLibrary) -> None:
    (library.model.parent / "notes.txt").write_text("not a model")
    (library.model.parent / ".hidden.gguf").write_bytes(b"GGUF")
    (library.model.parent / "more").mkdir()

    async def script(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("qwen2.5-coder", "491 MB Q4_K_M", "more"))
        assert not driver.shows("notes.txt")
        assert not driver.shows("hidden")
        driver.wizard.screen.query_one(DirectoryTree).focus()
        await driver.press("down", "down", "enter")
        await driver.at(Step.CHECKUP)
        assert Path(driver.journey.choices.model).name == library.model.name

    play(script, size=(160, 50))


def test_named_on_the_command_line(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.at(Step.CHECKUP)
        assert driver.shows("✓ yes")

    assert play(script, model=str(library.model)).journey.choices.model == str(library.model)


def test_recent_models_come_first(play: Play, library: FakeLibrary, own_folder: Path) -> None:
    async def first(driver: Driver) -> None:
        await driver.at(Step.CHECKUP)
        await driver.idle()

    async def second(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("Start anew"))
        await driver.press("escape")
        await driver.until(lambda: driver.shows("recent, 491 MB Q4_K_M"))
        await driver.press("enter")
        await driver.at(Step.CHECKUP)
        assert driver.journey.choices.model == str(library.model.absolute())

    play(first, model=str(library.model))
    play(second)


def test_another_model_starts_afresh(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.STRENGTH)
        await driver.press("f3", "f3", "f3")
        await driver.at(Step.MODEL)
        await driver.press("down", "enter")
        await driver.at(Step.CHECKUP)
        assert driver.journey.choices.model == "demo:smollm2-135m"
        assert driver.journey.done == {Step.MODEL, Step.CHECKUP}
        await driver.until(lambda: library.sessions[0].closed)
        assert not library.sessions[1].closed

    play(script)
