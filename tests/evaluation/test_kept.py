"""What was measured survives interruptions, and nothing else does."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from evaluation.scripted_engine import REFUSAL, ScriptedEngine, last_request, subject
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.basics.progress import SILENT, Advance
from rosi_edge.evaluation.kept import Kept
from rosi_edge.evaluation.suites.asking import PIECE, ask_groups, plainly
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.prompts.sets import Prompt, PromptSet

CONTEXT = {"model": "abc"}


def prompt_set(number: int) -> PromptSet:
    return PromptSet.of("numbers", (Prompt(f"request {n}") for n in range(number)), "here")


def test_results_come_back_in_another_process_of_work(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "kept.jsonl"
    first = Kept(path, CONTEXT)
    assert first.get({"piece": 1}) is None
    first.put({"piece": 1}, [0.1, 1e-300, "verdict"])
    first.put({"piece": 2}, None)
    first.put({"piece": 1}, ["later"])
    second = Kept(path, CONTEXT)
    assert second.get({"piece": 1}) == ["later"]
    assert (first.reused, second.reused) == (0, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_model_setting_or_call_for_fresh_results_finds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    Kept(path, CONTEXT).put("piece", 1)
    assert Kept(path, CONTEXT).get("other piece") is None
    assert Kept(path, {**CONTEXT, "batch": 64}).get("piece") is None
    fresh = Kept(path, CONTEXT, fresh=True)
    assert fresh.get("piece") is None
    fresh.put("piece", 2)
    assert Kept(path, CONTEXT).get("piece") == 2


def test_another_version_of_the_tool_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.jsonl"
    Kept(path, CONTEXT).put("piece", 1)
    monkeypatch.setattr("rosi_edge.evaluation.kept.__version__", "99.0")
    assert Kept(path, CONTEXT).get("piece") is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json\n",
        b'{"key": 5, "result": 1}\n',
        b'{"key": "a"}\n',
        b"[1]\n",
        b"\xff\xfe\x00\n",
        b"\n\n",
        b"[" * 9000,
    ],
)
def test_garbage_is_skipped_and_what_follows_is_kept(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "kept.jsonl"
    Kept(path, CONTEXT).put("before", 1)
    with path.open("ab") as file:
        file.write(garbage)
    Kept(path, CONTEXT).put("after", 2)
    found = Kept(path, CONTEXT)
    assert (found.get("before"), found.get("after")) == (1, 2)


@given(cut=st.integers(1, 60))
def test_a_line_cut_by_a_crash_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "kept.jsonl"
    kept = Kept(path, CONTEXT)
    kept.put("whole", "x")
    kept.put("cut", "y")
    os.truncate(path, path.stat().st_size - cut)
    Kept(path, CONTEXT).put("after", "z")
    found = Kept(path, CONTEXT)
    assert found.get("whole") == "x"
    assert found.get("after") == "z"
    # Only the newline may be missing without harm.
    assert found.get("cut") == ("y" if cut == 1 else None)


def test_a_place_that_cannot_be_written_to_is_told_once_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Kept(tmp_path / "file" / "kept.jsonl", CONTEXT)
    kept.put("piece", 1)
    assert kept.get("piece") == 1
    assert kept.problem is not None
    assert "kept.jsonl" in kept.problem


class _Interrupting:
    """Ctrl-C when so many prompts are done."""

    def __init__(self, after: int) -> None:
        self._left = after

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        yield self._advance

    def _advance(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise KeyboardInterrupt

    def note(self, line: str) -> None:
        pass


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    prompts = prompt_set(3 * PIECE + 5)
    groups = {"group": plainly(prompts)}

    def say(prompt: str) -> str:
        return REFUSAL if int(last_request(prompt).split()[1]) % 3 else "Here are the steps: first, open it."

    first = ScriptedEngine(say)
    with pytest.raises(KeyboardInterrupt):
        ask_groups(
            subject(first, path=path), groups, max_tokens=8, title="t", progress=_Interrupting(2 * PIECE)
        )
    second = ScriptedEngine(say)
    resumed = ask_groups(subject(second, path=path), groups, max_tokens=8, title="t", progress=SILENT)
    assert [last_request(prompt) for prompt in second.asked] == prompts.texts[2 * PIECE :]
    whole = ask_groups(subject(ScriptedEngine(say)), groups, max_tokens=8, title="t", progress=SILENT)
    assert resumed == whole
    assert [a.verdict for a in whole["group"][:3]] == [Verdict.COMPLIED, Verdict.REFUSED, Verdict.REFUSED]

    def never() -> ScriptedEngine:
        raise AssertionError("nothing is left to do")

    again = ask_groups(subject(never, path=path), groups, max_tokens=8, title="t", progress=SILENT)
    assert again == whole


def test_kept_answers_that_were_tampered_with_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    groups = {"group": plainly(prompt_set(2))}
    ask_groups(subject(ScriptedEngine(), path=path), groups, max_tokens=8, title="t", progress=SILENT)
    line = json.loads(path.read_text())
    for result in (None, [], [["refused", "x"]], [["happy", "x"]] * 2, [["refused", 5]] * 2, [1, 2], "ab"):
        path.write_text(json.dumps({**line, "result": result}) + "\n")
        engine = ScriptedEngine()
        ask_groups(subject(engine, path=path), groups, max_tokens=8, title="t", progress=SILENT)
        assert len(engine.asked) == 2


def test_a_judge_that_fails_half_way_loses_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    groups = {"group": plainly(prompt_set(3 * PIECE))}
    failing = subject(ScriptedEngine(), path=path)
    calls = 0
    judge = failing.judge.judge

    def dies(requests: list[str], answers: list[str]) -> list[Verdict]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ConnectionError
        return judge(requests, answers)

    failing.judge.judge = dies  # type: ignore[method-assign, assignment]
    with pytest.raises(ConnectionError):
        ask_groups(failing, groups, max_tokens=8, title="t", progress=SILENT)
    engine = ScriptedEngine()
    ask_groups(subject(engine, path=path), groups, max_tokens=8, title="t", progress=SILENT)
    assert len(engine.asked) == PIECE


def test_only_opening_words_reach_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    answer = "One two three four five six seven eight nine ten eleven twelve SECRET " + "harm " * 50
    groups = {"group": plainly(prompt_set(1))}
    found = ask_groups(
        subject(ScriptedEngine(lambda _: answer), path=path), groups, max_tokens=8, title="t", progress=SILENT
    )
    assert found["group"][0].opening.endswith("eleven twelve")
    assert "SECRET" not in path.read_text()
