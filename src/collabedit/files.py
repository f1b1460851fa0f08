"""Reading and writing files: atomically, and without ever unpickling anything."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collabedit.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "StoredTensors",
    "atomic_path",
    "cache_directory",
    "load_tensors",
    "read_json",
    "save_tensors",
    "sha256_of_json",
    "tensor_metadata",
    "utc_now",
    "write_json",
    "write_text",
]


def cache_directory(*parts: str) -> Path:
    """Folder of collabedit's cache, made readable by this user only.

    ``COLLABEDIT_CACHE`` overrides the platform's default place.
    """
    from platformdirs import user_cache_path

    root = os.environ.get("COLLABEDIT_CACHE")
    base = Path(root).expanduser() if root else user_cache_path("collabedit", appauthor=False)
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = base.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if all went well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """Read a JSON file.

    Raises:
        InputError: when the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a ``.safetensors`` file atomically; metadata values are stored as JSON strings."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={key: json.dumps(value, allow_nan=False) for key, value in metadata.items()},
        )


def _open_tensors(path: Path, what: str) -> Any:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"cannot read the {what} {path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def tensor_metadata(path: Path, what: str = "file") -> dict[str, Any]:
    """Metadata of a ``.safetensors`` file that collabedit wrote, without reading its tensors."""
    with _open_tensors(path, what) as stored:
        raw = stored.metadata() or {}
    try:
        return {key: json.loads(value) for key, value in raw.items()}
    except (json.JSONDecodeError, RecursionError):
        raise InputError(f"{path}: its metadata is not collabedit's") from None


def load_tensors(path: Path, what: str = "file") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a ``.safetensors`` file that collabedit wrote.

    Raises:
        InputError: when the file is missing, not safetensors, or has foreign metadata.
    """
    metadata = tensor_metadata(path, what)
    with _open_tensors(path, what) as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, metadata  # noqa: SIM118


class StoredTensors(Mapping[str, "torch.Tensor"]):
    """The tensors of a ``.safetensors`` file, each read when it is asked for and not kept.

    Args:
        path: the file.
        what: what complaints call it.

    Raises:
        InputError: when the file is missing or not safetensors.
    """

    def __init__(self, path: Path, what: str = "file") -> None:
        self.path, self._what = path, what
        with _open_tensors(path, what) as stored:
            self._names: list[str] = sorted(stored.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        with _open_tensors(self.path, self._what) as stored:
            tensor: torch.Tensor = stored.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def sha256_of_json(value: Any) -> str:
    """SHA-256 of the canonical JSON form of ``value``."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def utc_now() -> str:
    """The time in ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
