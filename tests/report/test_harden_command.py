"""What ``harden`` makes of its options, and what it prints of a report; the run itself is replaced."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import click
import gguf
import pytest
from click.testing import CliRunner, Result
from report.sample_report import stress
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.commands.default_output import default_output, free_output
from rosi_edge.commands.harden import harden
from rosi_edge.commands.harden_help import GROUPS
from rosi_edge.errors import RosiEdgeError
from rosi_edge.hardening import session as hardening
from rosi_edge.hardening import transfer
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.records.hardening import HardeningReport, HardeningVerdict
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.sources import resolve as sources


def test_every_option_stands_in_one_group_of_the_help() -> None:
    options = [option.name for option in harden.params if isinstance(option, click.Option)]
    assert sorted(chain.from_iterable(GROUPS.values())) == sorted(filter(None, options))
    shown = CliRunner().invoke(harden, ["--help"]).output
    titles = [line[:-1] for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [*GROUPS, "Other", "Words"]


@pytest.mark.parametrize(
    ("reference", "path", "output"),
    [
        ("models/m.q4.gguf", "models/m.q4.gguf", "models/m.q4-hardened.gguf"),
        ("demo", "cache/models/demo/m.gguf", "m-hardened.gguf"),
        ("hf:org/m:Q4_0", "cache/hub/m.Q4_0.gguf", "m.Q4_0-hardened.gguf"),
        ("m-00001-of-00003.gguf", "m-00001-of-00003.gguf", "m-hardened.gguf"),
        ("models/folder/", "models/folder", "{here}/models/folder-hardened"),
        ("models/folder/.", "models/folder/.", "{here}/models/folder-hardened"),
        ("hf:org/m", "models/folder", "m-hardened"),
    ],
)
def test_where_a_hardened_model_goes(
    reference: str, path: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/folder").mkdir(parents=True)
    assert default_output(reference, Path(path)) == Path(output.format(here=tmp_path))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("terminal", "answer", "runs"), [(False, "y", False), (True, "n", False), (True, "y", True)]
)
def test_without_a_name_nothing_is_replaced_unasked(
    split: bool, terminal: bool, answer: str, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.gguf"
    write_tiny_llama(model)
    output = there = tmp_path / "m-hardened.gguf"
    if split:
        model, *_ = parts = split_gguf(model, tmp_path / "m", 8)
        there = tmp_path / f"m-hardened-{parts[-1].stem[2:]}.gguf"
    assert free_output(str(model)) == output
    there.write_bytes(b"mine")
    monkeypatch.setattr("sys.stdin.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    asked: list[str] = []
    monkeypatch.setattr(click, "confirm", lambda text, err: asked.append(text) or answer == "y")
    if runs:
        assert free_output(str(model)) == output
    else:
        with pytest.raises(RosiEdgeError, match=r"is there already\. Name another file with -o"):
            free_output(str(model))
    assert asked == ([f"{there} is there already. Replace it?"] if terminal else [])
    assert there.read_bytes() == b"mine"


@pytest.fixture
def run(
    report: HardeningReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[Result, list[HardenOptions]]]:
    """Runs the command; returns what it printed and the options it asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "resolve", lambda model, progress: Path(model))

    def start(*arguments: str, report: HardeningReport = report) -> tuple[Result, list[HardenOptions]]:
        asked: list[HardenOptions] = []

        def instead(*given: Any) -> HardeningReport:
            asked.append(given[4])
            return report

        monkeypatch.setattr(hardening, "harden", instead)
        monkeypatch.setattr("sys.argv", ["rosi-edge", "harden", *arguments])
        return CliRunner().invoke(harden, ["model.gguf", "-o", "out.gguf", *arguments]), asked

    return start


def test_defaults_are_those_of_the_library(
    run: Callable[..., tuple[Result, list[HardenOptions]]], tmp_path: Path
) -> None:
    result, (options,) = run()
    assert result.exit_code == 0, result.output
    library = HardenOptions()
    for name in ("rounding", "method", "min_delivered", "promotion", "stress", "paper"):
        assert getattr(options, name) == getattr(library, name), name
    assert options.conditional == ConditionalOptions(folder=tmp_path / "cache" / "searches")
    assert (options.method, options.rounding) == ("conditional", "grid")
    assert (options.search.min_compliance, options.search.layers) == (None, None)


def test_every_option_arrives(run: Callable[..., tuple[Result, list[HardenOptions]]]) -> None:
    _, (options,) = run(
        *("--method", "rosi", "--rounding", "requantize", "--trials", "5", "--time-limit", "10m"),
        *(
            "--min-delivered",
            "0.8",
            "--promote",
            "never",
            "--stress",
            "0",
            "--no-paper",
        ),
        *("--storage", "sqlite:///search.db", "--layer", "3", "--alpha", "0.5", "--max-kl", "0.2"),
        *("--min-compliance", "0.9", "--seed", "4", "--imatrix", "importance.gguf"),
    )
    conditional = options.conditional
    assert (options.method, options.rounding) == ("rosi", "requantize")
    assert options.imatrix == Path("importance.gguf")
    assert (conditional.trials, conditional.time_limit) == (5, 600.0)
    assert conditional.storage == "sqlite:///search.db"
    assert (conditional.layer, conditional.strength, conditional.max_kl) == (3, 0.5, 0.2)
    assert (conditional.min_compliance, conditional.seed) == (0.9, 4)
    assert (options.search.layers, options.search.strength) == ((3,), 0.5)
    assert options.min_delivered == 0.8
    assert options.promotion == "never"
    assert (options.stress, options.paper) == (0, False)


def test_a_type_to_promote_to_may_be_named(run: Callable[..., tuple[Result, list[HardenOptions]]]) -> None:
    _, (options,) = run("--promote", "q8_0")
    assert options.promotion is gguf.GGMLQuantizationType.Q8_0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1h", 3600.0), ("1.5h", 5400.0)]
)
def test_lengths_of_time(
    text: str, seconds: float, run: Callable[..., tuple[Result, list[HardenOptions]]]
) -> None:
    _, (options,) = run("--time-limit", text)
    assert options.conditional.time_limit == seconds


@pytest.mark.parametrize("text", ["0", "-5", "soon", "10 m", "1d", "nan", "inf", "1e9", "m", "٣", "9" * 400])
def test_what_is_no_length_of_time(text: str, run: Callable[..., tuple[Result, list[HardenOptions]]]) -> None:
    result, asked = run("--time-limit", text)
    assert (result.exit_code, asked) == (2, [])
    assert "write 90, 10m or 1h" in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--promote", "Q99"), "cannot be promoted to 'Q99'"),
        (("--imatrix", "importance.gguf"), "for --rounding requantize only"),
        (("--promote", "Q8_0", "--rounding", "requantize"), "--promote works with --rounding grid only"),
        (("--storage", "nonsense"), "cannot be used"),
        (("--storage", "sqlite:///missing/folder/search.db"), "unable to open database file"),
        (("--storage", "redis://localhost"), "cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(
    flags: tuple[str, ...], word: str, run: Callable[..., tuple[Result, list[HardenOptions]]]
) -> None:
    result, asked = run(*flags)
    assert asked == []
    assert isinstance(result.exception, RosiEdgeError)
    assert word in str(result.exception)
    assert result.exception.remedy


def test_what_was_measured_is_reported_before_a_problem_with_other_files(
    run: Callable[..., tuple[Result, list[HardenOptions]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise RosiEdgeError("the engine has crashed", "Try again")

    monkeypatch.setattr(transfer, "check_targets", lambda *arguments, **more: None)
    monkeypatch.setattr(transfer, "edits_from", lambda path: None)
    monkeypatch.setattr(transfer, "transfer_all", fails)
    result, _ = run("--also", "other.gguf", "other-out.gguf", "--report", "folder")
    assert isinstance(result.exception, RosiEdgeError)
    assert "verdict   hardened" in result.output
    assert (Path("folder") / "report.json").is_file()


def test_the_recorded_command_holds_no_password(
    run: Callable[..., tuple[Result, list[HardenOptions]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna.storages.get_storage", lambda url: None)
    for flags in (("--storage", "mysql://me:secret@host/x"), ("--storage=mysql://me:secret@host/x",)):
        _, (options,) = run(*flags)
        assert options.conditional.storage == "mysql://me:secret@host/x"
        assert "secret" not in options.command
        assert "mysql://me:***@host/x" in options.command


def test_the_summary(run: Callable[..., tuple[Result, list[HardenOptions]]]) -> None:
    result, _ = run()
    lines = {line.split()[0]: line for line in result.output.splitlines() if line[:1].isalpha()}
    assert "refused 54% of 32" in lines["finding"]
    assert lines["chosen"].startswith(
        "chosen    refusal 0.705  (0.581 to 0.804, n=61), benign compliance 0.896"
    )
    assert lines["paper"].startswith(
        "paper     refusal 0.623  (0.497 to 0.734, n=61), benign compliance 0.896"
    )
    assert lines["direction"].split(maxsplit=1)[1] == "layer 14"
    assert "48 tensors" in lines["delivered"] and "1 from Q6_K to Q8_0" in lines["delivered"]
    assert "is within 2 points" in lines["rounding"]
    assert "at least halved" in lines["attacks"]
    assert "hardened" in lines["verdict"]


def test_a_run_without_a_result(
    run: Callable[..., tuple[Result, list[HardenOptions]]], build: Callable[..., HardeningReport]
) -> None:
    report = build(
        verdict=HardeningVerdict(status="ineffective", reason="nothing kept the limits", advice=""),
        output=None,
        after=None,
        changes=None,
        paper=None,
        rounding_check=None,
        stress=stress().model_copy(update={"after": None}),
        findings=(),
        injection={
            "method": "conditional",
            "strength": 0.0,
            "min_compliance": 0.9,
            "delivered": None,
            "tensors": (),
        },
    )
    result, _ = run(report=report)
    assert result.exit_code == 1
    assert "not written; --force keeps it anyway" in result.output
    assert "direction none taken" in result.output
    for word in ("paper ", "rounding ", "delivered ", "finding "):
        assert f"\n{word}" not in result.output


def test_every_option_has_help() -> None:
    for parameter in harden.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
