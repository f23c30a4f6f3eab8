"""Everything that can go wrong is said at the step where it happens, and the step can be taken again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drive_wizard import Driver
from fake_session import FakeLibrary, inspection
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.steps import Step
from rosi_edge_tui.widgets.problem import words
from textual.widgets import Input

from rosi_edge.errors import (
    EngineCrashError,
    FetchError,
    ModelFileError,
    OutputError,
    RosiEdgeError,
    UnsupportedModelError,
)
from rosi_edge.inspection import NO_TEMPLATE

Play = Callable[..., Wizard]

PROBLEMS: list[tuple[str, Step, BaseException]] = [
    ("resolve", Step.MODEL, FetchError("pip could not download it", "Check the network")),
    ("inspect", Step.CHECKUP, ModelFileError("the file ends before its tensors do", "Fetch it again")),
    ("open", Step.CHECKUP, UnsupportedModelError("it has been hardened before", "Harden the original file")),
    (
        "calibrate",
        Step.CALIBRATE,
        EngineCrashError("llama.cpp crashed (SIGSEGV)", "The file may be damaged; try a smaller -c"),
    ),
    ("search", Step.STRENGTH, RosiEdgeError("the storage cannot be used", "Give an Optuna storage URL")),
    ("answer", Step.TRY, EngineCrashError("llama.cpp crashed (SIGABRT)", "Try a smaller -c")),
    ("check_target", Step.BAKE, OutputError("the folder x does not exist", "Create it")),
    ("check_report_folder", Step.BAKE, OutputError("the folder y is not writable", "Choose another")),
    ("measure_before", Step.BAKE, MemoryError()),
    ("bake", Step.BAKE, OutputError("the disk was full before it was written", "Free some space")),
    ("measure_after", Step.BAKE, OSError(errno.ENOENT, os.strerror(errno.ENOENT), "draft.gguf")),
    ("finish", Step.BAKE, PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out.gguf")),
    ("write_report", Step.BAKE, OutputError("the disk was full before report.md", "Free some space")),
    ("search", Step.STRENGTH, ZeroDivisionError("division by zero")),
]


@pytest.mark.parametrize(("at", "step", "error"), PROBLEMS, ids=lambda value: str(value)[:16])
def test_a_problem_is_shown_and_the_step_can_be_taken_again(
    play: Play, library: FakeLibrary, at: str, step: Step, error: BaseException
) -> None:
    library.fails[at] = error

    async def script(driver: Driver) -> None:
        wizard = driver.wizard
        if step is Step.MODEL:
            await driver.at(Step.MODEL)
        elif step is Step.CHECKUP:
            await driver.press("enter")
            await driver.at(step)
        else:
            await driver.to(step)
        if step is not Step.CHECKUP:
            await driver.press("enter")
        expected = " ".join(words(error).split())
        await driver.until(lambda: driver.journey.jobs.current is None and driver.shows("✗", expected))
        assert wizard.journey.here is step
        if isinstance(error, EngineCrashError):
            assert driver.shows("the model is loaded anew")
        if isinstance(error, ZeroDivisionError):
            assert driver.shows("This is a fault of rosi-edge")
        # Enter, without anything else, tries again and works this time.
        await driver.press("enter")
        await driver.done(step)
        assert not driver.shows("✗")

    play(script)
    if at == "write_report":
        assert library.steps.count("bake") == 1, "the file was whole, only its report was missing"
    if step is Step.BAKE:
        assert library.model.read_bytes() == b"GGUF"


def test_a_file_that_cannot_be_hardened(play: Play, library: FakeLibrary) -> None:
    library.inspected = inspection(
        library.model,
        can_harden=False,
        chat_template=False,
        reasons=[NO_TEMPLATE],
        name="[bold]evil[/] \x1b[31mname",
    )

    async def script(driver: Driver) -> None:
        await driver.at(Step.MODEL)
        await driver.press("enter")
        await driver.at(Step.CHECKUP)
        assert driver.shows("✗ no: the file has no chat template", "[bold]evil[/]")
        await driver.press("f4")
        assert driver.journey.here is Step.CHECKUP
        await driver.press("enter")
        await driver.at(Step.MODEL)

    play(script)
    assert library.sessions == []


def test_a_template_makes_a_base_model_chat(play: Play, library: FakeLibrary) -> None:
    library.inspected = inspection(
        library.model, can_harden=False, chat_template=False, reasons=[NO_TEMPLATE]
    )
    Path("template.jinja").write_text("{{ messages[0]['content'] }}")

    async def script(driver: Driver) -> None:
        await driver.at(Step.MODEL)
        await driver.press("enter")
        await driver.at(Step.CHECKUP)
        assert driver.shows("✗ no: the file has no chat template")
        await driver.press("f5")
        await driver.until(lambda: driver.shows("Advanced settings"))
        driver.wizard.screen.query_one("#template", Input).value = "template.jinja"
        await driver.press("f5")
        await driver.until(lambda: len(driver.wizard.screen_stack) == 1)
        await driver.press("enter")
        await driver.done(Step.CHECKUP)
        assert driver.shows("✓ yes")

    play(script)
    assert len(library.sessions) == 1


@pytest.mark.parametrize("step", [Step.MODEL, Step.CALIBRATE, Step.STRENGTH, Step.TRY, Step.BAKE])
def test_every_long_step_stops_within_a_second_and_goes_again(
    play: Play, library: FakeLibrary, step: Step
) -> None:
    async def script(driver: Driver) -> None:
        wizard = driver.wizard
        if step is Step.MODEL:
            await driver.at(step)
        else:
            await driver.to(step)
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        start = time.monotonic()
        await driver.press("escape")
        await driver.until(lambda: wizard.journey.jobs.current is None)
        stopped = time.monotonic() - start
        assert driver.shows("■ Stopped. Nothing is lost")
        # Measured here on a fake; the allowance is for a busy machine, not for the wizard.
        assert stopped < 5, stopped
        assert step not in wizard.journey.done
        library.gate.open()
        await driver.pilot.pause(0.1)
        library.gate.cancelled.clear()
        await driver.press("enter")
        await driver.until(lambda: step in wizard.journey.done)

    play(script)


def test_work_goes_on_while_one_looks_elsewhere(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.STRENGTH)
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        await driver.press("f3")
        assert driver.journey.here is Step.CALIBRATE
        await driver.press("tab", "f5")
        assert len(driver.wizard.screen_stack) == 1, "settings wait for the work"
        # Calibrating now is refused: one thing at a time.
        driver.wizard.pane(Step.CALIBRATE).press_again()
        await driver.pilot.pause()
        assert driver.shows("Another step is still working")
        assert Step.CALIBRATE in driver.journey.done, "nothing was thrown away for it"
        library.gate.open()
        await driver.until(lambda: Step.STRENGTH in driver.journey.done)
        assert driver.journey.here is Step.CALIBRATE

    play(script)


def test_nothing_is_thrown_away_while_another_step_works(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        wizard = driver.wizard
        await driver.to(Step.BAKE)
        library.held = {"measure_after"}
        library.gate.close()
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Hardened file on the reporting prompts"))
        await driver.press("f3", "f3")
        done = set(wizard.journey.done)
        wizard.pane(Step.STRENGTH).press_again()
        await driver.pilot.pause()
        assert driver.shows("Another step is still working", "Continue ›")
        assert wizard.journey.done == done
        library.gate.open()
        await driver.done(Step.BAKE)
        await driver.press("f4", "f4", "f4")
        assert wizard.journey.here is Step.REPORT

    play(script)


def test_another_model_waits_for_the_work(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        wizard = driver.wizard
        await driver.to(Step.REPORT)
        await driver.press("f3", "f3")
        await driver.at(Step.TRY)
        wizard.screen.query_one("#request", Input).value = "a request"
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        await driver.press("f4", "f4")
        assert wizard.journey.here is Step.REPORT
        wizard.pane(Step.REPORT).press_again()
        await driver.pilot.pause()
        assert wizard.journey.here is Step.REPORT
        assert driver.shows("Another step is still working")
        assert not library.sessions[0].closed
        library.gate.open()
        await driver.idle()
        wizard.pane(Step.REPORT).press_again()
        await driver.at(Step.MODEL)

    wizard = play(script)
    assert (wizard.journey.memory.now.step, wizard.journey.memory.now.model) == (None, "demo"), "all was done"


@pytest.mark.parametrize("at", ["resolve", "open"])
def test_quitting_while_something_is_fetched_or_opened(
    play: Play, library: FakeLibrary, own_folder: Path, at: str
) -> None:
    library.held = {at}

    async def script(driver: Driver) -> None:
        await driver.at(Step.MODEL)
        if at == "open":
            await driver.press("enter")
            await driver.at(Step.CHECKUP)
            library.sessions.clear()
            driver.journey._reopen()
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        await driver.press("ctrl+q")
        await driver.until(lambda: driver.shows("Quit?"))
        await driver.press("enter")

    wizard = play(script)
    assert wizard.return_value is None
    assert wizard.journey.jobs.current is None
    assert all(session.closed for session in library.sessions)
    with pytest.raises(RuntimeError, match="after shutdown"):
        wizard.journey.memory.save()


def test_each_part_is_closed_whatever_happens_to_the_others(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)

    wizard = play(script)
    closed: list[str] = []

    def close(name: str) -> Callable[[], None]:
        def closing() -> None:
            closed.append(name)
            raise OSError(name)

        return closing

    parts = {
        "jobs": wizard.journey.jobs,
        "session": wizard.journey.session,
        "peek": wizard.journey.peek,
        "memory": wizard.journey.memory,
    }
    for name, part in parts.items():
        part.close = close(name)  # type: ignore[union-attr, method-assign]
    with pytest.raises(OSError, match="memory"):
        wizard.journey.close()
    assert closed == list(parts)


def test_quitting_while_working_is_asked_and_leaves_nothing_running(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        await driver.press("ctrl+q")
        await driver.until(lambda: driver.shows("Quit?", "still working"))
        await driver.press("enter")

    wizard = play(script)
    assert wizard.return_value is None
    assert library.sessions[0].closed
    assert wizard.journey.jobs.current is None


def test_an_empty_name_for_the_new_file(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        field = driver.wizard.screen.query_one("#output", Input)
        field.value = "  "
        field.focus()
        await driver.press("enter")
        assert driver.shows("Give the new file a name")
        assert "bake" not in library.steps

    play(script)
