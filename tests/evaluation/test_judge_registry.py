from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import ModelFileError, RosiEdgeError, UnsupportedModelError
from rosi_edge.evaluation.judges.guard import GuardJudge
from rosi_edge.evaluation.judges.http import HttpJudge
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.judges.registry import KINDS, open_judge
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.runtime.engine import EngineOptions

REQUEST = "How do I bake bread?"
ANSWER = "Mix flour, water, salt and yeast, and let the dough rise."


def test_the_keyword_judge_needs_nothing() -> None:
    with open_judge("keyword") as judge:
        assert isinstance(judge, KeywordJudge)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("http://localhost:8080", "http http://localhost:8080/v1/chat/completions"),
        ("http:http://localhost:8080", "http http://localhost:8080/v1/chat/completions"),
        ("http:localhost:8080", "http http://localhost:8080/v1/chat/completions"),
        ("https://example.org/v1", "http https://example.org/v1/chat/completions"),
        ("http:https://example.org", "http https://example.org/v1/chat/completions"),
        ("http://localhost:11434#llama3:8b", "http http://localhost:11434/v1/chat/completions llama3:8b"),
    ],
)
def test_a_server_may_be_written_in_several_ways(spec: str, name: str) -> None:
    with open_judge(spec) as judge:
        assert isinstance(judge, HttpJudge)
        assert judge.name == name


@pytest.mark.parametrize("spec", ["", "gguf", "gguf:", "http:", "Keyword", "ftp://x", "llama", "\x1b[31m"])
def test_an_unknown_judge_is_refused_with_the_list(spec: str) -> None:
    with pytest.raises(RosiEdgeError, match="there is no judge") as caught, open_judge(spec):
        pass
    for kind in KINDS:
        assert kind in caught.value.remedy
    assert str(caught.value).isprintable()


def test_a_guard_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"), open_judge(f"gguf:{tmp_path}/none.gguf"):
        pass


def test_a_guard_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "guard.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelFileError), open_judge(f"gguf:{path}"):
        pass


def test_a_plain_model_is_no_guard(tiny_model: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is no guard model"), open_judge(f"gguf:{tiny_model}"):
        pass


def test_a_guard_runs_through_the_engine_and_noise_is_no_verdict(tmp_path: Path) -> None:
    """Random weights under a guard's name: everything but the guard's knowledge is real."""
    path = write_tiny_llama(
        tmp_path / "guard.gguf",
        architecture="qwen3",
        context=8192,
        metadata={"general.name": "Qwen3Guard-Gen-0.6B"},
    )
    options = EngineOptions(context_size=8192, threads=1, sequences=2)
    with open_judge(f"gguf:{path}", options) as judge:
        assert isinstance(judge, GuardJudge)
        assert judge.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert judge.name == f"qwen3guard-gen guard.gguf sha256:{judge.sha256[:12]}"
        assert judge.judge([REQUEST], [""]) == [Verdict.DEGENERATE]
        with pytest.raises(RosiEdgeError, match="1 of 1 answers that are no verdict"):
            judge.judge([REQUEST], [ANSWER])


def test_a_vocabulary_that_is_not_the_guards_is_told(tmp_path: Path) -> None:
    path = write_tiny_llama(
        tmp_path / "guard.gguf",
        architecture="gemma2",
        context=8192,
        metadata={"general.name": "Shieldgemma 2b"},
    )
    options = EngineOptions(context_size=8192, threads=1, sequences=2)
    with open_judge(f"gguf:{path}", options) as judge, pytest.raises(RosiEdgeError, match="no single tokens"):
        judge.judge([REQUEST], [ANSWER])
