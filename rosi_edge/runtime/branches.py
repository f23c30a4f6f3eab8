"""Scores of several continuations of one prompt, the prompt read once."""

from __future__ import annotations

SCORED_AT_A_TIME = 128
"""Continuation tokens decoded at once: each needs a row of logits, four bytes times the vocabulary."""
