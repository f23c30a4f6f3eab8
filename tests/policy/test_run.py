"""What cannot be finished is never a pass."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rosi_edge.errors import EngineCrashError, ModelFileError
from rosi_edge.policy import behaviour
from rosi_edge.policy.model import parse_policy
from rosi_edge.policy.result import CheckReport, Decision, Status
from rosi_edge.policy.rule import Finding, Rule, Subject, passed
from rosi_edge.policy.rules.registry import STATIC_RULES
from rosi_edge.policy.run import Checked, check

QUIET = "[figures.harmful_refusal_rate]\nmin = 0.0\n"


def run(path: Path, policy: str = "", **more: Any) -> CheckReport:
    return check(Checked(str(path), path), parse_policy(policy), **more)


class Odd:
    """A rule that does something else than answer."""

    id: ClassVar[str] = "RE109"
    section: ClassVar[str] = "file"
    title: ClassVar[str] = "odd"
    help: ClassVar[str] = "odd"

    def __init__(self, act: Any) -> None:
        self._act = act

    def check(self, subject: Subject) -> Finding:
        self._act(subject)
        return passed("nothing")


def with_rule(act: Any) -> tuple[Rule, ...]:
    return (*STATIC_RULES[:2], Odd(act), STATIC_RULES[2])


def test_a_hang_is_cut_short(tiny_model: Path) -> None:
    start = time.monotonic()
    report = run(tiny_model, "time_limit = '1s'\n" + QUIET, rules=with_rule(lambda subject: time.sleep(60)))
    assert time.monotonic() - start < 20
    assert report.verdict is Decision.COULD_NOT_RUN
    found = {result.id: result.status for result in report.results}
    assert found["RE101"] is Status.PASSED
    assert found["RE109"] is found["RE103"] is found["RE201/harmful_refusal_rate"] is Status.COULD_NOT_RUN
    assert any("time limit" in note for note in report.notes)
    # The timer is gone.
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_rule_that_raises_could_not_run(tiny_model: Path) -> None:
    def no_memory(subject: Subject) -> None:
        raise MemoryError

    assert run(tiny_model, rules=with_rule(no_memory)).verdict is Decision.COULD_NOT_RUN

    def damaged(subject: Subject) -> None:
        raise ModelFileError("it ends in the middle")

    assert run(tiny_model, rules=with_rule(damaged)).verdict is Decision.FAILED


def test_a_file_that_changes_meanwhile(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changing.gguf"
    path.write_bytes(tiny_model.read_bytes())

    def touch(subject: Subject) -> None:
        os.utime(path, (1, 1))

    report = run(path, rules=with_rule(touch))
    assert report.verdict is Decision.COULD_NOT_RUN
    assert any("changed" in note for note in report.notes)


def test_a_crash_of_the_engine(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: Any, **more: Any) -> None:
        raise EngineCrashError("llama.cpp died of signal 6", "Report it")

    monkeypatch.setattr(behaviour, "evaluate", crash)
    report = run(tiny_model, QUIET)
    assert report.verdict is Decision.COULD_NOT_RUN
    (figure,) = [result for result in report.results if result.id.startswith("RE201")]
    assert figure.status is Status.COULD_NOT_RUN
    assert "signal 6" in figure.message


def test_missing_and_damaged_files(tiny_model: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "none.gguf").verdict is Decision.COULD_NOT_RUN
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_model.read_bytes()[:-100])
    report = run(broken, QUIET)
    assert report.verdict is Decision.FAILED
    assert report.results[0].status is Status.FAILED
    assert all(result.status is Status.COULD_NOT_RUN for result in report.results[1:])
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    assert run(text).verdict is Decision.FAILED


def test_nothing_looked_at_is_no_pass(tiny_model: Path) -> None:
    sections = ("file", "architecture", "types", "metadata", "chat_template", "chat_template_base")
    sections += ("hardening", "abliteration", "provenance")
    off = "".join(f"[{section}]\nseverity = 'off'\n" for section in sections)
    assert run(tiny_model, off).verdict is Decision.COULD_NOT_RUN
