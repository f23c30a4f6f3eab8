"""What only looks at files loads nothing that runs a model, even where it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from baking import hardened
from installed import commands

HEAVY = ("llama_cpp", "torch", "transformers", "scipy", "matplotlib", "optuna", "sqlalchemy", "textual")
LOOK = f"""
import sys
from rosi_edge.cli import main
try:
    main()
finally:
    print(sorted({{name.partition(".")[0] for name in sys.modules}} & {set(HEAVY)}), file=sys.stderr)
"""


def loaded(*arguments: str | Path) -> tuple[int, list[str]]:
    """Exit code, and which of the heavy packages a command has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, eval(done.stderr.splitlines()[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return hardened(tmp_path_factory.mktemp("hardened"), 1.5)


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(["rosi-edge", *command]))
def test_help(command: list[str]) -> None:
    assert loaded(*command, "--help") == (0, [])


def test_inspect(files: tuple[Path, Path]) -> None:
    assert loaded("inspect", files[1]) == (0, [])


def test_check_static(files: tuple[Path, Path]) -> None:
    assert loaded("check", files[1], "--static", "--base", files[0]) == (0, [])


def test_verify(files: tuple[Path, Path]) -> None:
    assert loaded("verify", files[1], "--base", files[0]) == (0, [])


def test_the_tests_would_see_it(files: tuple[Path, Path]) -> None:
    """What runs a model does load something."""
    code, found = loaded("extract", files[0].with_name("none.gguf"), "-o", files[0].with_name("x.gguf"))
    assert code == 2 and "scipy" in found
