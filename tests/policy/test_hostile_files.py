"""Hostile files end in a report: no crash, no hang, nothing rendered. (The benchmark does 20,000.)"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jinja2
import pytest
from tiny_gguf import write_tiny_llama

from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.policy.model import DEFAULT_POLICY
from rosi_edge.policy.result import Decision, Status
from rosi_edge.policy.run import Checked, CheckOptions, check

sys.path.insert(0, str(Path(__file__).parent))
from hostile import BOMBS, variants

LONGEST = 20.0


@pytest.fixture(autouse=True)
def nothing_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **more: object) -> None:
        raise AssertionError("a template was run")

    monkeypatch.setattr(jinja2.Environment, "compile", forbidden)
    monkeypatch.setattr(jinja2.Template, "render", forbidden)


def test_mutated_files(tmp_path: Path) -> None:
    whole = write_tiny_llama(tmp_path / "whole.gguf", vocabulary=280).read_bytes()
    with GgufFile.open(tmp_path / "whole.gguf") as file:
        header = file.data_offset
    path = tmp_path / "hostile.gguf"
    verdicts = set()
    for data in variants(whole, header, 240, seed=1):
        path.write_bytes(data)
        start = time.monotonic()
        report = check(Checked("hostile", path), DEFAULT_POLICY, options=CheckOptions(behaviour=False))
        assert time.monotonic() - start < LONGEST
        verdicts.add(report.verdict)
    assert Decision.FAILED in verdicts


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_template_bombs(tmp_path: Path, number: int) -> None:
    path = write_tiny_llama(tmp_path / "bomb.gguf", chat_template=BOMBS[number], layers=1)
    start = time.monotonic()
    report = check(Checked("bomb", path), DEFAULT_POLICY, options=CheckOptions(behaviour=False))
    assert time.monotonic() - start < LONGEST
    (template,) = [result for result in report.results if result.id == "RE106"]
    # A text that holds a zero byte is refused with the header; no rule reads further.
    refused = {Status.COULD_NOT_RUN} if "\0" in BOMBS[number] else {Status.FAILED, Status.PASSED}
    assert template.status in refused
    assert report.verdict is Decision.FAILED or template.status is Status.PASSED
