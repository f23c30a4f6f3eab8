"""Hardens chat models inside GGUF files against harmful requests, without training (ROSI)."""

__version__ = "0.2.0"
