"""``import rosi_edge``: the example of the page runs, and what is exported is there, light and typed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import write_requests
from tiny_gguf import write_tiny_llama

import rosi_edge
from rosi_edge.cli import application
from rosi_edge.commands.harden import harden as harden_command
from rosi_edge.commands.hardening_options import hardening_options
from rosi_edge.library import command_options

ROOT = Path(__file__).parents[1]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(script, "utf-8")
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_example_of_the_page_is_a_script(tmp_path: Path) -> None:
    """All of it as one plain script, without a guard."""
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    write_tiny_llama(tmp_path / "model.gguf", layers=3)
    write_requests(tmp_path, 20)
    done = run("\n".join(blocks), tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert lines[0] == "llama F32 can be hardened"
    assert lines[1].startswith(("hardened ", "ineffective ", "over_refusing ", "degraded "))
    assert "n=80" in lines[2]
    assert "n=5" in lines[3]
    assert lines[4].startswith("passed ")


def test_importing_it_loads_next_to_nothing(tmp_path: Path) -> None:
    script = "import rosi_edge, sys; dir(rosi_edge); print(set(sys.modules) & {'numpy', 'pydantic', 'click'})"
    assert run(script, tmp_path).stdout == "set()\n"


def test_what_is_exported_is_there_and_typed() -> None:
    tree = ast.parse((ROOT / "rosi_edge" / "__init__.py").read_text("utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: f"{node.module}.{alias.name}"
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(rosi_edge.__all__)
    for name in rosi_edge.__all__:
        found = getattr(rosi_edge, name)
        assert seen[name] == f"{found.__module__}.{found.__qualname__}", name
    assert set(rosi_edge.__all__) <= set(dir(rosi_edge))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rosi_edge.nothing  # noqa: B018


def test_every_command_that_needs_no_terminal_is_a_function() -> None:
    named = {"eval": "evaluate"}
    commands = {named.get(name, name) for name in application.commands} - {"study", "tui"}
    assert commands == {name for name in rosi_edge.__all__ if name.islower()}


def test_the_defaults_are_the_command_s() -> None:
    ours = command_options()
    values = harden_command.make_context("harden", ["model.gguf"]).params
    theirs = hardening_options(values, None, folder=ours.conditional.folder, reference="", command="")
    assert ours == replace(theirs, engine=ours.engine)


def test_the_report_says_how_to_do_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def session(
        model: Path, output: Path, prompts: object, judge: object, options: object, *rest: object
    ) -> None:
        seen.update(model=model, output=output, options=options)

    monkeypatch.setattr("rosi_edge.hardening.session.harden", session)
    model = write_tiny_llama(tmp_path / "model.gguf")
    rosi_edge.harden(model, tmp_path / "out.gguf")
    assert seen["options"].reference == str(model)
    assert seen["options"].command == f"rosi_edge.harden({str(model)!r}, {str(tmp_path / 'out.gguf')!r})"


def test_directions_can_be_kept_or_not(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model.gguf", layers=3)
    write_requests(tmp_path, 6)
    own = {"harmful": tmp_path / "harmful.txt", "harmless": tmp_path / "harmless.txt"}
    found = rosi_edge.extract(model, tmp_path / "direction.gguf", **own)
    assert (found.positive, found.negative) == (6, 6)
    assert (tmp_path / "direction.gguf").is_file()
    with pytest.raises(rosi_edge.RosiEdgeError):
        rosi_edge.extract(model, model, **own)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(rosi_edge.RosiEdgeError, match=r"does not exist\. Give the path of a \.gguf file"):
        rosi_edge.inspect(tmp_path / "none.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    assert rosi_edge.check(tmp_path / "broken.gguf").verdict == "failed"
    assert json.loads(rosi_edge.check(tmp_path / "broken.gguf").model_dump_json())["verdict"] == "failed"
