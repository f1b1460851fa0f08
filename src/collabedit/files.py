"""Reading and writing files: atomically, and without ever unpickling anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from collabedit.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "RepeatedNames",
    "StoredTensors",
    "atomic_path",
    "cache_directory",
    "decode_json",
    "decode_text",
    "load_tensors",
    "read_bounded",
    "read_json",
    "read_text",
    "save_tensors",
    "sha256_of_json",
    "tensor_metadata",
    "tensors_from_bytes",
    "tensors_to_bytes",
    "utc_now",
    "write_json",
    "write_text",
]


#: Largest text file that is read into memory.
_MAX_BYTES = 512 << 20

#: What files that are not UTF-8 text begin with, what they are, and the remedy.
_FOREIGN_FILES = (
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save it as CSV UTF-8"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"PAR1", "a Parquet file", "convert it to JSON Lines or CSV"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file", "run 'git lfs pull'"),
)


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
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if all went well."""
    path = Path(path)
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | os.PathLike[str], what: str = "file", *, limit: int = _MAX_BYTES) -> str:
    """Read a UTF-8 text file of at most ``limit`` bytes; a byte order mark is dropped.

    Raises:
        InputError: when the file is missing, unreadable, too large or not UTF-8 text.
    """
    try:
        with Path(path).open("rb") as stream:
            return decode_text(read_bounded(stream, str(path), limit=limit), str(path))
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except ValueError as error:  # a path with a NUL character
        raise InputError(f"cannot read the {what} {os.fspath(path)!r}: {error}") from None


def read_bounded(stream: IO[bytes], source: str, *, limit: int = _MAX_BYTES) -> bytes:
    """All bytes of a stream, refused before they fill the memory.

    Raises:
        InputError: when there are more than ``limit``, 512 MiB by default.
    """
    size = _size(stream)
    raw = b"" if size > limit else stream.read(limit + 1)
    if size > limit or len(raw) > limit:
        raise InputError(f"{source}: larger than {limit >> 20} MiB, too large to read; split it")
    return raw


def _size(stream: IO[bytes]) -> int:
    """Bytes of a regular file; 0 of what does not tell its size."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, AttributeError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def decode_text(raw: bytes, source: str) -> str:
    """Decode UTF-8 text; whatever else it looks like is named.

    Raises:
        InputError: when the bytes are not UTF-8 text.
    """
    for magic, kind, remedy in _FOREIGN_FILES:
        if raw.startswith(magic):
            raise InputError(f"{source}: {kind}; {remedy}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}: not UTF-8 text (line {line}, byte {error.start}); save it as UTF-8"
        ) from None
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise InputError(f"{source}, line {line}: a NUL byte; remove it, or save the file as UTF-8")
    return text


def decode_json(text: str, source: str) -> Any:
    """Decode JSON text; an object that gives a name twice becomes a :class:`RepeatedNames`.

    Raises:
        InputError: when it is not JSON, nested too deeply, or has a number of too many digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise InputError(
            f"{source}: not valid JSON ({line}column {error.colno}: {error.msg})"
        ) from None
    except RecursionError:
        raise InputError(f"{source}: its JSON is nested too deeply; flatten it") from None
    except ValueError:  # CPython's limit on the digits of an integer
        found = re.search(r"\d{1000,}", text)
        before = text[: found.start()].count("\n") if found else 0
        place = f" (line {before + 1})" if "\n" in text else ""
        raise InputError(
            f"{source}: a number of too many digits{place}; put it in quotes or shorten it"
        ) from None


class RepeatedNames(dict[str, Any]):
    """A JSON object that gives a name more than once; as in :mod:`json`, the last value counts.

    Attributes:
        repeated: the first name that it repeats.
    """

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    made = RepeatedNames(values)
    counts = Counter(name for name, _ in pairs)
    made.repeated = next(name for name, count in counts.items() if count > 1)
    return made


def read_json(path: str | os.PathLike[str], what: str = "file") -> Any:
    """Read a JSON file.

    Raises:
        InputError: when the file is missing, unreadable or not JSON.
    """
    return decode_json(read_text(path, what), str(path))


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
) -> None:
    """Write a ``.safetensors`` file atomically; metadata values are stored as JSON strings."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(_plain(tensors), temporary, metadata=_as_text(metadata))


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> bytes:
    """What :func:`save_tensors` would write."""
    from safetensors.torch import save

    return save(_plain(tensors), metadata=_as_text(metadata))


def tensors_from_bytes(
    data: bytes, what: str = "message"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata in bytes that :func:`tensors_to_bytes` made.

    Raises:
        InputError: when they are something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        raw = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        return tensors, {key: json.loads(value) for key, value in raw.items()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: not a safetensors file ({error})") from None


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}


def _open_tensors(path: str | os.PathLike[str], what: str) -> Any:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"cannot read the {what} {path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def tensor_metadata(path: str | os.PathLike[str], what: str = "file") -> dict[str, Any]:
    """Metadata of a ``.safetensors`` file that collabedit wrote, without reading its tensors."""
    with _open_tensors(path, what) as stored:
        raw = stored.metadata() or {}
    try:
        return {key: json.loads(value) for key, value in raw.items()}
    except (json.JSONDecodeError, RecursionError):
        raise InputError(f"{path}: its metadata is not collabedit's") from None


def load_tensors(
    path: str | os.PathLike[str], what: str = "file"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
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

    def __init__(self, path: str | os.PathLike[str], what: str = "file") -> None:
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
