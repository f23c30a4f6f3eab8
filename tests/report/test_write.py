from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rosi_edge.errors import OutputError
from rosi_edge.records.hardening import HardeningReport, Injection
from rosi_edge.report import write
from rosi_edge.report.pictures import PICTURES
from rosi_edge.report.write import check_folder, to_json, write_report

FILES = {"report.json", "report.md", *PICTURES}


def test_the_folder_holds_the_whole_report(report: HardeningReport, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    write_report(report, folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert HardeningReport.model_validate_json((folder / "report.json").read_bytes()) == report
    card = (folder / "report.md").read_text(encoding="utf-8")
    for name in PICTURES:
        assert f"]({name})" in card
    assert card.endswith("\n") and not card.endswith("\n\n")


def test_an_earlier_report_is_replaced_and_other_files_stay(
    report: HardeningReport, build: Callable[..., HardeningReport], tmp_path: Path
) -> None:
    write_report(report, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    later = build(
        frontier=(),
        stress=None,
        direction=report.direction.model_copy(update={"sweep": ()}),
        injection=Injection(strength=0.0, min_compliance=0.9, delivered=None, tensors=()),
        after=None,
        changes=None,
        generated="2027-01-01T00:00:00+00:00",
    )
    write_report(later, tmp_path)
    # The pictures of the earlier report that the later one has no data for would mislead.
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt",
        "report.json",
        "report.md",
        "before_after.png",
        "separation_by_layer.png",
    }
    assert (tmp_path / "report.json").read_text() == to_json(later)
    assert "frontier.png" not in (tmp_path / "report.md").read_text()


def test_a_failing_picture_leaves_the_earlier_report(
    report: HardeningReport,
    build: Callable[..., HardeningReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_report(report, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(_: HardeningReport) -> dict[str, bytes]:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "render_all", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(build(generated="later"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_each_file_is_whole_or_not_there(
    report: HardeningReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(report, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match="full"):
        write_report(report.model_copy(update={"generated": "later"}), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("inside", [(), ("report",)])
def test_a_file_in_the_way(inside: tuple[str, ...], report: HardeningReport, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("something")
    with pytest.raises(OutputError) as caught:
        write_report(report, tmp_path.joinpath("taken", *inside))
    with pytest.raises(OutputError, match="is a file"):
        check_folder(tmp_path.joinpath("taken", *inside))
    assert "folder" in caught.value.remedy
    assert (tmp_path / "taken").read_text() == "something"


def test_a_folder_that_the_system_calls_unwritable(
    report: HardeningReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK))
    with pytest.raises(OutputError, match="not writable"):
        write_report(report, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not hold back root")
def test_a_folder_that_is_not_writable(report: HardeningReport, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        write_report(report, tmp_path)
    with pytest.raises(OutputError, match="not writable"):
        write_report(report, tmp_path / "report")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_no_folder_can_have(name: str, report: HardeningReport, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report(report, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_checking_a_folder_does_not_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder(Path("new/report"))
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
