"""A place of its own for every wizard: state, cache and models in temporary folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drive_wizard import Play, drive
from fake_session import FakeLibrary
from rosi_edge_tui.app import Wizard


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative paths, so that what stands on the screen is the same everywhere."""
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def library(own_folder: Path) -> FakeLibrary:
    model = Path("models") / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    model.write_bytes(b"GGUF")
    return FakeLibrary(model)


@pytest.fixture
def play(library: FakeLibrary, own_folder: Path) -> Callable[..., Wizard]:
    """Runs the wizard with the fake library and plays on it."""

    def run(script: Play, *, model: str = "", size: tuple[int, int] = (80, 24)) -> Wizard:
        return drive(library, own_folder, script, model=model, size=size)

    return run
