"""``rosi-edge check`` as it is typed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from command import assert_refused, called, rosi_edge
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.policy.model import DEFAULT_POLICY, load_policy


@pytest.fixture
def unsafe(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "unsafe.gguf", chat_template="{{ x.__class__ }}")


def test_a_pass_and_its_reports(tiny_model: Path, tmp_path: Path) -> None:
    done = rosi_edge(
        tmp_path,
        "check", tiny_model, "--static", "--json", "--junit", "j.xml", "--sarif", "s.sarif",
        "--markdown", "m.md", "--badge", "b.svg",
    )  # fmt: skip
    assert done.code == 0, done
    assert json.loads(done.out)["verdict"] == "passed"
    assert ET.parse(tmp_path / "j.xml").getroot().get("failures") == "0"
    assert json.loads((tmp_path / "s.sarif").read_text())["runs"][0]["invocations"][0]["exitCode"] == 0
    assert "passed" in (tmp_path / "m.md").read_text()
    assert "passed" in (tmp_path / "b.svg").read_text()


def test_a_finding(unsafe: Path, tmp_path: Path) -> None:
    done = rosi_edge(tmp_path, "check", unsafe, "--static")
    assert done.code == 1
    assert "__class__" in done.out
    zero = rosi_edge(tmp_path, "check", unsafe, "--static", "--exit-zero", "--json")
    assert zero.code == 0
    assert json.loads(zero.out)["verdict"] == "failed"


def test_several_files(tiny_model: Path, unsafe: Path, tmp_path: Path) -> None:
    assert called(tmp_path, "check", "--static", tiny_model, tiny_model).code == 0
    assert called(tmp_path, "check", "--static", tiny_model, unsafe).code == 1
    assert_refused(called(tmp_path, "check", "--static", "--json", tiny_model, unsafe), "one MODEL")
    # A failure counts even if something else could not run, whichever comes first.
    assert called(tmp_path, "check", "--static", "none.gguf", unsafe).code == 1
    assert called(tmp_path, "check", "--static", unsafe, "none.gguf").code == 1


def test_later_parts_are_checked_with_the_first(tmp_path: Path) -> None:
    parts = split_gguf(write_tiny_llama(tmp_path / "whole.gguf"), tmp_path / "split.gguf", 8)
    assert len(parts) > 1
    assert called(tmp_path, "check", "--static", *parts).code == 0
    # A hook names the files that were changed, and that may be a later one alone.
    alone = called(tmp_path, "check", "--static", "--json", parts[1])
    assert alone.code == 0
    assert json.loads(alone.out)["file"]["file_name"] == parts[0].name
    parts[0].unlink()
    assert called(tmp_path, "check", "--static", parts[1]).code == 2


def test_what_checks_nothing_is_given_alone(tiny_model: Path, tmp_path: Path) -> None:
    manifest = ["check", tiny_model, "--write-manifest", "m.json"]
    assert_refused(called(tmp_path, *manifest, "--policy", "p.toml"), "checks nothing")
    assert_refused(called(tmp_path, *manifest, "--sarif", "s.sarif"), "checks nothing")
    assert_refused(called(tmp_path, "check", tiny_model, "--init", "p.toml"), "checks nothing")
    assert called(tmp_path, *manifest).code == 0
    (tmp_path / "p.toml").write_text("[provenance]\nseverity = 'off'\n")
    given = ("--manifest", "m.json", "--policy", "p.toml", "--static")
    assert_refused(called(tmp_path, "check", tiny_model, *given), "provenance")


def test_what_cannot_run(tiny_model: Path, tmp_path: Path) -> None:
    assert_refused(called(tmp_path, "check"), "MODEL")
    assert_refused(called(tmp_path, "check", tiny_model, "--policy", "none.toml"), "none.toml")
    (tmp_path / "p.toml").write_text("[behaviour]\nsuites = ['refusl']\n")
    assert_refused(called(tmp_path, "check", tiny_model, "--policy", "p.toml"), "refusl")
    (tmp_path / "p.toml").write_text("[fiel]\n")
    assert_refused(called(tmp_path, "check", tiny_model, "--policy", "p.toml"), "fiel")
    assert_refused(called(tmp_path, "check", tiny_model, "--budget", "soon"), "soon")
    assert_refused(called(tmp_path, "check", tiny_model, "--junit", "no/folder/j.xml"), "folder")
    (tmp_path / "j.xml").write_text("an old pass")
    for arguments in ([tiny_model, "--base", "none.gguf"], ["none.gguf"]):
        done = called(tmp_path, "check", *arguments, "--static", "--junit", "j.xml")
        assert done.code == 2 and "none.gguf" in done.out
        # No report of an earlier run is left to be taken for this one's.
        assert int(ET.parse(tmp_path / "j.xml").getroot().get("errors") or 0) > 0
        assert called(tmp_path, "check", *arguments, "--static", "--exit-zero").code == 0
    no_such_figure = tmp_path / "figure.toml"
    no_such_figure.write_text("[behaviour]\nbudget = 5\nfewest = 2\n[figures.charm]\nmin = 0.5\n")
    done = called(tmp_path, "check", tiny_model, "--policy", no_such_figure, "--json")
    assert done.code == 2
    assert json.loads(done.out)["verdict"] == "could not run"


def test_init(tmp_path: Path) -> None:
    assert called(tmp_path, "check", "--init").code == 0
    assert load_policy(tmp_path / "policy.toml") == DEFAULT_POLICY
    assert_refused(called(tmp_path, "check", "--init"), "there already")
    assert called(tmp_path, "check", "--init", "other.toml").code == 0


def test_a_manifest_there_and_back(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    new = write_tiny_llama(
        tmp_path / "new.gguf", change=lambda name, w: w * 2 if name == "blk.0.ffn_down.weight" else w
    )
    written = called(
        tmp_path, "check", new, "--base", base, "--write-manifest", tmp_path / "new.gguf.intoto.json"
    )
    assert written.code == 0
    assert "1 edited" in written.out
    # The manifest beside the file is found by itself.
    done = called(tmp_path, "check", new, "--base", base, "--static", "--json")
    (found,) = [rule for rule in json.loads(done.out)["results"] if rule["id"] == "RE110"]
    assert found["status"] == "passed"
    wrong = called(
        tmp_path, "check", base, "--static", "--manifest", tmp_path / "new.gguf.intoto.json", "--json"
    )
    assert wrong.code == 1


@pytest.mark.model
def test_the_default_on_the_demo_model(tmp_path: Path) -> None:
    """Behaviour within a small budget, on the real model, without touching it."""
    done = rosi_edge(tmp_path, "check", "demo", "--budget", "45s", "--json")
    report = json.loads(done.out)
    status = {result["id"]: result["status"] for result in report["results"]}
    assert report["verdict"] == "passed", report
    assert status["RE106"] == status["RE109"] == "passed"
    assert status["RE201/degenerate_rate"] == "passed"
    assert any("to fit a budget of 45 s" in note for note in report["notes"])


@pytest.mark.model
def test_the_example_policy_fails_on_the_original(tmp_path: Path) -> None:
    policy = Path(__file__).parents[2] / "examples" / "release-gate" / "policy.toml"
    done = rosi_edge(tmp_path, "check", "demo", "--policy", policy, "--static", "--json")
    assert done.code == 1
    failed = [rule["id"] for rule in json.loads(done.out)["results"] if rule["status"] == "failed"]
    assert failed == ["RE108"]


def test_nothing_that_is_read_is_written_to(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny_model.read_bytes())
    parts = split_gguf(model, tmp_path / "split.gguf", 8)
    policy = tmp_path / "policy.toml"
    policy.write_text("name = 'mine'")
    before = {path: path.read_bytes() for path in (model, policy, *parts)}
    for flags in (
        ["--junit", model],
        ["--markdown", policy, "--policy", policy],
        ["--badge", "base.gguf", "--base", "base.gguf"],
    ):
        (tmp_path / "base.gguf").write_bytes(model.read_bytes())
        assert_refused(called(tmp_path, "check", "--static", model, *flags), "would overwrite the input")
    assert_refused(
        called(tmp_path, "check", "--static", parts[0], "--sarif", parts[1]), "would overwrite the input"
    )
    assert_refused(called(tmp_path, "check", model, "--write-manifest", model), "would overwrite the input")
    assert_refused(
        called(tmp_path, "check", "--static", model, "--junit", "r", "--sarif", "r"), "written twice"
    )
    assert_refused(called(tmp_path, "eval", model, "--picture", model), "would overwrite the input")
    assert_refused(called(tmp_path, "extract", parts[0], "-o", parts[1]), "would overwrite the input")
    assert before == {path: path.read_bytes() for path in before}


def test_an_empty_base_is_a_mistake(tiny_model: Path, tmp_path: Path) -> None:
    """As a shell gives it whose variable is not set: the proof would silently be left out."""
    assert_refused(called(tmp_path, "check", "--static", tiny_model, "--base", ""), "--base is empty")


def test_a_fault_with_one_file_does_not_hide_the_others(
    tiny_model: Path, unsafe: Path, tmp_path: Path
) -> None:
    odd = write_tiny_llama(tmp_path / "odd.gguf", chat_template=None, metadata={"tokenizer.chat_template": 7})
    done = called(tmp_path, "check", "--static", odd, "--base", tiny_model, "--junit", "j.xml")
    assert done.code == 1, done
    assert "fault of rosi-edge" not in done.out + done.error
    assert ET.parse(tmp_path / "j.xml").getroot().get("failures") == "2"
    assert called(tmp_path, "check", "--static", ".", unsafe).code == 1
    long = tmp_path / f"{'n' * 245}.gguf"
    long.write_bytes(tiny_model.read_bytes())
    assert called(tmp_path, "check", "--static", long).code == 0
    # One that no file can have is the file's fault, and the reports say so.
    result = called(tmp_path, "check", "--static", "n" * 300, "--junit", "out.xml")
    assert result.code == 2
    assert "unexpected" not in result.out + result.error
    assert (tmp_path / "out.xml").is_file()
