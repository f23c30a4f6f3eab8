"""RE106: the chat template does nothing that putting a conversation together does not need."""

from __future__ import annotations

from typing import ClassVar

from rosi_edge.basics.text import printable
from rosi_edge.policy.rule import Finding, Subject, failed, not_applicable, passed
from rosi_edge.policy.template_syntax import chat_templates, unsafe_constructs


class ChatTemplateSafe:
    id: ClassVar[str] = "RE106"
    section: ClassVar[str] = "chat_template"
    title: ClassVar[str] = "The chat template is safe"
    help: ClassVar[str] = (
        "Chat templates are programs. Read as a syntax tree, never run: no way into Python's internals, no "
        "other files, no enormous numbers or loops written out in it. The model is not run with one that "
        "fails. Texts that grow while a template is rendered are stopped by the limits of rendering."
    )

    def check(self, subject: Subject) -> Finding:
        wanted = subject.policy.chat_template
        templates = chat_templates(subject.file)
        if not templates:
            if wanted.required:
                return failed(
                    "it has no chat template", "Use a chat model, or set chat_template.required = false"
                )
            return not_applicable("it has no chat template")
        found = {
            name: problems
            for name, text in templates.items()
            if (problems := unsafe_constructs(text, largest=wanted.largest))
        }
        if found:
            name, problems = next(iter(found.items()))
            first = problems[0]
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            return failed(
                f"{printable(name, 80)}, line {first.line}: {first.words}{more}",
                "Do not render it; take the template from the model's maker",
                problems=[
                    {"template": printable(key, 80), "line": each.line, "what": each.words}
                    for key, listed in found.items()
                    for each in listed[:20]
                ],
            )
        return passed(
            "nothing was found in it that leads into Python, to other files or to enormous texts",
            templates=sorted(templates),
        )
