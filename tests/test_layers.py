"""The house: data flows one way, and nothing imports from a folder above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "rosi_edge": ROOT / "rosi_edge",
    "rosi_edge_tui": ROOT / "tui",
    "rosi_edge_fixtures": ROOT / "fixtures",
}
ORDER = (
    *("errors", "basics", "native", "models", "sources", "prompts", "quantization", "edits", "inspection"),
    *("abliteration", "runtime", "direction", "records", "evaluation", "baking", "report", "search"),
    *("verification", "hardening", "study", "policy", "library", "commands", "tui", "cli", "__main__"),
)
"""From the ground up. The wizard repeats what the commands do, so it stands above them."""
LONGEST = 400
"""Lines of a module."""


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@cache
def imported(module: str) -> frozenset[str]:
    """Every module of the project that a module imports, inside functions too."""
    return frozenset(_imports(module))


def _imports(module: str) -> Iterator[str]:
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                target = f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                if target in MODULES and target != module:
                    yield target


def layer(module: str) -> str:
    package, *rest = module.split(".")
    return {"rosi_edge_tui": "tui", "rosi_edge_fixtures": "fixtures"}.get(package) or (
        rest[0] if rest else ""
    )


def test_every_folder_has_its_place() -> None:
    assert {layer(module) for module in MODULES} - {"", "fixtures"} == set(ORDER)


def test_nothing_imports_upwards() -> None:
    upwards = {
        module: found
        for module in MODULES
        if layer(module) in ORDER
        and (found := {target for target in imported(module) if _above(target, layer(module))})
    }
    # The command that opens the wizard imports it when it is asked to.
    assert upwards.pop("rosi_edge.commands.tui", set()) <= {"rosi_edge_tui.app"}
    assert upwards == {}


def _above(target: str, own: str) -> bool:
    return layer(target) in ORDER and ORDER.index(layer(target)) > ORDER.index(own)


def test_there_is_no_circle() -> None:
    graph = {module: set(imported(module)) for module in MODULES}
    graph["rosi_edge.commands.tui"].discard("rosi_edge_tui.app")
    # What the package exports is imported when it is used.
    graph["rosi_edge"].clear()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_module_is_long() -> None:
    lines = {module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > LONGEST} == {}


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([argument for argument in named if argument.arg not in ("self", "cls")])


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_no_function_takes_more_than_eight_parameters() -> None:
    long = {
        f"{module}.{node.name}": _parameters(node)
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _parameters(node) > 8
        and not _is_command(node)
    }
    assert long == {}


def test_ctypes_is_used_in_native_alone() -> None:
    users = {
        layer(module)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name == "ctypes" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "ctypes")
    }
    assert users == {"native"}
