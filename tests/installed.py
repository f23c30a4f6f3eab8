"""The tool as it is installed: the built wheel and what it declares, in environments without a checkout.

What is declared is linked from the environment of the tests, so nothing is fetched and nothing compiled.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, cast

import click
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rosi_edge.cli import application

ROOT = Path(__file__).parents[1]
FOLDERS = {"rosi_edge": "rosi_edge", "tui": "rosi_edge_tui", "fixtures": "rosi_edge_fixtures"}
"""Where the code lies, and what it is called when installed."""


def copy_source(copy: Path) -> Path:
    """A copy to build in: a ``build/`` left by an earlier build would end up in the wheel."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build_wheel(source: Path, folder: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)],
        check=True, timeout=300,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


def declared(wheel: Path, extras: Iterable[str] = ()) -> set[str]:
    """The distributions that pip would install with the wheel, those that they need included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        own = email.message_from_bytes(archive.read(name))
    found: set[str] = set()
    waiting = [("rosi-edge", extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        needs = own.get_all("Requires-Dist") if name == "rosi-edge" else distribution(name).requires
        for requirement in map(Requirement, needs or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                found.add(needed)
                new = {(needed, wanted) for wanted in ("", *requirement.extras)} - seen
                seen |= new
                waiting += new
    return found - {"rosi-edge"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment in ``folder``."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, distributions: Iterable[str]) -> Environment:
        """With these distributions, and nothing else."""
        venv.EnvBuilder(symlinks=True).create(folder)
        (site,) = folder.glob("lib/python*/site-packages")
        for name in distributions:
            made = distribution(name)
            for top in {file.parts[0] for file in made.files or ()} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(str(made.locate_file(top))))
        return cls(folder)

    @property
    def tools(self) -> Path:
        return self.folder / "bin"

    def variables(self, **more: str) -> dict[str, str]:
        """Those of the tests, without what would lead to the checkout."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"} | more

    def run(self, folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment, in ``folder``."""
        return subprocess.run(
            [str(self.tools / command[0]), *map(str, command[1:])],
            cwd=folder, env=self.variables(**variables), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=600, check=False,
        )  # fmt: skip

    def install_by_action(self, source: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
        """The action's step, without the network: what is declared is there already."""
        step = action_step("Install")
        # 0 is how pip is told: the variable names the option, whose value is "isolated".
        offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        variables = action_variables(step, inputs) | offline | {"GITHUB_ACTION_PATH": str(source)}
        return self.shell(step["run"], self.folder, **variables)

    def shell(self, script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """As the runner of an action does: bash that stops at the first error."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=folder, env=self.variables(**variables), capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip


def action() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    return loaded


def action_step(name: str) -> dict[str, Any]:
    (step,) = [step for step in action()["runs"]["steps"] if step["name"] == name]
    return cast(dict[str, Any], step)


def action_variables(step: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """The variables of a step, where the inputs are these or the defaults."""
    given = {name: str(entry.get("default", "")) for name, entry in action()["inputs"].items()} | dict(inputs)
    return {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }


def commands(group: click.Group = application) -> list[list[str]]:
    """What can be typed, groups included."""
    found: list[list[str]] = [[]]
    for name, command in group.commands.items():
        below = commands(command) if isinstance(command, click.Group) else [[]]
        found += [[name, *rest] for rest in below]
    return found


def only_line(done: subprocess.CompletedProcess[str], words: Sequence[str] = ()) -> str:
    """The one line on stderr of a command that could not run."""
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line
    return line
