"""Quitting half-way and starting again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drive_wizard import Driver
from fake_session import FRONTIER, FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.memory import RECENT_KEPT, Memory
from rosi_edge_tui.screens.advanced import Advanced
from rosi_edge_tui.screens.question import Question
from rosi_edge_tui.steps import Step
from textual.widgets import Input, Select

Play = Callable[..., Wizard]


def test_half_way_and_on(
    play: Play, library: FakeLibrary, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.TRY)
        await driver.press("f3")
        driver.wizard.screen.query_one("#slider").focus()
        await driver.press("right")
        await driver.until(lambda: library.sessions[0].applied == [0.53])
        await driver.idle()
        await driver.press("ctrl+q")

    async def second(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("Go on where you stopped?", "demo", "step 5, Try it"))
        await driver.press("enter")
        await driver.at(Step.TRY)
        assert Path.cwd() == own_folder, "where it was stopped"
        assert library.sessions[1].chosen is FRONTIER[2], "the point taken by hand"
        assert library.sessions[1].options.conditional.folder == own_folder / "state" / "searches"

    play(first)
    monkeypatch.chdir("/")
    library.steps.clear()
    play(second)
    assert library.steps == ["resolve", "calibrate", "search"]


def test_a_search_half_way(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.STRENGTH)
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        await driver.press("ctrl+q", "enter")

    async def second(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("step 4, Strength"))
        await driver.press("enter")
        await driver.at(Step.STRENGTH)
        assert driver.journey.done == {Step.MODEL, Step.CHECKUP, Step.CALIBRATE}
        await driver.press("enter")
        await driver.until(lambda: Step.STRENGTH in driver.journey.done)

    play(first)
    library.gate.cancelled.clear()
    play(second)


async def go_on(driver: Driver, step: Step) -> None:
    await driver.until(lambda: isinstance(driver.wizard.screen, Question))
    await driver.press("enter")
    await driver.at(step)


def test_settings_are_kept_from_when_they_are_accepted(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.STRENGTH)
        await driver.press("f5")
        await driver.until(lambda: isinstance(driver.wizard.screen, Advanced))
        driver.wizard.screen.query_one("#max_kl", Input).value = "0.5"
        await driver.press("f5")
        await driver.until(lambda: len(driver.wizard.screen_stack) == 1)
        await driver.press("ctrl+q")

    async def second(driver: Driver) -> None:
        await go_on(driver, Step.STRENGTH)
        assert driver.journey.choices.text("max_kl") == "0.5"
        assert library.sessions[-1].options.conditional.max_kl == 0.5

    play(first)
    play(second)


def test_a_name_is_kept_from_when_the_bake_begins(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        driver.wizard.screen.query_one("#output", Input).value = "models/mine.gguf"
        library.held = {"bake"}
        library.gate.close()
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Rounding tensors"))
        await driver.press("ctrl+q", "enter")

    async def second(driver: Driver) -> None:
        await go_on(driver, Step.BAKE)
        assert driver.wizard.screen.query_one("#output", Input).value == "models/mine.gguf"

    play(first)
    library.gate.cancelled.clear()
    play(second)


def test_what_is_done_again_is_not_remembered_as_done(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.REPORT)
        await driver.press(*["f3"] * 4)
        await driver.at(Step.CALIBRATE)
        library.gate.close()
        library.gate.waiting.clear()
        driver.wizard.pane(Step.CALIBRATE).press_again()
        await driver.until(library.gate.waiting.is_set)
        await driver.press("ctrl+q", "enter")

    async def second(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("step 3, Calibrate"))

    play(first)
    library.gate.cancelled.clear()
    play(second)


def test_quitting_on_the_way_there_goes_there_the_next_time(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.TRY)

    async def second(driver: Driver) -> None:
        library.held = {"calibrate"}
        library.gate.close()
        library.gate.waiting.clear()
        await driver.until(lambda: isinstance(driver.wizard.screen, Question))
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Reading activations"))
        await driver.press("ctrl+q", "enter")

    async def third(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("step 5, Try it"))

    play(first)
    play(second)
    play(third)


def test_a_remembered_kind_that_is_no_more(play: Play, own_folder: Path) -> None:
    (own_folder / "state").mkdir()
    (own_folder / "state" / "wizard.json").write_text(
        '{"model": "demo", "step": 3, "texts": {"method": "older"}}'
    )

    async def script(driver: Driver) -> None:
        await go_on(driver, Step.CHECKUP)
        assert driver.shows("'older' is not one of")
        await driver.press("f5")
        await driver.until(lambda: isinstance(driver.wizard.screen, Advanced))
        assert driver.wizard.screen.query_one("#method", Select).value == "conditional"
        await driver.press("f5")
        await driver.until(lambda: len(driver.wizard.screen_stack) == 1)
        await driver.press("enter")
        await driver.done(Step.CHECKUP)

    play(script)


def test_a_problem_ends_going_on_by_itself(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.TRY)

    async def second(driver: Driver) -> None:
        library.fails["calibrate"] = MemoryError()
        await driver.until(lambda: isinstance(driver.wizard.screen, Question))
        await driver.press("enter")
        await driver.at(Step.CALIBRATE)
        await driver.until(lambda: driver.shows("not enough memory"))
        await driver.press("enter")
        await driver.done(Step.CALIBRATE)
        assert driver.journey.here is Step.CALIBRATE

    play(first)
    play(second)


def test_all_done_is_not_gone_on_with(play: Play) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.REPORT)

    async def second(driver: Driver) -> None:
        await driver.pilot.pause(0.3)
        assert len(driver.wizard.screen_stack) == 1
        assert driver.journey.here is Step.MODEL

    play(first)
    play(second)


def test_another_model_named_is_not_asked_about(play: Play, library: FakeLibrary) -> None:
    async def first(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)

    async def second(driver: Driver) -> None:
        await driver.at(Step.CHECKUP)
        assert driver.journey.choices.model == str(library.model)

    play(first)
    play(second, model=str(library.model))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"step": 99}', b'{"recent": 3}', b'{"theme": "no such", "step": null}', b"\xff"],
)
def test_a_damaged_memory_is_an_empty_one(play: Play, own_folder: Path, content: bytes) -> None:
    (own_folder / "state").mkdir()
    (own_folder / "state" / "wizard.json").write_bytes(content)
    memory = Memory(own_folder / "state")
    assert memory.now.step is None
    assert memory.now.recent == []
    memory.close()


def test_an_unknown_theme_is_the_default(play: Play, own_folder: Path) -> None:
    (own_folder / "state").mkdir()
    (own_folder / "state" / "wizard.json").write_bytes(b'{"theme": "no such"}')

    async def script(driver: Driver) -> None:
        assert driver.wizard.theme == "textual-dark"

    play(script)


def test_recent_models_are_few_and_once(own_folder: Path) -> None:
    memory = Memory(own_folder / "state")
    for number in (*range(12), 5):
        memory.used(f"{number}.gguf")
    memory.close()
    recent = Memory(own_folder / "state").now.recent
    assert recent[:3] == ["5.gguf", "11.gguf", "10.gguf"]
    assert len(recent) == len(set(recent)) == RECENT_KEPT


def test_a_state_folder_that_cannot_be_written_disturbs_nobody(play: Play, own_folder: Path) -> None:
    (own_folder / "state").write_text("a file")

    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)

    play(script)
