"""Does the wizard stall, and does it stop when told to: ``python benchmarks/wizard.py [MODEL]``.

Drives the real application over the real library, on MODEL (default: demo) with few prompts, from model to
report. It runs in this terminal's place (Textual's pilot, 100×30): all is drawn and nothing is shown.

Printed for every piece of work is the longest time for which the application's event loop had no turn, which
is the longest a key waits or a frame is late; for every step the time from Esc to the step being over, at
several moments of it; and whether the step, taken again, comes to its end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosi_edge_tui.app import Wizard
from rosi_edge_tui.choices import YES
from rosi_edge_tui.memory import Memory
from rosi_edge_tui.steps import Step
from textual.pilot import Pilot

from rosi_edge.inspection import inspect
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.sources.resolve import resolve

PROMPTS = 45
"""Of each kind; the tool splits them into three parts."""
FRAME, STOPPED = 0.100, 1.0
"""Goals, in seconds."""
PATIENCE = 400.0
TURN = 0.005

Moment = Callable[[Any], bool]
"""Whether a job has come to a certain point; gets its activity."""


class Watch:
    """Sees every turn of the event loop, what works meanwhile, and when it ended."""

    def __init__(self, wizard: Wizard) -> None:
        self._wizard = wizard
        self.gaps: dict[str, list[float]] = defaultdict(list)
        self.ended = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        before = ""
        while True:
            await asyncio.sleep(TURN)
            now = time.perf_counter()
            job = self._wizard.jobs.current
            work = "" if job is None else name_of(job.activity)
            if before and not work:
                self.ended = now
            self.gaps[work or before or "nothing works"].append(max(0.0, now - last - TURN))
            before, last = work, now


def name_of(activity: Any) -> str:
    stages = activity.stages
    return f"{activity.title}: {stages[0].description}" if stages else str(activity.title)


def begun(seconds: float) -> Moment:
    return lambda activity: activity.seconds >= seconds


def at(words: str, done: int = 1) -> Moment:
    return lambda activity: any(
        words in stage.description and stage.done >= done for stage in activity.stages
    )


class Player:
    """Presses keys and waits for what they bring."""

    def __init__(self, wizard: Wizard, pilot: Pilot[Any], watch: Watch, folder: Path) -> None:
        self.wizard, self._pilot, self._watch, self._folder = wizard, pilot, watch, folder
        self.stops: list[tuple[str, str, float | None, str]] = []

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)
        await self._pilot.pause()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end or (self.idle() and self.trouble()):
                raise RuntimeError(f"{what} did not come:\n{self.screen()}")
            await asyncio.sleep(TURN)

    def screen(self) -> str:
        strips = self.wizard.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    def idle(self) -> bool:
        return self.wizard.jobs.current is None

    def trouble(self) -> bool:
        """Whether a problem is shown, and not only that the work was stopped."""
        problem = self.wizard.pane(self.wizard.here).problem
        return bool(problem.display and not problem.has_class("-stopped"))

    async def done(self, step: Step) -> None:
        await self.until(lambda: step in self.wizard.done and self.idle(), f"the end of {step.title}")

    async def opened(self, step: Step) -> None:
        await self.until(lambda: self.wizard.here is step and self.idle(), f"the step {step.title}")

    async def stop(self, step: Step, title: str, name: str, moment: Moment) -> None:
        """Start a step, press Esc at a moment of its work, and wait until it is over."""
        wizard, job = self.wizard, self.wizard.jobs

        def there() -> bool:
            current = job.current
            return step in wizard.done or (
                current is not None and current.activity.title == title and moment(current.activity)
            )

        await self.press("enter")
        await self.until(there, f"{name} of {step.title}")
        if step in wizard.done:
            self.stops.append((step.title, name, None, "over before it could be stopped"))
            return
        start = time.perf_counter()
        await self.press("escape")
        await self.until(self.idle, f"stopping {name} of {step.title}")
        # The watch has its own turns.
        await asyncio.sleep(5 * TURN)
        seconds = self._watch.ended - start
        hidden = [path.name for path in self._folder.glob(".*") if "hardened" in path.name]
        remark = ""
        if left := [name for name in hidden if name.endswith(".partial")]:
            remark = f"LEFT BEHIND: {', '.join(left)}"
        elif hidden:
            remark = "the draft is whole and kept until the wizard is left: only measuring it is done again"
        self.stops.append((step.title, name, seconds, remark))

    async def harden(self) -> None:
        """From the model to the report."""
        await self.done(Step.CHECKUP)
        await self.press("enter")
        for step, title, moments in PLAN:
            await self.opened(step)
            for name, moment in moments:
                if step not in self.wizard.done:
                    await self.stop(step, title, name, moment)
            if step not in self.wizard.done:
                await self.press("enter")
            await self.done(step)
            stopped = sum(entry[0] == step.title and entry[2] is not None for entry in self.stops)
            print(f"{step.title}: stopped {stopped} times, taken again, and it came to its end", flush=True)
            if step is not Step.BAKE:
                await self.press("enter")
        await self.opened(Step.REPORT)


PLAN: tuple[tuple[Step, str, tuple[tuple[str, Moment], ...]], ...] = (
    (
        Step.CALIBRATE,
        "Calibrating",
        (("the model being loaded", begun(0.3)), ("some seconds in", begun(6)), ("later", begun(15))),
    ),
    (
        Step.STRENGTH,
        "Searching",
        (("as it begins", begun(0.3)), ("some seconds in", begun(6)), ("later", begun(15))),
    ),
    (Step.TRY, "Asking both", (("an answer", at("The original answers", 0)),)),
    (
        Step.BAKE,
        "Baking",
        (
            ("evaluation before", at("Original model on the reporting prompts")),
            ("reading inputs", at("Reading inputs at all positions")),
            ("rounding", at("Rounding tensors")),
            ("rounding, later", at("Rounding tensors", 5)),
            ("evaluation after", at("Hardened file on the reporting prompts")),
        ),
    ),
)


def few_prompts(folder: Path) -> dict[str, str]:
    """Files with the beginnings of the project's own sets, as settings."""
    texts = {}
    for kind, name in (
        (Kind.HARMFUL, "harmful"),
        (Kind.HARMLESS, "harmless"),
        (Kind.SOUNDS_HARMFUL, "sounds_harmful"),
    ):
        lines = [" ".join(text.split()) for text in bundled(kind, Part.CALIBRATION).take(PROMPTS).texts]
        path = folder / f"{name}.txt"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        texts[name] = path.name
    return texts


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def play(model: Path, folder: Path, script: Callable[[Player], Awaitable[None]]) -> tuple[Watch, Player]:
    """The wizard on a model, with settings that mean little work, and a player at its keys."""
    layers = inspect(model).block_count or 2
    wizard = Wizard(str(model), memory=Memory(folder / "state"), start_folder=folder)
    wizard.choices = wizard.choices.set(
        **few_prompts(folder),
        layer=str(round(0.58 * layers)),
        alpha="0.5",
        trials="2",
        no_paper=YES,
        stress="0",
        min_compliance="0",
        max_kl="99",
        min_delivered="0",
        promote="never",
        force=YES,
    )
    watch = Watch(wizard)
    players: list[Player] = []

    async def run() -> None:
        async with wizard.run_test(size=(100, 30)) as pilot:
            watching = asyncio.create_task(watch.run())
            players.append(Player(wizard, pilot, watch, folder))
            try:
                await script(players[0])
            finally:
                watching.cancel()

    try:
        asyncio.run(run())
    finally:
        wizard.close()
    return watch, players[0]


def main() -> None:
    model = resolve(sys.argv[1] if len(sys.argv) > 1 else "demo").absolute()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, working_in(Path(name)):
        watch, player = play(model, Path(name), Player.harden)
        written = (Path(name) / f"{model.stem}-hardened.gguf").exists()
    print(f"\nfrom the model to the report in {time.perf_counter() - start:.0f} s")
    print(f"the hardened file was {'' if written else 'not '}written\n")

    print(f"longest time without a turn of the event loop (goal: at most {1000 * FRAME:.0f} ms)")
    for work, gaps in sorted(watch.gaps.items(), key=lambda entry: -max(entry[1])):
        late = sum(gap > FRAME for gap in gaps)
        print(f"  {1000 * max(gaps):6.0f} ms  {late:4} over the goal of {len(gaps):6} turns  {work}")

    print(f"\nfrom Esc to the step being over (goal: at most {STOPPED:.0f} s)")
    for step, name, seconds, remark in player.stops:
        shown = "     –  " if seconds is None else f"{seconds:6.2f} s"
        print(f"  {shown}  {step}, {name}{'; ' + remark if remark else ''}")


if __name__ == "__main__":
    main()
