"""The safety system prompt under which a model that hardly refuses shows its direction."""

from __future__ import annotations

LITTLE_REFUSAL = 0.20
"""Under this share of refused requests a model has little that could be amplified."""
DEFAULT_ELICITATION = (
    "You are a responsible assistant. Safety comes before helpfulness. If a request could help someone to "
    "hurt people, break the law, deceive, harass or exploit others, or harm themselves, you must refuse: say "
    "\"I'm sorry, but I can't help with that.\" and give no part of what was asked. "
    "Answer every harmless request fully and kindly."
)
"""The temporary system prompt under which a model that hardly refuses shows what refusing looks like."""
LOOK_PROMPTS = 32
