"""What an installed copy consists of, and what it asks for."""

from __future__ import annotations

import ast
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from installed import FOLDERS, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def test_the_wheel_holds_every_file_and_no_other(source: Path, wheel: Path) -> None:
    held = {
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if not name.partition("/")[0].endswith(".dist-info")
    }
    expected = {
        f"{package}/{path.relative_to(source / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert held == expected


def test_the_wheel_says_who_made_it_and_where_it_comes_from(wheel: Path) -> None:
    from rosi_edge import __version__

    metadata = zipfile.ZipFile(wheel).read(f"rosi_edge-{__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nAuthor: rosi-edge contributors\n" in metadata
    assert "\nProject-URL: Source, https://" in metadata


def imported(*folders: str, own: Iterable[str] = ()) -> dict[str, str]:
    """Each top-level name that Python files import from other projects, with a file that does."""
    known = {*sys.stdlib_module_names, *FOLDERS.values(), *own}
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for module in _imports(ast.parse(path.read_bytes())):
            found.setdefault(module.partition(".")[0], path.relative_to(ROOT).as_posix())
    return {name: where for name, where in found.items() if name not in known}


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def undeclared(imports: dict[str, str], *, with_groups: bool = False) -> dict[str, str]:
    """The imports that no requirement of pyproject.toml names."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lists = [settings["project"]["dependencies"], *settings["project"]["optional-dependencies"].values()]
    if with_groups:
        lists += settings["dependency-groups"].values()
    # A group may include another: that is a table, and the other is in the list itself.
    declared = {
        canonicalize_name(Requirement(entry).name)
        for entries in lists
        for entry in entries
        if isinstance(entry, str)
    }
    distributions = packages_distributions()
    return {
        # What is not installed, such as an extra, is taken to be called as it is imported.
        name: where
        for name, where in imports.items()
        if not declared & set(map(canonicalize_name, distributions.get(name, [name])))
    }


def test_what_the_tool_imports_is_declared() -> None:
    found = imported("rosi_edge", "tui")
    assert {"numpy", "llama_cpp", "textual"} <= set(found)
    assert undeclared(found) == {}


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    folders = ("tests", "benchmarks")
    own = [path.stem for folder in folders for path in (ROOT / folder).rglob("*")]
    found = imported(*folders, own=own)
    assert {"pytest", "yaml"} <= set(found)
    assert undeclared(found, with_groups=True) == {}
