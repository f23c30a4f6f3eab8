"""A model is not run when its chat template holds something dangerous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.policy import behaviour
from rosi_edge.policy.model import parse_policy
from rosi_edge.policy.result import CheckReport, Status
from rosi_edge.policy.rules.chat_template import ChatTemplateSafe
from rosi_edge.policy.run import Checked, CheckOptions, check
from rosi_edge.runtime.engine import EngineOptions

FIGURE = "[figures.harmful_refusal_rate]\nmin = 0.0\n"
WARNING = "[chat_template]\nseverity = 'warning'\n"
UNSAFE = "{{ messages.__class__ }}" + CHATML


class _RanError(Exception):
    pass


@pytest.fixture
def unsafe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def ran(*arguments: Any, **more: Any) -> None:
        raise _RanError

    monkeypatch.setattr(behaviour, "measure", ran)
    return write_tiny_llama(tmp_path / "unsafe.gguf", chat_template=UNSAFE)


def run(path: Path, policy: str, template: str | None = None) -> CheckReport:
    options = CheckOptions(engine=EngineOptions(template=template))
    return check(Checked(str(path), path), parse_policy(policy), options=options)


@pytest.mark.parametrize("policy", [FIGURE, WARNING + FIGURE])
def test_a_model_with_an_unsafe_template_is_not_run(unsafe: Path, policy: str) -> None:
    (figure,) = [result for result in run(unsafe, policy).results if result.id.startswith("RE201")]
    assert figure.status is Status.COULD_NOT_RUN
    assert "template is not called safe" in figure.message
    assert "--template" in figure.remedy


def test_a_model_whose_template_could_not_be_looked_at_is_not_run(
    unsafe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trips(*arguments: Any) -> None:
        raise KeyError

    monkeypatch.setattr(ChatTemplateSafe, "check", trips)
    results = {result.id: result for result in run(unsafe, FIGURE).results}
    assert results[ChatTemplateSafe.id].status is Status.COULD_NOT_RUN
    (figure,) = [result for name, result in results.items() if name.startswith("RE201")]
    assert "template is not called safe" in figure.message


def test_it_is_run_with_a_template_of_the_users(unsafe: Path) -> None:
    with pytest.raises(_RanError):
        run(unsafe, FIGURE, template=CHATML)


def test_it_is_run_where_nobody_asks_for_safe_templates(unsafe: Path) -> None:
    with pytest.raises(_RanError):
        run(unsafe, "[chat_template]\nseverity = 'off'\n" + FIGURE)


def test_a_missing_template_is_not_called_unsafe(unsafe: Path, tmp_path: Path) -> None:
    with pytest.raises(_RanError):
        run(write_tiny_llama(tmp_path / "none.gguf", chat_template=None), FIGURE)
