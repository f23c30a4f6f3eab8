"""What all tests share: the demo model, an engine that runs it, and a tiny model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from installed import Environment, build_wheel, copy_source, declared
from tiny_gguf import write_tiny_llama

from rosi_edge.basics.cache import CACHE_VARIABLE, cache_folder
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.sources.resolve import resolve

# Shared machines pause whenever they like; time limits belong to the whole test.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache without anybody's searches and evaluations, which would answer for the code under test; only
    the fetched models are shared."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models").symlink_to(models.resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        yield


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model, fetched when it is not there. Tests that use it are marked ``model``."""
    return resolve("demo")


@pytest.fixture(scope="session")
def demo_engine(demo_model: Path) -> Iterator[LlamaEngine]:
    """One engine for all tests: whoever applies or loads edits takes them away again."""
    with LlamaEngine(demo_model) as engine:
        yield engine


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random three-block llama with a chat template; read only."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", layers=3)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run only where they are asked for by name."""
    if "long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to build in."""
    return copy_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def light(source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What ``pip install rosi-edge`` gives, installed by the step of the action for static checks: llama.cpp,
    optuna, scipy, matplotlib and textual are not there."""
    # setuptools, because pip builds the wheel in here.
    environment = Environment.of(tmp_path_factory.mktemp("light"), declared(wheel) | {"setuptools"})
    done = environment.install_by_action(source, static="true")
    assert done.returncode == 0, done
    return environment


@pytest.fixture(scope="session")
def whole(source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What the wizard and ``harden`` need as well."""
    environment = Environment.of(tmp_path_factory.mktemp("whole"), declared(wheel, ["tui"]))
    done = environment.install_by_action(source, install=f"{wheel}[tui]")
    assert done.returncode == 0, done
    return environment


def pytest_configure() -> None:
    """Background jobs of a shell start with Ctrl-C ignored and hand that on; the tests of Ctrl-C need it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
