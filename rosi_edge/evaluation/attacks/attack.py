"""What an attack is, and how two of them stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rosi_edge.runtime.engine import Conversation, Message, Role


def as_written(answer: str) -> str:
    return answer


@dataclass(frozen=True)
class Attack:
    """A framing put around a request.

    Args:
        name: what tables, reports and ``--attacks`` call it.
        description: one line for the reader of a report.
        reference: who described the technique first, or best.
        build: makes the conversation out of a request. The last message is the user's; scripted turns and
            a system prompt may come before it.
        decode: turns an answer that may come back in a code into plain text, for the judge; an answer
            that is plain already stays as it is.
    """

    name: str
    description: str
    reference: str
    build: Callable[[str], Conversation] = field(repr=False)
    decode: Callable[[str], str] = field(default=as_written, repr=False)

    def conversation(self, request: str) -> Conversation:
        """The turns that put ``request`` to the model, the last of them the user's."""
        return self.build(request)

    def decode_answer(self, text: str) -> str:
        """The answer as the judge should read it."""
        return self.decode(text)


def compose(outer: Attack, inner: Attack) -> Attack:
    """Put ``outer`` around what ``inner`` makes of a request.

    The outer attack rewrites the inner one's last turn. Earlier turns follow one another, the outer's
    first; system prompts are joined in the same order. The answer is decoded outermost layer first.
    """

    def build(request: str) -> Conversation:
        *inner_turns, last = inner.conversation(request)
        *outer_turns, wrapped = outer.conversation(last.content)
        turns = [*outer_turns, *inner_turns]
        system = "\n\n".join(turn.content for turn in turns if turn.role is Role.SYSTEM)
        scripted = tuple(turn for turn in turns if turn.role is not Role.SYSTEM)
        opening = (Message(Role.SYSTEM, system),) if system else ()
        return (*opening, *scripted, wrapped)

    return Attack(
        name=f"{outer.name}+{inner.name}",
        description=f"{outer.description}; inside it: {inner.description}",
        reference="; ".join(dict.fromkeys([outer.reference, inner.reference])),
        build=build,
        decode=lambda answer: inner.decode_answer(outer.decode_answer(answer)),
    )
