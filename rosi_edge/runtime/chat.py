"""From conversations to the text a model was trained on: the file's own chat template, in a sandbox."""

from __future__ import annotations

from typing import Any

import jinja2
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from rosi_edge.errors import UnsupportedModelError
from rosi_edge.runtime.engine import Conversation, Message, Role


class ChatTemplate:
    """A chat template, ready to render.

    Raises:
        UnsupportedModelError: the template is not valid Jinja.
    """

    def __init__(self, template: str, *, bos: str, eos: str) -> None:
        try:
            self._formatter = Jinja2ChatFormatter(template=template, bos_token=bos, eos_token=eos)
        except jinja2.TemplateError as error:
            raise UnsupportedModelError(
                f"the chat template cannot be parsed: {error}", "Give a working one with --template FILE"
            ) from error

    def render(self, conversation: Conversation) -> str:
        """The prompt text, opened for the assistant's answer.

        Templates without a system role (Gemma's, for one) raise or drop it: there the system prompt goes
        in front of the first user turn, as their authors advise.
        """
        text = self._try(conversation)
        system = [message.content for message in conversation if message.role is Role.SYSTEM]
        if system and (isinstance(text, Exception) or system[0].strip() not in text):
            text = self._try(_fold_system(conversation))
        if isinstance(text, Exception):
            raise UnsupportedModelError(
                f"the chat template cannot be rendered: {text}", "Give a working one with --template FILE"
            ) from text
        return text

    def _try(self, conversation: Conversation) -> str | Exception:
        messages: Any = [{"role": str(m.role), "content": m.content} for m in conversation]
        try:
            return str(self._formatter(messages=messages).prompt)
        except Exception as error:  # a template is a program of the file's author: it may raise anything
            return error


def _fold_system(conversation: Conversation) -> Conversation:
    system = "\n\n".join(m.content for m in conversation if m.role is Role.SYSTEM)
    rest = [m for m in conversation if m.role is not Role.SYSTEM]
    first = next((i for i, m in enumerate(rest) if m.role is Role.USER), None)
    if first is None:
        return tuple(rest)
    rest[first] = Message(Role.USER, f"{system}\n\n{rest[first].content}")
    return tuple(rest)
