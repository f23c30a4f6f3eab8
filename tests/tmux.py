"""A real terminal, by tmux."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """A tmux session."""

    def __init__(self, folder: Path, size: tuple[int, int], **environment: str) -> None:
        self._socket = folder / "tmux"
        self._environment = os.environ | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | environment
        self.run("-f", os.devnull, "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), "sh")

    def run(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def type(self, text: str) -> None:
        self.run("send-keys", "-l", text)

    def keys(self, *names: str) -> None:
        self.run("send-keys", *names)

    def screen(self) -> str:
        # -J: a line that is longer than the terminal is wide is one line.
        return self.run("capture-pane", "-p", "-J")

    def until(self, *words: str, without: str | None = None, seconds: float = 240) -> None:
        """Wait until all of these words stand on the screen, and ``without`` does not."""
        self._wait(
            lambda text: all(word in text for word in words) and (without is None or without not in text),
            words,
            seconds,
        )

    def _wait(self, condition: Callable[[str], bool], words: tuple[str, ...], seconds: float) -> str:
        end = time.monotonic() + seconds
        while True:
            screen = self.screen()
            text = " ".join(screen.replace("█", " ").split())
            if condition(text):
                return text
            # A problem ends the work: what is waited for will not come.
            stuck = "✗" in text and "▶ Report" not in text and not any("✗" in word for word in words)
            assert not stuck, f"a problem is shown instead of {words}:\n{screen}"
            assert time.monotonic() < end, f"{words} did not come within {seconds:.0f} s:\n{screen}"
            time.sleep(0.2)

    def close(self) -> None:
        self.run("kill-server")
