"""Rendering a chat template has a limit of memory of its own, and only while it lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.errors import UnsupportedModelError
from rosi_edge.runtime import chat
from rosi_edge.runtime.chat import ChatTemplate
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions, ask

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")

BOMB = "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}"
GROWING = {
    "doubled in a loop": BOMB,
    "doubled line by line": "{% set a = 'x' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
    "a constant, worked out when compiling": "{{ '%299999999d' % 1 }}",
}
CONVERSATION = ask("What is one and one?", "Be brief.")


def limit() -> tuple[int, int]:
    found: tuple[int, int] = resource.getrlimit(resource.RLIMIT_AS)
    return found


@pytest.fixture(autouse=True)
def the_limit_is_as_before() -> Iterator[None]:
    before = limit()
    yield
    assert limit() == before


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, bos="", eos="")


@pytest.mark.parametrize("name", GROWING)
def test_a_bomb_is_one_sentence_and_a_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_MEMORY", 2**27)
    before = limit()
    start = time.monotonic()
    with pytest.raises(UnsupportedModelError, match="more than 128 MiB of memory") as caught:
        template(GROWING[name]).render(CONVERSATION)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert "--template" in caught.value.remedy
    # Nothing holds on to what was rendered so far.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert limit() == before
    assert len(bytes(3 * 2**29)) == 3 * 2**29


def test_a_long_prompt_never_reaches_the_tokenizer() -> None:
    """It fits into the limit of memory; its tokens, made outside of it, would not."""
    assert len(template("{{ 'a' * 2 ** 22 }}").render(CONVERSATION)) == 2**22
    with pytest.raises(UnsupportedModelError, match="a prompt of 4194305 characters") as caught:
        template("{{ 'a' * (2 ** 22 + 1) }}").render(CONVERSATION)
    assert "\n" not in str(caught.value)
    assert "--template" in caught.value.remedy


def test_ordinary_templates_and_other_errors_restore_the_limit() -> None:
    before = limit()
    assert "one and one" in template(CHATML).render(CONVERSATION)
    assert limit() == before
    with pytest.raises(UnsupportedModelError, match="cannot be rendered"):
        template("{{ messages[9].content.x }}").render(CONVERSATION)
    assert limit() == before


def test_renderings_in_several_threads_restore_the_limit() -> None:
    before = limit()
    ready = template(CHATML)
    threads = [
        threading.Thread(target=lambda: [ready.render(CONVERSATION) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit() == before


def test_a_tighter_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(chat.resource, "getrlimit", lambda kind: (5, 10))
    monkeypatch.setattr(chat.resource, "setrlimit", lambda kind, given: limits.append(given))
    template(CHATML).render(CONVERSATION)
    # Only what was there is put back.
    assert set(limits) == {(5, 10)}
    monkeypatch.undo()


@pytest.mark.parametrize("missing", ["resource", "_STATM"])
def test_elsewhere_there_is_no_limit(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, missing, None if missing == "resource" else Path("/none"))
    assert "one and one" in template(CHATML).render(CONVERSATION)


def test_the_engine_goes_on_after_a_bomb(tmp_path: Path) -> None:
    text = "{% if 'bomb' in messages[-1].content %}" + BOMB + "{% endif %}" + CHATML
    path = write_tiny_llama(tmp_path / "bomb.gguf", chat_template=text)
    with ChildEngine(path, EngineOptions(threads=1, context_size=1024, sequences=4)) as engine:
        with pytest.raises(UnsupportedModelError, match="memory"):
            engine.encode([ask("bomb")])
        assert engine.alive
        prompts = engine.encode([CONVERSATION])
        assert engine.next_token_logprobs(prompts).shape[0] == 1
