"""Who opens, restarts and cancels a session's engine."""

from __future__ import annotations

HELD = 192
"""Prompts that the search keeps in the engine's cache, at most."""
