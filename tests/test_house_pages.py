"""Pages for people who change the project: what they name is there, and versions agree."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from test_layers import ORDER

from rosi_edge import __version__
from rosi_edge.evaluation.judges import registry as judges
from rosi_edge.evaluation.suites import registry as suites
from rosi_edge.policy.rules.registry import FIGURE_ID, RULE_TEXTS

ROOT = Path(__file__).parents[1]


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_contributing_names_what_is_there() -> None:
    text = page("CONTRIBUTING.md")
    folders = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    tops = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._")
    paths = re.findall(rf"\b(?:{tops})/[\w./-]*\w", text)
    missing = {name for name in paths if "NAME" not in name and not (ROOT / name).exists()}
    missing |= {name for name in folders if not (ROOT / "rosi_edge" / name).exists()}
    assert len(paths) > 20
    assert missing == set()
    assert all(hasattr(judges, name) for name in ("_RECOGNISERS", "GUARDS", "KINDS", "open_judge"))
    assert hasattr(suites, "_ORDER")


def test_the_table_of_folders_is_the_order_of_imports() -> None:
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", page("CONTRIBUTING.md"), re.MULTILINE)
    assert rows == [name for name in ORDER if name not in ("tui", "__main__")]


def test_every_rule_has_a_row() -> None:
    rows = set(re.findall(r"^\| (RE\d+)", page("docs/release-gate.md"), re.MULTILINE))
    assert rows == set(RULE_TEXTS) | {FIGURE_ID}


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", page("CHANGELOG.md"), re.MULTILINE)
    assert first is not None
    assert first[1] == __version__


def test_pages_name_the_tag_of_this_version() -> None:
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.*"), ROOT / "README.md"]
    text = "\n".join(path.read_text("utf-8") for path in pages if path.is_file())
    tags = re.findall(r"(?:rosi-edge@|rev: )v(\S+)", text)
    assert set(tags) == {__version__}


def docs_update() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_update", ROOT / "docs" / "update.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_in_the_docs_is_current() -> None:
    """In a process of its own: click keeps the help option that a command was first shown with."""
    script = ROOT / "docs" / "update.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_its_help_in_the_docs() -> None:
    pages = "\n".join(path.read_text("utf-8") for path in ROOT.glob("docs/*.md"))
    asked = re.findall(r"<!-- help ([\w ]+) -->", pages)
    assert sorted(asked) == sorted(docs_update().commands())


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(page("README.md").split()) < 500


def test_figures_of_the_readme_are_those_that_were_measured() -> None:
    table = page("README.md").partition("<!-- figures -->")[2].partition("<!-- /figures -->")[0]
    figures = re.findall(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}", table)
    assert len(figures) == 8
    measured = page("docs/measured.md")
    assert [figure for figure in figures if figure not in measured] == []
