"""What every screen looks like, at two sizes, dark and light; and the picture in the README.

After a wanted change: ``pytest tests/tui/test_snapshots.py --snapshot-update``, and look at what it wrote.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from drive_wizard import Driver, wizard_for
from fake_session import FakeLibrary, plan
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.choices import Choices
from rosi_edge_tui.steps import Step
from textual.pilot import Pilot
from textual.widgets import Input

from rosi_edge.errors import EngineCrashError
from rosi_edge.evaluation.judges.keyword import KeywordJudge

Script = Callable[[Driver], Awaitable[None]]

SMALL, LARGE = (80, 24), (160, 50)
PICTURE = Path(__file__).parents[2] / "docs" / "wizard.svg"


@pytest.fixture
def still(library: FakeLibrary, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Wizard:
    """A wizard in which nothing depends on the clock, the machine or the prompts of a release."""
    monkeypatch.setattr(Choices, "requests", lambda choices: (plan(), KeywordJudge(), None))
    return wizard_for(library, own_folder, clock=lambda: 0.0)


def before(wizard: Wizard, library: FakeLibrary, script: Script) -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def run(pilot: Pilot[Any]) -> None:
        driver = Driver(wizard, pilot, library)
        # The browser reads files in a thread of its own.
        await driver.until(lambda: driver.shows("Q4_K_M") or driver.shows("qwen2.5-coder-0.5b-instruct"))
        await script(driver)
        for field in wizard.screen.query(Input):
            field.cursor_blink = False
        await driver.pilot.pause()

    return run


async def model(driver: Driver) -> None:
    await driver.at(Step.MODEL)
    await driver.until(lambda: driver.journey.peek.known)
    await driver.pilot.pause(0.3)


async def checkup(driver: Driver) -> None:
    await driver.to(Step.CHECKUP)


async def calibrating(driver: Driver) -> None:
    await driver.to(Step.CALIBRATE)
    driver.library.gate.close()
    await driver.press("enter")
    await driver.until(lambda: driver.shows("60 of 120"))


async def calibrated(driver: Driver) -> None:
    await driver.to(Step.CALIBRATE)
    await driver.press("enter")
    await driver.done(Step.CALIBRATE)


async def searching(driver: Driver) -> None:
    await driver.to(Step.STRENGTH)
    driver.library.gate.close()
    await driver.press("enter")
    await driver.until(lambda: driver.shows("8 of 16"))


async def searched(driver: Driver) -> None:
    await driver.to(Step.STRENGTH)
    await driver.press("enter")
    await driver.done(Step.STRENGTH)


async def tried(driver: Driver) -> None:
    await driver.to(Step.TRY)
    await driver.press("enter")
    await driver.done(Step.TRY)


async def baking(driver: Driver) -> None:
    await driver.to(Step.BAKE)
    driver.library.gate.close()
    driver.library.gate.waiting.clear()
    await driver.press("enter")
    await driver.until(lambda: driver.shows("60 of 120"))


async def rounding(driver: Driver) -> None:
    await driver.to(Step.BAKE)
    driver.library.held = {"bake"}
    driver.library.gate.close()
    await driver.press("enter")
    await driver.until(lambda: driver.shows("6 of 12", "blk.14.ffn_down.weight"))


async def report(driver: Driver) -> None:
    await driver.to(Step.REPORT)
    await driver.pilot.pause(0.2)


async def settings(driver: Driver) -> None:
    await driver.to(Step.CHECKUP)
    await driver.press("f5")
    await driver.until(lambda: driver.shows("Advanced settings", "min-compliance"))


async def help_panel(driver: Driver) -> None:
    await driver.at(Step.MODEL)
    await driver.press("f1")
    await driver.until(lambda: driver.shows("Choose a chat model"))


async def crash(driver: Driver) -> None:
    driver.library.fails["calibrate"] = EngineCrashError(
        "llama.cpp crashed (SIGSEGV) while running a-model.gguf",
        "The file may be damaged, or need more memory than there is; try a smaller -c",
    )
    await driver.to(Step.CALIBRATE)
    await driver.press("enter")
    await driver.until(lambda: driver.shows("SIGSEGV"))
    await driver.idle()


SCRIPTS: dict[str, Script] = {
    script.__name__: script
    for script in (
        *(model, checkup, calibrating, calibrated, searching, searched, tried, baking, rounding, report),
        *(settings, help_panel, crash),
    )
}


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_screen(
    snap_compare: Any, still: Wizard, library: FakeLibrary, name: str, size: tuple[int, int]
) -> None:
    try:
        assert snap_compare(still, terminal_size=size, run_before=before(still, library, SCRIPTS[name]))
    finally:
        library.gate.open()
        still.journey.close()


@pytest.mark.parametrize("name", ["searched", "report"])
def test_light(snap_compare: Any, still: Wizard, library: FakeLibrary, name: str) -> None:
    async def lit(driver: Driver) -> None:
        await SCRIPTS[name](driver)
        await driver.press("f2")

    try:
        assert snap_compare(still, terminal_size=SMALL, run_before=before(still, library, lit))
    finally:
        still.journey.close()


def test_picture_for_the_readme(still: Wizard, library: FakeLibrary, request: pytest.FixtureRequest) -> None:
    """The picture in docs is what the wizard looks like; ``--snapshot-update`` draws it anew."""
    import asyncio

    pictures: list[str] = []

    async def run() -> None:
        async with still.run_test(size=(100, 32)) as pilot:
            await before(still, library, searched)(pilot)
            pictures.append(still.export_screenshot(title="rosi-edge tui demo"))

    try:
        asyncio.run(run())
    finally:
        still.journey.close()
    if request.config.getoption("--snapshot-update"):
        PICTURE.write_text(pictures[0], "utf-8")
    assert PICTURE.read_text("utf-8") == pictures[0]
