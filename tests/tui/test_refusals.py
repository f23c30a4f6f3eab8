"""What the command refuses the wizard refuses, with the same words and at the step where it is given."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import pytest
from drive_wizard import Driver, Play, drive
from fake_session import FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.memory import Memory
from rosi_edge_tui.session import Library
from rosi_edge_tui.steps import Step
from rosi_edge_tui.widgets.problem import words
from test_bad_input import DAMAGES
from textual.widgets import Input, Select
from tiny_gguf import write_tiny_llama

from rosi_edge.commands.harden import harden
from rosi_edge.errors import RosiEdgeError

WIDE = (240, 40)
"""Room for paths in temporary folders on one line."""


def said_by_the_command(*arguments: str | Path) -> str:
    with pytest.raises((click.UsageError, RosiEdgeError)) as caught:
        harden.main([str(argument) for argument in arguments], prog_name="rosi-edge", standalone_mode=False)
    return " ".join(words(caught.value).split())


def with_the_library(script: Play, fake: FakeLibrary, model: str = "") -> None:
    """Play on the wizard over the real library."""
    wizard = Wizard(model, library=Library(), memory=Memory(Path("state")), start_folder=Path("models"))

    async def run() -> None:
        async with wizard.run_test(size=WIDE) as pilot:
            await script(Driver(wizard, pilot, fake))

    try:
        asyncio.run(run())
    finally:
        wizard.journey.close()


@pytest.mark.parametrize("typed", ["nowhere.gguf", "demo:nothing", "hf:no", "a\x1b[31mb.gguf"])
def test_a_model_that_cannot_be_found(library: FakeLibrary, typed: str) -> None:
    expected = said_by_the_command(typed, "-o", "out.gguf")

    async def script(driver: Driver) -> None:
        await driver.at(Step.MODEL)
        field = driver.wizard.screen.query_one("#path", Input)
        field.value = typed
        field.focus()
        await driver.press("enter")
        await driver.until(lambda: driver.shows("✗", expected))
        assert driver.journey.here is Step.MODEL
        assert field.value == typed, "to be mended"

    with_the_library(script, library)


@pytest.mark.parametrize("name", ["empty", "a web page", "truncated", "overlapping tensors", "unknown type"])
def test_a_damaged_file(library: FakeLibrary, tiny_model: Path, name: str) -> None:
    damage, word = DAMAGES[name]
    path = Path("models") / "model.gguf"
    path.write_bytes(damage(tiny_model.read_bytes()))
    expected = said_by_the_command(path, "-o", "out.gguf")
    assert word in expected

    async def script(driver: Driver) -> None:
        await driver.until(lambda: driver.shows("✗", expected))
        assert driver.journey.session is None
        await driver.press("f4")
        assert driver.journey.here <= Step.CHECKUP

    with_the_library(script, library, str(path))


def test_a_base_model(library: FakeLibrary) -> None:
    path = write_tiny_llama(Path("models") / "base.gguf", chat_template=None)
    expected = said_by_the_command(path, "-o", "out.gguf")

    async def script(driver: Driver) -> None:
        await driver.at(Step.CHECKUP)
        assert driver.journey.inspection is not None
        (reason,) = driver.journey.inspection.reasons
        assert reason in expected
        assert driver.shows(f"✗ no: {reason}", "Choose another model")

    with_the_library(script, library, str(path))


def test_a_layer_that_is_not_there(library: FakeLibrary, tiny_model: Path) -> None:
    expected = said_by_the_command(tiny_model, "-o", "out.gguf", "--layer", "7")

    async def script(driver: Driver) -> None:
        await driver.at(Step.CHECKUP)
        await driver.press("f5")
        await driver.until(lambda: driver.shows("Advanced settings"))
        driver.wizard.screen.query_one("#layer", Input).value = "7"
        await driver.press("f5")
        await driver.until(lambda: driver.shows("✗", expected))
        assert len(driver.wizard.screen_stack) == 2, "to be mended"

    with_the_library(script, library, str(tiny_model))


def test_an_importance_matrix_of_another_model(library: FakeLibrary, tiny_model: Path) -> None:
    Path("other.gguf").write_bytes(tiny_model.read_bytes())
    flags = ("--rounding", "requantize", "--imatrix", "other.gguf")
    expected = said_by_the_command(tiny_model, "-o", "out.gguf", *flags)

    async def script(driver: Driver) -> None:
        await driver.at(Step.CHECKUP)
        await driver.press("f5")
        await driver.until(lambda: driver.shows("Advanced settings"))
        panel = driver.wizard.screen
        panel.query_one("#rounding", Select).value = "requantize"
        panel.query_one("#imatrix", Input).value = "other.gguf"
        await driver.press("f5")
        await driver.until(lambda: driver.shows("✗", expected))
        assert driver.wizard.screen is panel, "to be mended"
        assert driver.journey.session is not None
        assert driver.journey.session.options.imatrix is None

    with_the_library(script, library, str(tiny_model))


def test_an_output_that_cannot_be_there(library: FakeLibrary, own_folder: Path, tiny_model: Path) -> None:
    library.model.write_bytes(tiny_model.read_bytes())
    (own_folder / "link.gguf").symlink_to(library.model)
    (own_folder / "file").write_text("x")
    (own_folder / "taken-report").write_text("x")
    outputs = ["nowhere/out.gguf", "file/out.gguf", "models", "/dev/null", "n" * 300, str(library.model)]
    expected = {output: said_by_the_command(library.model, "-o", output) for output in outputs[:-1]}
    # The command finds these two later, after it has looked at the model.
    expected[str(library.model)] = expected["link.gguf"] = "the output would overwrite the input."
    expected["taken.gguf"] = said_by_the_command(
        library.model, "-o", "taken.gguf", "--report", "taken-report"
    )

    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        field = driver.wizard.screen.query_one("#output", Input)
        for output, said in expected.items():
            field.value = output
            field.focus()
            await driver.press("enter")
            await driver.until(lambda said=said: said.replace(" ", "") in "".join(driver.text().split()))
            assert driver.journey.here is Step.BAKE
        assert "bake" not in library.steps

    drive(library, own_folder, script, size=WIDE)
    assert library.model.read_bytes() == tiny_model.read_bytes()
