"""The way through: Enter alone, back and forward, another point, what each step shows."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from drive_wizard import Driver
from fake_session import FRONTIER, FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.choices import YES
from rosi_edge_tui.panes.calibrate import CalibratePane
from rosi_edge_tui.panes.report import ReportPane
from rosi_edge_tui.panes.try_it import TryPane
from rosi_edge_tui.steps import Step
from rosi_edge_tui.widgets.answer_panel import AnswerPanel
from rosi_edge_tui.widgets.interval_strip import IntervalStrip
from rosi_edge_tui.widgets.point_slider import PointSlider
from textual.widgets import DataTable, Input

Play = Callable[..., Wizard]
OUTPUT = Path("qwen2.5-coder-0.5b-instruct-q4_k_m-hardened.gguf")


def test_enter_alone_hardens_a_model(play: Play, library: FakeLibrary) -> None:
    seen: dict[Step, str] = {}

    async def script(driver: Driver) -> None:
        for step in Step:
            if step is not Step.MODEL:
                await driver.to(step) if step is Step.CHECKUP else await on(driver, step)
            seen[step] = driver.screen()
        assert driver.journey.done == set(Step) - {Step.REPORT}
        await driver.press("enter")

    async def on(driver: Driver, step: Step) -> None:
        """From the step before, with Enter."""
        for _ in range(2):
            await driver.press("enter")
            await driver.idle()
            if driver.journey.here is step:
                return
        await driver.at(step)

    wizard = play(script)
    assert wizard.return_value == str(OUTPUT.absolute())
    assert OUTPUT.read_bytes() == b"GGUF"
    assert library.reports == [OUTPUT.with_name(f"{OUTPUT.stem}-report")]
    assert library.steps == [
        *("resolve", "calibrate", "search", "answer", "answer"),
        *("measure_before", "stress_before", "bake", "measure_after", "finish"),
    ]
    assert library.sessions[0].closed
    text = {step: " ".join(screen.split()) for step, screen in seen.items()}
    assert "demo, 491 MB" in text[Step.MODEL]
    assert "✓ yes" in text[Step.CHECKUP]
    assert "24 × attention (Q5_0), 24 × mlp (Q6_K)" in text[Step.CHECKUP]
    assert "harmful" in text[Step.CALIBRATE]
    assert "Hardened, strength 0.46" in text[Step.TRY]
    assert "✓ hardened refusal of harmful requests rose" in text[Step.REPORT]
    assert str(OUTPUT) in text[Step.REPORT].replace(" ", "") or str(OUTPUT) in text[Step.REPORT]


def test_what_calibration_and_search_draw(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        await driver.press("enter")
        await driver.done(Step.CALIBRATE)
        assert driver.shows("◆", "•", "refused 54% of 32")
        await driver.press("enter")
        await driver.at(Step.STRENGTH)
        library.gate.close()
        await driver.press("enter")
        # Points are there while the search still runs.
        await driver.until(lambda: driver.shows("Trying settings", "8 of 16", "Stop"))
        assert driver.screen().count("·") > 4
        library.gate.open()
        await driver.done(Step.STRENGTH)
        assert driver.shows("◆", "○", "□", "refusal 0.775, benign compliance 0.925")

    play(script)


def test_the_slider_applies_a_point_at_once(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.TRY)
        await driver.press("f3")
        await driver.at(Step.STRENGTH)
        session = library.sessions[0]
        slider(driver)
        await driver.press("right")
        await driver.until(lambda: session.applied == [0.53])
        await driver.idle()
        assert session.chosen is FRONTIER[2]
        assert driver.shows("refusal 0.825", "[◉]")
        assert driver.journey.by_hand == (14, 0.53)
        await driver.press("right", "left", "left", "left")
        await driver.until(lambda: session.applied[-1] == 0.4)
        await driver.idle()
        assert session.chosen is FRONTIER[0]
        assert session.applied == [0.53, 0.4], "only where the slider settled"

    play(script)


def slider(driver: Driver) -> PointSlider:
    """The slider, which has the focus from the start: its keys are the first thing to try there."""
    found = driver.wizard.screen.query_one(PointSlider)
    assert found.has_focus
    return found


async def searched(driver: Driver) -> None:
    await driver.to(Step.STRENGTH)
    await driver.press("enter")
    await driver.done(Step.STRENGTH)


def test_enter_on_the_slider_goes_on(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await searched(driver)
        slider(driver)
        await driver.press("right", "enter")
        await driver.at(Step.TRY)
        assert library.sessions[0].chosen is FRONTIER[2]

    play(script)


@pytest.mark.parametrize("moved", [False, True])
def test_keys_while_a_point_is_applied(play: Play, library: FakeLibrary, moved: bool) -> None:
    """Another point is applied next; Enter goes on once the point is applied."""

    async def script(driver: Driver) -> None:
        await searched(driver)
        session, begun, go = library.sessions[0], threading.Event(), threading.Event()

        def apply(strength: float | None) -> None:
            begun.set()
            go.wait(60)
            type(session).apply(session, strength)

        session.apply = apply  # type: ignore[method-assign]
        slider(driver)
        await driver.press("right")
        await driver.until(begun.is_set)
        await driver.press(*(["left", "left"] if moved else []), "enter")
        assert driver.journey.here is Step.STRENGTH
        assert session.chosen is FRONTIER[0 if moved else 2]
        if moved:
            # Long enough for the slider to have settled while the other point is being applied.
            await driver.pilot.pause(0.5)
        go.set()
        await driver.at(Step.TRY)
        assert session.applied == ([0.53, 0.4] if moved else [0.53])

    play(script)


def test_asking_right_after_a_move_does_not_wait(play: Play, library: FakeLibrary) -> None:
    """The slider has not settled when the next step opens; nothing is applied behind its back."""

    async def script(driver: Driver) -> None:
        await searched(driver)
        slider(driver)
        await driver.press("right", "enter")
        await driver.at(Step.TRY)
        await driver.pilot.pause(0.5)
        session = library.sessions[0]
        assert session.applied == []
        await driver.press("enter")
        await driver.done(Step.TRY)
        assert session.applied[-1] == FRONTIER[2].strength

    play(script)


def test_no_point_is_applied_behind_the_settings(play: Play, library: FakeLibrary) -> None:
    """They may close the session that it would be applied in."""

    async def script(driver: Driver) -> None:
        await searched(driver)
        slider(driver)
        await driver.press("right", "f5")
        await driver.pilot.pause(0.5)
        assert library.sessions[0].applied == []
        await driver.press("escape")
        assert library.sessions[0].chosen is FRONTIER[2]

    play(script)


@pytest.mark.parametrize(("key", "point"), [("right", 0), ("left", 0), ("home", 0), ("end", 2)])
def test_the_first_key_counts_where_nothing_was_chosen(
    play: Play, library: FakeLibrary, key: str, point: int
) -> None:
    library.finds = False

    async def script(driver: Driver) -> None:
        await searched(driver)
        assert "[" not in slider(driver).render().plain, "none is in use"
        await driver.press(key)
        await driver.until(lambda: library.sessions[0].applied == [FRONTIER[point].strength])
        assert library.sessions[0].chosen is FRONTIER[point]
        assert "[" in driver.wizard.screen.query_one(PointSlider).render().plain

    play(script)


def test_a_request_typed_while_another_is_answered_stays(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.TRY)
        library.gate.close()
        library.gate.waiting.clear()
        await driver.press("enter")
        await driver.until(library.gate.waiting.is_set)
        field = driver.wizard.screen.query_one("#request", Input)
        field.value = "the next one"
        library.gate.open()
        await driver.done(Step.TRY)
        assert field.value == "the next one"

    play(script)


def test_calibrating_again_draws_anew(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        await driver.press("enter")
        await driver.done(Step.CALIBRATE)
        pane = driver.wizard.pane(Step.CALIBRATE)
        assert isinstance(pane, CalibratePane)
        assert pane._separation
        library.gate.close()
        pane.press_again()
        assert pane._separation == [], "what it finds now is not added to what it found before"
        library.gate.open()
        await driver.done(Step.CALIBRATE)

    play(script)


def test_both_answers_stream_side_by_side(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.TRY)
        field = driver.wizard.screen.query_one("#request", Input)
        ready = [field.value]
        for _ in range(5):
            await driver.press("down")
            ready.append(field.value)
        assert len(set(ready)) == 6
        assert driver.shows("ready requests: this one is")
        field.value = "own [red]words[/]"
        await driver.press("enter")
        await driver.done(Step.TRY)
        pane = driver.wizard.pane(Step.TRY)
        assert isinstance(pane, TryPane)
        answers = [panel.text for panel in pane.query(AnswerPanel)]
        assert answers == ["Sure! Begin by writing to the bank. ", "I'm sorry, but I can't help with that. "]
        assert library.sessions[0].applied == [None, 0.46]

    play(script)


def test_back_and_forward_lose_nothing(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.REPORT)
        steps = list(library.steps)
        for step in reversed(list(Step)[:-1]):
            await driver.press("f3")
            await driver.at(step)
        await driver.press("f3")
        assert driver.journey.here is Step.MODEL
        for step in list(Step)[1:]:
            await driver.press("f4")
            await driver.at(step)
        assert driver.shows("✓ hardened")
        assert library.steps == steps, "nothing was done again"

    play(script)


def test_nowhere_ahead_of_what_is_done(play: Play) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        await driver.press("f4")
        assert driver.journey.here is Step.CALIBRATE

    play(script)


def test_another_point_is_baked_again(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.REPORT)
        await driver.press("f3", "f3", "f3")
        await driver.at(Step.STRENGTH)
        driver.wizard.screen.query_one("#slider").focus()
        await driver.press("left")
        await driver.until(lambda: library.sessions[0].applied[-1] == 0.4)
        await driver.idle()
        assert driver.journey.done == {Step.MODEL, Step.CHECKUP, Step.CALIBRATE, Step.STRENGTH}
        assert driver.journey.report is None
        command = driver.journey.choices.commands(None, written=None, by_hand=driver.journey.by_hand)[0]
        assert "--layer 14" in command
        assert "--alpha 0.4" in command

    play(script)


def test_nothing_keeps_the_floor(play: Play, library: FakeLibrary) -> None:
    library.finds = False
    library.verdict = library.verdict.model_copy(update={"status": "ineffective"})

    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        await driver.press("enter")
        await driver.done(Step.CALIBRATE)
        await driver.press("enter")
        await driver.at(Step.STRENGTH)
        await driver.press("enter")
        await driver.done(Step.STRENGTH)
        assert driver.shows("No setting kept benign compliance at 91.5% or above")
        await driver.press("enter")
        await driver.at(Step.BAKE)
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert driver.shows("✗ ineffective", "not kept")
        assert not OUTPUT.exists()

    play(script)


@pytest.mark.parametrize("keep", [False, True])
def test_a_file_that_is_not_hardened_is_kept_only_if_asked_for(
    play: Play, library: FakeLibrary, keep: bool
) -> None:
    library.verdict = library.verdict.model_copy(
        update={"status": "over_refusing", "reason": "compliance fell", "advice": "Use a smaller --alpha"}
    )

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.until(lambda: driver.shows("over-refusing", "Keep the file anyway"))
        await driver.press(*(["shift+tab"] if keep else []), "enter")
        await driver.at(Step.REPORT)
        assert driver.shows("✗ over-refusing", "compliance fell. Use a smaller --alpha.")
        assert ("--force" in library.sessions[0].asked_for) is keep, "or it would not be there again"
        pane = driver.wizard.pane(Step.REPORT)
        assert isinstance(pane, ReportPane)
        assert driver.journey.report is not None
        assert ("--force" in pane._commands(driver.journey.report)[0]) is keep
        assert not library.sessions[0].options.force, "it was for this file alone"

    play(script)
    assert OUTPUT.exists() is keep


def test_force_asks_nothing(play: Play, library: FakeLibrary) -> None:
    library.verdict = library.verdict.model_copy(update={"status": "ineffective"})

    async def script(driver: Driver) -> None:
        driver.journey.choices = driver.journey.choices.set(force=YES)
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert library.sessions[0].asked_for.split().count("--force") == 1

    play(script)
    assert OUTPUT.exists()


@pytest.mark.parametrize("forced", [True, False])
def test_a_file_that_refuses_less_is_not_offered(play: Play, library: FakeLibrary, forced: bool) -> None:
    library.verdict = library.verdict.model_copy(update={"status": "degraded"})
    library.costs_refusals = True

    async def script(driver: Driver) -> None:
        if forced:
            driver.journey.choices = driver.journey.choices.set(force=YES)
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert driver.shows("✗ degraded")

    play(script)
    assert not OUTPUT.exists()


def test_an_attribute_is_named_where_harm_was(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        driver.journey.choices = driver.journey.choices.set(attribute="unknowable")
        await driver.to(Step.CALIBRATE)
        assert driver.shows("unknowable questions", "attribute unknowable")
        await driver.press("enter")
        await driver.done(Step.CALIBRATE)
        for step in (Step.STRENGTH, Step.TRY):
            await driver.press("enter")
            await driver.at(step)
            if step is Step.STRENGTH:
                await driver.press("enter")
                await driver.done(step)
                assert driver.shows("↑ answers answerable questions", "→ declines unknowable questions")
        assert driver.shows("this one is one of: unknowable questions")
        await driver.press("enter")
        await driver.done(Step.TRY)
        await driver.press("enter")
        await driver.at(Step.BAKE)
        await driver.press("enter")
        await driver.at(Step.REPORT)
        strip = driver.wizard.screen.query_one(IntervalStrip)
        assert "declines unknowable q… before" in strip.render().plain

    play(script)


async def rounding(driver: Driver) -> DataTable[str]:
    """Bake, and wait until half of the tensors are done."""
    await driver.to(Step.BAKE)
    driver.library.held = {"bake"}
    driver.library.gate.close()
    await driver.press("enter")
    table = driver.wizard.screen.query_one("#tensors", DataTable)
    await driver.until(lambda: table.row_count == 6)
    return table


def test_tensors_come_while_the_bake_runs(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        table = await rounding(driver)
        assert driver.shows("Rounding tensors", "6 of 12", "blk.14.ffn_down.weight", "0.97", "Stop")
        assert driver.journey.jobs.current is not None
        library.gate.open()
        await driver.at(Step.REPORT)
        assert table.row_count == 12
        await driver.press("f3")
        await driver.at(Step.BAKE)
        assert driver.shows("blk.20.ffn_down.weight", "0.98")

    play(script)


def test_a_bake_that_is_stopped_shows_nothing_of_it(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        table = await rounding(driver)
        await driver.press("escape")
        await driver.until(lambda: driver.shows("■ Stopped"))
        assert table.row_count == 0
        library.gate.open()
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert table.row_count == 12

    play(script)
    assert library.steps.count("bake") == 2
    assert library.steps.count("measure_before") == 1, "what was measured is kept"


@pytest.mark.parametrize("another", [False, True])
def test_a_file_that_was_whole_is_not_baked_again(play: Play, library: FakeLibrary, another: bool) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        library.held = {"measure_after"}
        library.gate.close()
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Hardened file on the reporting prompts"))
        await driver.press("escape")
        await driver.until(lambda: driver.shows("■ Stopped"))
        library.gate.open()
        if another:
            driver.wizard.screen.query_one("#output", Input).value = "another.gguf"
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert driver.wizard.screen.query_one("#tensors", DataTable).row_count == 12

    play(script)
    assert library.steps.count("bake") == (2 if another else 1)


@pytest.mark.parametrize("anew", [False, True])
def test_a_file_without_its_name_is_not_baked_again(play: Play, library: FakeLibrary, anew: bool) -> None:
    """It lies there, whole and measured; only if that is asked for is it made anew."""
    library.fails["finish"] = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "adapter.gguf")

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.until(lambda: driver.journey.jobs.current is None and driver.shows("adapter.gguf"))
        assert driver.shows("Bake again")
        await driver.press(*(["shift+tab"] if anew else []), "enter")
        await driver.at(Step.REPORT)

    play(script)
    assert library.steps.count("bake") == library.steps.count("measure_after") == (2 if anew else 1)
    assert library.steps.count("finish") == 2
    assert OUTPUT.read_bytes() == b"GGUF"


@pytest.mark.parametrize("fails", [False, True])
def test_the_report_goes_beside_the_file_it_is_about(play: Play, library: FakeLibrary, fails: bool) -> None:
    """Whatever is typed while the file is baked."""
    if fails:
        library.fails["write_report"] = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.md")

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        library.held = {"measure_after"}
        library.gate.close()
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Hardened file on the reporting prompts"))
        driver.wizard.screen.query_one("#output", Input).value = "elsewhere/other.gguf"
        library.gate.open()
        if fails:
            await driver.until(lambda: driver.journey.jobs.current is None and driver.shows("report.md"))
            driver.wizard.pane(Step.BAKE).press()
        await driver.at(Step.REPORT)
        assert driver.journey.report_folder == OUTPUT.with_name(f"{OUTPUT.stem}-report")

    play(script)
    assert library.reports == [OUTPUT.with_name(f"{OUTPUT.stem}-report")]


def test_attacks_on_the_original_that_were_stopped_are_made_again(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        library.held = {"stress_before"}
        library.gate.close()
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Jailbreaks on the original model"))
        await driver.press("escape")
        await driver.until(lambda: driver.shows("■ Stopped"))
        library.gate.open()
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert library.sessions[0].stressed == 8

    play(script)
    assert library.steps.count("measure_before") == 1
    assert library.steps.count("stress_before") == 2


async def another_model(driver: Driver, way: str, name: str) -> None:
    """Choose another file at the end, or by going back to the first step."""
    if way == "at the end":
        await driver.press("shift+tab", "enter")
    else:
        while driver.journey.here is not Step.MODEL:
            await driver.press("f3")
    await driver.at(Step.MODEL)
    driver.library.model = driver.library.model.with_name(name)
    driver.library.model.write_bytes(b"GGUF")
    await driver.to(Step.BAKE)


@pytest.mark.parametrize("way", ["at the end", "going back"])
def test_another_model_is_not_written_over_the_first(play: Play, library: FakeLibrary, way: str) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.REPORT)
        await another_model(driver, way, "other.gguf")
        assert driver.wizard.screen.query_one("#output", Input).value == "other-hardened.gguf"
        OUTPUT.write_bytes(b"the first")
        await driver.press("enter")
        await driver.at(Step.REPORT)

    play(script)
    assert OUTPUT.read_bytes() == b"the first"
    assert Path("other-hardened.gguf").exists()


def test_a_name_that_was_typed_stays_with_its_model(play: Play, library: FakeLibrary) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        driver.wizard.screen.query_one("#output", Input).value = "models/mine.gguf"
        await another_model(driver, "going back", library.model.name)
        assert driver.wizard.screen.query_one("#output", Input).value == "models/mine.gguf"

    play(script)


def test_replacing_an_adapter_is_asked(play: Play, library: FakeLibrary) -> None:
    Path("adapter.gguf").write_bytes(b"older")

    async def script(driver: Driver) -> None:
        driver.journey.choices = driver.journey.choices.set(adapter="adapter.gguf")
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Replace the file?", "adapter.gguf is there already"))
        assert "bake" not in library.steps
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert driver.shows("adapter")

    play(script)


def test_replacing_a_file_is_asked(play: Play, library: FakeLibrary) -> None:
    OUTPUT.write_bytes(b"older")

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Replace the file?"))
        await driver.press("escape")
        await driver.pilot.pause()
        assert "bake" not in library.steps
        assert driver.wizard.screen.query_one("#output").has_focus
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Replace the file?"))
        await driver.press("enter")
        await driver.at(Step.REPORT)

    play(script)
    assert OUTPUT.read_bytes() == b"GGUF"


def test_a_model_in_parts(play: Play, library: FakeLibrary) -> None:
    """What would be replaced are the parts; the first is what commands are about."""
    library.parts = 2
    first, second = (OUTPUT.with_stem(f"{OUTPUT.stem}-0000{n}-of-00002") for n in (1, 2))
    second.write_bytes(b"older")

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.until(lambda: driver.shows("Replace the file?", "is there already"))
        assert driver.shows(second.name)
        assert "bake" not in library.steps
        await driver.press("enter")
        await driver.at(Step.REPORT)
        assert driver.journey.written == first.absolute() or driver.journey.written == first
        (report,) = driver.wizard.query(ReportPane)
        assert driver.journey.report is not None
        again, verify, evaluate = report._commands(driver.journey.report)
        assert f"-o {OUTPUT} " in again
        assert first.name in verify and first.name in evaluate
        await driver.press("enter")

    assert play(script).return_value == str(first.absolute())


@pytest.mark.parametrize("kept", ["question", "empty name"])
def test_a_whole_file_stays_whole_until_it_is_baked_again(
    play: Play, library: FakeLibrary, kept: str
) -> None:
    """Neither a question answered with no nor a place that is refused costs what has been measured."""
    library.fails["finish"] = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "adapter.gguf")

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        await driver.press("enter")
        await driver.until(lambda: driver.journey.jobs.current is None and driver.shows("adapter.gguf"))
        field = driver.wizard.screen.query_one("#output", Input)
        name = field.value
        if kept == "question":
            OUTPUT.write_bytes(b"older")
        else:
            field.value = ""
        await driver.press("shift+tab", "enter")
        if kept == "question":
            await driver.until(lambda: driver.shows("Replace the file?"))
            await driver.press("escape")
            OUTPUT.unlink()
        else:
            await driver.until(lambda: driver.shows("Give the new file a name."))
            field.value = name
        field.focus()
        await driver.press("enter")
        await driver.at(Step.REPORT)

    play(script)
    assert library.steps.count("bake") == 1


def test_help_theme_and_another_model(play: Play) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CHECKUP)
        await driver.press("f1")
        await driver.until(lambda: driver.shows("Help", "Check-up", "What the file is."))
        await driver.press("escape")
        await driver.until(lambda: not driver.shows("What the file is. If"))
        assert driver.wizard.theme == "textual-dark"
        await driver.press("f2")
        assert driver.wizard.theme == "textual-light"

    play(script)
    again = play(_nothing)
    assert again.theme == "textual-light"


async def _nothing(driver: Driver) -> None:
    await driver.pilot.pause()


def test_help_has_every_step() -> None:
    from rosi_edge_tui.screens.help import help_text

    for step in Step:
        text = help_text(step)
        assert text.startswith(f"## {step.title}\n")
        assert "## Keys" in text
