"""Driving the real application with the fake library."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fake_session import FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.memory import Memory
from rosi_edge_tui.steps import Step
from textual.pilot import Pilot

PATIENCE = 120.0
"""Seconds after which something is taken not to come: a machine with much else to do is slow, not wrong."""

_BORDERS = str.maketrans("┃█", "  ")

Play = Callable[["Driver"], Awaitable[None]]


class Driver:
    """A pilot that waits for what it expects instead of for a time."""

    def __init__(self, wizard: Wizard, pilot: Pilot[Any], library: FakeLibrary) -> None:
        self.wizard, self.journey, self.pilot, self.library = wizard, wizard.journey, pilot, library

    async def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.wizard._exception is not None:
                raise self.wizard._exception
            assert time.monotonic() < end, f"nothing of it came:\n{self.screen()}"
            await asyncio.sleep(0.05)
        await self.pilot.pause()

    async def idle(self) -> None:
        await self.until(lambda: self.journey.jobs.current is None)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def at(self, step: Step) -> None:
        """Wait until a step is shown, nothing works, and a key has somewhere to go."""
        await self.until(
            lambda: (
                self.journey.here is step
                and self.journey.jobs.current is None
                and self.wizard.focused is not None
            )
        )

    async def done(self, step: Step) -> None:
        """Wait until a step is done and nothing works."""
        await self.until(lambda: step in self.journey.done and self.journey.jobs.current is None)

    async def to(self, step: Step) -> None:
        """From the start to a step, by Enter alone."""
        await self.at(Step.MODEL)
        await self.press("enter")
        await self.at(Step.CHECKUP)
        for here in (Step.CHECKUP, Step.CALIBRATE, Step.STRENGTH):
            if step <= here:
                return
            if here is not Step.CHECKUP:
                await self.press("enter")
                await self.done(here)
            await self.press("enter")
            await self.at(Step(here + 1))
        if step > Step.TRY:
            await self.press("enter")
            await self.done(Step.TRY)
            await self.press("enter")
            await self.at(Step.BAKE)
        if step > Step.BAKE:
            await self.press("enter")
            await self.at(Step.REPORT)

    def screen(self) -> str:
        """What stands on the screen, as text."""
        strips = self.wizard.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    def text(self) -> str:
        """The words on the screen, however lines are folded, without the border of a box in between."""
        return " ".join(self.screen().translate(_BORDERS).split())

    def shows(self, *words: str) -> bool:
        """Whether all of this is on the screen."""
        text = self.text()
        return all(word in text for word in words)


def wizard_for(library: FakeLibrary, folder: Path, model: str = "", **more: Any) -> Wizard:
    return Wizard(
        model,
        library=library,  # type: ignore[arg-type]
        memory=Memory(folder / "state"),
        start_folder=library.model.parent,
        **more,
    )


def drive(
    library: FakeLibrary, folder: Path, play: Play, *, model: str = "", size: tuple[int, int] = (80, 24)
) -> Wizard:
    """Run the application in a terminal of this size and play on it."""
    wizard = wizard_for(library, folder, model)

    async def run() -> None:
        async with wizard.run_test(size=size) as pilot:
            await play(Driver(wizard, pilot, library))

    try:
        asyncio.run(run())
    finally:
        library.gate.open()
        wizard.journey.close()
    return wizard
