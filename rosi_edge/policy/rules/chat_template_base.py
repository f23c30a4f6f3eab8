"""RE107: the chat template is the base model's."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from rosi_edge.basics.text import printable
from rosi_edge.policy.rule import Finding, Subject, failed, not_applicable, passed
from rosi_edge.policy.template_syntax import chat_templates

_SHOWN = 40
_COMPARED = 200_000


class ChatTemplateBase:
    id: ClassVar[str] = "RE107"
    section: ClassVar[str] = "chat_template_base"
    title: ClassVar[str] = "The chat template is the base's"
    help: ClassVar[str] = (
        "A changed template can put words into every conversation that nobody sees. Every template of the "
        "file is compared with the base's, character by character."
    )

    def check(self, subject: Subject) -> Finding:
        if subject.base is None:
            return not_applicable("no base was given to compare with")
        new, old = chat_templates(subject.file), chat_templates(subject.base)
        changed = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
        if not changed:
            return passed("the same as the base's")
        name = changed[0]
        return failed(
            f"{printable(name, 80)} differs from the base's",
            "Find out who changed it and why; take the base's otherwise",
            changed=[printable(each, 80) for each in changed],
            difference=_difference(old.get(name, ""), new.get(name, "")),
        )


def _difference(old: Any, new: Any) -> list[str]:
    if not isinstance(old, str) or not isinstance(new, str):
        return ["not text"]
    if max(len(old), len(new)) > _COMPARED:
        return ["too long to show"]
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "base", "file", lineterm="", n=0))
    return [printable(line, 200) for line in lines[:_SHOWN]]
