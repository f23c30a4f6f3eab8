"""The command ``extract``: what it prints."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from rosi_edge.cli import application
from rosi_edge.models.gguf_file import GgufFile


def test_every_separation_has_an_interval_and_an_n(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("harmful", "harmless"):
        (tmp_path / name).write_text("".join(f"{name} {n}?\n" for n in range(6)), "utf-8")
    arguments = ["extract", str(tiny_model), "-o", str(tmp_path / "direction.gguf"), "-t", "1"]
    arguments += ["--harmful", str(tmp_path / "harmful"), "--harmless", str(tmp_path / "harmless")]
    result = CliRunner().invoke(application, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "n = 12" in result.stdout
    found = json.loads(CliRunner().invoke(application, [*arguments, "--json"], catch_exceptions=False).stdout)
    with GgufFile.open(tmp_path / "direction.gguf") as file:
        assert len(found["separation"]) >= len(file.tensors) >= 2
    for entry in found["separation"]:
        (row,) = (line for line in result.stdout.splitlines() if f"│ {entry['layer']} " in line)
        assert f"{entry['d_prime']:.2f} (" in row
        assert f"{entry['auc']:.2f} (" in row
        assert row.count(" to ") == 2
