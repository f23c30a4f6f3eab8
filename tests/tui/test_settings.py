"""Settings refuse what the command refuses, with its words; only what depends on one is done again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from drive_wizard import Driver
from fake_session import FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.choices import ALL, YES, Choices, option
from rosi_edge_tui.memory import Memory
from rosi_edge_tui.screens.advanced import Advanced
from rosi_edge_tui.steps import Step
from rosi_edge_tui.widgets.problem import words
from textual.widgets import Input, Select

from rosi_edge.commands.harden import harden
from rosi_edge.direction.elicitation import DEFAULT_ELICITATION
from rosi_edge.errors import RosiEdgeError

Play = Callable[..., Wizard]

REFUSED = [
    ("layer", "-1", "-1 is out of range"),
    ("layer", "many", "'many' is neither 'auto' nor a number"),
    ("alpha", "-2", "out of range"),
    ("alpha", "0", "out of range"),
    ("min_compliance", "1.5", "1.5 is not in the range 0<=x<=1"),
    ("max_kl", "0", "0.0 is not in the range x>0"),
    ("trials", "ten", "'ten' is not a valid integer"),
    ("threads", "0", "0 is not in the range x>=1"),
    ("context_size", "12", "12 is not in the range x>=256"),
    ("gpu_layers", "all", "'all' is not a valid integer"),
    ("time_limit", "soon", "'soon' is not a time"),
    ("harmful", "nowhere.txt", "nowhere.txt"),
    ("template", "nowhere.jinja", "nowhere.jinja"),
    ("promote", "Q99", "cannot be promoted to 'Q99'"),
    ("imatrix", "importance.gguf", "--imatrix is for --rounding requantize only"),
    ("storage", "nonsense", "the storage given with --storage cannot be used"),
    ("storage", "sqlite:///missing/folder/search.db", "unable to open database file"),
    ("adapter", "nowhere/adapter.gguf", "does not exist. Create it or choose another output path"),
    ("adapter", "models", "models is a folder"),
    ("attribute", "nowhere", "there is no attribute 'nowhere'"),
]


@pytest.mark.parametrize(("name", "text", "said"), REFUSED)
def test_the_words_of_the_command(name: str, text: str, said: str) -> None:
    choices = Choices("demo").set(**{name: text})
    with pytest.raises((click.UsageError, RosiEdgeError)) as caught:
        choices.requests()
        choices.options()
    assert said in words(caught.value)


def test_a_refusal_stands_in_the_panel(play: Play) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        await driver.press("f5")
        await driver.until(lambda: isinstance(driver.wizard.screen, Advanced))
        panel = driver.wizard.screen
        assert {w.id for w in (*panel.query(Input), *panel.query(Select))} == set(ALL)
        panel.query_one("#trials", Input).value = "none"
        await driver.press("f5")
        await driver.until(lambda: driver.shows("Invalid value for '--trials'", "valid integer"))
        assert driver.wizard.screen is panel
        assert panel.query_one("#trials").has_focus
        assert driver.shows("Settings to try")
        panel.query_one("#trials", Input).value = ""
        panel.query_one("#harmless", Input).value = "nowhere.txt"
        await driver.press("f5")
        await driver.until(lambda: driver.shows("nowhere.txt", "✗"))
        await driver.press("escape")
        await driver.until(lambda: driver.wizard.screen is not panel)
        assert driver.journey.choices.texts == {}

    play(script)


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("seed", "3", Step.CHECKUP),
        ("elicit", "default", Step.CHECKUP),
        ("trials", "3", Step.CALIBRATE),
        ("promote", "never", Step.TRY),
        ("threads", "2", Step.TRY),
        ("attribute", "unknowable", Step.CHECKUP),
        ("storage", "sqlite:///shared.db", Step.CALIBRATE),
        ("no_paper", YES, Step.CALIBRATE),
        ("adapter", "adapter.gguf", Step.TRY),
        ("force", YES, Step.TRY),
    ],
)
def test_only_what_depends_on_a_setting_is_done_again(
    play: Play, library: FakeLibrary, name: str, text: str, kept: Step
) -> None:
    async def script(driver: Driver) -> None:
        await driver.to(Step.BAKE)
        await driver.press("f5")
        await driver.until(lambda: isinstance(driver.wizard.screen, Advanced))
        driver.wizard.screen.query_one(f"#{name}", Select if option(name).is_flag else Input).value = text
        await driver.press("f5")
        await driver.until(lambda: len(driver.wizard.screen_stack) == 1)
        await driver.until(lambda: max(driver.journey.done) is kept and driver.journey.jobs.current is None)
        assert driver.journey.session is library.sessions[-1]
        assert len(library.sessions) == (2 if name in ("seed", "attribute") else 1)
        options = library.sessions[-1].options
        value = {
            "seed": options.seed == 3,
            "elicit": options.elicitation == DEFAULT_ELICITATION,
            "trials": options.conditional.trials == 3,
            "promote": "--promote never" in options.command,
            "threads": options.engine.threads == 2,
            "attribute": not options.look and library.judges[-1] != library.judges[0],
            "storage": options.conditional.storage == "sqlite:///shared.db",
            "no_paper": not options.paper,
            "adapter": options.adapter == Path("adapter.gguf"),
            "force": options.force,
        }
        assert value[name]

    play(script)


def test_the_command_does_the_same(tmp_path: Path) -> None:
    """What the wizard prints is parsed by the command into what the wizard used."""
    choices = Choices("a model.gguf", output="out put.gguf").set(
        method="rosi",
        layer="7",
        alpha="0.5",
        elicit="Be good.",
        context_size="2048",
        harmless="x y.txt",
        rounding="requantize",
        no_paper=YES,
        force=YES,
        adapter="an adapter.gguf",
        imatrix="importance.gguf",
        rpc="one:1,two:2",
        storage=f"sqlite:///{tmp_path}/search.db",
    )
    typed = shlex.split(choices.command(Path("re port")))
    assert typed[:2] == ["rosi-edge", "harden"]
    values = harden.make_context("harden", typed[2:]).params
    assert values["model"] == "a model.gguf"
    assert values["output"] == Path("out put.gguf")
    assert values["report_folder"] == Path("re port")
    for name, value in choices.parse().items():
        if name != "report_folder":
            assert values[name] == value, name
    options = choices.options(tmp_path)
    assert options.method == "rosi"
    assert options.search.layers == (7,)
    assert options.search.strength == 0.5
    assert options.elicitation == "Be good."
    assert options.engine.context_size == 2048
    assert options.conditional.folder == tmp_path
    assert options.conditional.storage == f"sqlite:///{tmp_path}/search.db"
    assert (options.paper, options.force) == (False, True)
    assert (options.adapter, options.imatrix) == (Path("an adapter.gguf"), Path("importance.gguf"))
    assert options.engine.rpc == ("one:1", "two:2")


def test_every_option_of_the_command_can_be_set() -> None:
    """Save those that are about several files at once, or that the wizard's own steps ask for."""
    elsewhere = {"output", "report_folder", "as_json", "source", "also", "no_evaluation", "help"}
    names = {parameter.name for parameter in harden.params if isinstance(parameter, click.Option)}
    assert set(ALL) == names - elsewhere
    assert len(ALL) == len(set(ALL))


def test_a_password_is_used_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.storages.get_storage", lambda url: None)
    choices = Choices("demo", output="out.gguf").set(storage="mysql://me:secret@host/x")
    options = choices.options()
    assert options.conditional.storage == "mysql://me:secret@host/x"
    shown = "\n".join([options.command, *choices.commands(None, written=Path(choices.output))])
    assert "mysql://me:***@host/x" in shown
    assert "secret" not in shown


def test_what_is_remembered_is_for_nobody_else(own_folder: Path) -> None:
    memory = Memory(own_folder / "state")
    memory.keep(Choices("demo").set(storage="mysql://me:secret@host/x", force=YES), Step.TRY)
    memory.close()
    assert (own_folder / "state" / "wizard.json").stat().st_mode & 0o077 == 0
    again = Memory(own_folder / "state")
    assert again.now.choices.has("force")
    again.close()


def test_defaults_are_the_command_s() -> None:
    options, values = Choices("demo").options(), harden.make_context("harden", ["-o", "x", "demo"]).params
    assert options.method == values["method"]
    assert options.rounding == values["rounding"]
    assert options.conditional.trials == values["trials"]
    assert options.conditional.max_kl == values["max_kl"]
    assert options.min_delivered == values["min_delivered"]
    assert options.stress == values["stress"]
    assert options.elicitation is None
