"""Reading and writing files: atomically, and without ever unpickling anything."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias

from collabedit.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "RepeatedNames",
    "StoredTensors",
    "StrPath",
    "atomic_path",
    "cache_directory",
    "cache_tensors",
    "check_output_file",
    "check_writable",
    "decode_json",
    "decode_text",
    "load_tensors",
    "make_directory",
    "parse_json",
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
    "write_private_text",
    "write_text",
]

logger = logging.getLogger(__name__)

StrPath: TypeAlias = "str | os.PathLike[str]"

#: Largest text file that is read into memory.
_MAX_BYTES = 512 << 20

_LFS_POINTER = b"version https://git-lfs"
#: First bytes of files that are not UTF-8 text, what the files are, and the remedy.
_FOREIGN_FILES = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save it as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save it as CSV UTF-8"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"BZh91AY&SY", "compressed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    *(
        (b"\x80" + bytes([n]), "a pickle", "write it as JSON; pickles are never read")
        for n in range(2, 6)
    ),
    (b"GGUF", "a GGUF model", "give a text file"),
    (b"PAR1", "a Parquet file", "convert it to JSON Lines or CSV"),
    (_LFS_POINTER, "a Git LFS pointer, not the file", "run 'git lfs pull'"),
)

#: Longest accepted header of a ``.safetensors`` file, which names tensors and holds metadata.
MAX_HEADER_BYTES = 32 * 2**20
#: Bytes per number, by the format's name for its type; collabedit writes no other types.
_ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_MAX_DIMENSIONS = 8


def cache_directory(*parts: str) -> Path:
    """A folder of collabedit's cache, created so that only this user can read it.

    ``COLLABEDIT_CACHE`` overrides the platform's default folder. An unwritable cache is
    not an error here: reading finds nothing, and writing says why it fails.
    """
    from platformdirs import user_cache_path

    root = os.environ.get("COLLABEDIT_CACHE")
    base = Path(root).expanduser() if root else user_cache_path("collabedit", appauthor=False)
    folder = base.joinpath(*parts)
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        logger.info("the cache %s cannot be written: %s", folder, error.strerror or error)
    return folder


def make_directory(path: StrPath) -> Path:
    """Make a folder that a command cannot do without, such as the cache of fetched models.

    Raises:
        InputError: when it cannot be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}; "
            "COLLABEDIT_CACHE=DIR puts the cache elsewhere"
        ) from None
    return folder


def check_writable(path: StrPath, size: int = 0) -> None:
    """Check, before any work, that a file or folder can be created at ``path``; leaves no trace.

    Args:
        path: of the file or folder; its parents need not exist.
        size: bytes that must be free there.

    Raises:
        InputError: when it cannot be created, or the disk has too little space.
    """
    _refuse_device(path)
    target = Path(path).absolute()
    folder = target.parent
    try:
        while not folder.is_dir() and folder != folder.parent:
            if folder.exists():
                raise NotADirectoryError(20, f"{folder} is not a folder")
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"collabedit")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    if free < size:
        raise InputError(
            f"cannot write {path}: it needs about {size / 1e6:,.1f} MB and {folder} has "
            f"{free / 1e6:,.1f} MB free; make room or choose another disk"
        )


def _refuse_device(path: StrPath) -> None:
    """Refuse to replace a device or a pipe, such as ``/dev/null``, by a file.

    Raises:
        InputError: when one is there.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return  # nothing is there, or writing will say what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"cannot write {path}: it is a device or a pipe; give a file")


def check_output_file(path: StrPath) -> None:
    """Check, before any work, that a file can be written.

    Raises:
        InputError: when it cannot, or is a directory.
    """
    if Path(path).is_dir():
        raise InputError(f"cannot write {path}: it is a directory; give a file")
    check_writable(path)


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only if all went well.

    Raises:
        InputError: when the file cannot be written.
    """
    _refuse_device(path)
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: StrPath, text: str) -> None:
    """Write a text file atomically.

    Raises:
        InputError: when it cannot be written, or the text has half a character.
    """
    with atomic_path(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"cannot write {path}: half a character ({error.object[error.start]!r}) is not text"
            ) from None
        temporary.chmod(0o644)


def write_private_text(path: StrPath, text: str) -> None:
    """Atomically write a text file that only this user can read.

    Raises:
        InputError: when it cannot be written.
    """
    with atomic_path(path) as temporary:  # which is created for this user only
        temporary.write_text(text, encoding="utf-8")


def write_json(path: StrPath, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: StrPath, what: str = "file", *, limit: int = _MAX_BYTES) -> str:
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
    """All bytes of a stream; too many are refused before they fill the memory.

    Raises:
        InputError: when there are more than ``limit``, 512 MiB by default.
    """
    size = _size(stream)
    raw = b"" if size > limit else stream.read(limit + 1)
    if size > limit or len(raw) > limit:
        raise InputError(f"{source}: larger than {limit >> 20} MiB, too large to read; split it")
    return raw


def _size(stream: IO[bytes]) -> int:
    """Size of a regular file in bytes; 0 for anything else."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, AttributeError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def decode_text(raw: bytes, source: str) -> str:
    """Decode UTF-8 text; the error says what the bytes look like instead.

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
    """Decode JSON text; an object that repeats a name becomes a :class:`RepeatedNames`.

    Raises:
        InputError: when it is not JSON, nested too deeply, or has a number with too many digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        fault = f"not valid JSON ({line}column {error.colno}: {error.msg})"
        raise InputError(f"{source}: {fault}{_json_remedy(text, error)}") from None
    except RecursionError:
        raise InputError(f"{source}: its JSON is nested too deeply; flatten it") from None
    except ValueError:  # CPython's limit on the digits of an integer
        found = re.search(r"\d{1000,}", text)
        before = text[: found.start()].count("\n") if found else 0
        where = f" (line {before + 1})" if "\n" in text else ""
        raise InputError(
            f"{source}: a number with too many digits{where}; put it in quotes or shorten it"
        ) from None


def _json_remedy(text: str, error: json.JSONDecodeError) -> str:
    """How to fix the most common causes of an error in JSON; empty for any other."""
    before, rest = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    remedies = [
        (not rest or "Unterminated" in error.msg, "is the file cut short?"),
        (rest.startswith(("//", "/*", "#")), "JSON has no comments: remove them"),
        (rest[:1] in ("]", "}") and before.endswith(","), "remove the comma before it"),
        ("trailing comma" in error.msg, "remove the comma"),
        (rest.startswith("'"), "use double quotes"),
        (rest[:1] in ("\u201c", "\u201d", "\u2018", "\u2019"), "use straight double quotes"),
        (bool(re.match("(None|True|False)\\b", rest)), "write null, true or false"),
        (
            error.msg == "Extra data" and rest[:1] in ("{", "["),
            "put values in a list, or each on its own line",
        ),
        ("control character" in error.msg, "write line breaks as \\n and tabs as \\t"),
        ("escape" in error.msg, "write a backslash as \\\\"),
    ]
    return next((f"; {remedy}" for holds, remedy in remedies if holds), "")


class RepeatedNames(dict[str, Any]):
    """A JSON object with a repeated name; as in :mod:`json`, the last value counts.

    Attributes:
        repeated: the first name that occurs again.
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


def read_json(path: StrPath, what: str = "file") -> Any:
    """Read a JSON file.

    Raises:
        InputError: when the file is missing, unreadable or not JSON.
    """
    return decode_json(read_text(path, what), str(path))


def parse_json(data: bytes, source: str) -> Any:
    """Parse untrusted JSON.

    Args:
        data: UTF-8 text.
        source: its name in error messages.

    Raises:
        InputError: when it is not JSON, is nested too deeply, repeats a name in an object, or holds
            a number that is not finite or text with half a character.
    """
    return _strict_json(decode_text(data, source), source)


def _strict_json(text: str, source: str) -> Any:
    value = decode_json(text, source)
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, RepeatedNames):
            raise InputError(f"{source}: an object has the name {item.repeated[:80]!r} twice")
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{source}: a number is not finite")
        if isinstance(item, str) and not _is_whole_text(item):
            raise InputError(f"{source}: a text has half a character (a lone surrogate)")
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
    return value


def _is_whole_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def save_tensors(
    path: StrPath, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a ``.safetensors`` file atomically; metadata values are stored as JSON strings.

    Raises:
        InputError: when the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(_storable(tensors), temporary, metadata=_metadata_texts(metadata))
        except SafetensorError as error:
            raise InputError(f"cannot write {path}: {error}") from None


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> bytes:
    """What :func:`save_tensors` would write, for sending."""
    from safetensors.torch import save

    return save(_storable(tensors), metadata=_metadata_texts(metadata))


def cache_tensors(
    path: StrPath, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Cache tensors; if that fails, it costs time later, but the work now goes on."""
    try:
        save_tensors(path, tensors, metadata)
    except InputError as error:
        logger.warning("nothing is cached: %s", error)


def _storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Dense tensors on the CPU, none of which shares memory with another."""
    seen: set[int] = set()
    storable = {}
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        if dense.untyped_storage().data_ptr() in seen:
            dense = dense.clone()
        seen.add(dense.untyped_storage().data_ptr())
        storable[name] = dense
    return storable


def _metadata_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}


def tensors_from_bytes(
    data: bytes, what: str = "message"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata from untrusted bytes, as :func:`tensors_to_bytes` writes them.

    Sizes are checked before memory is allocated.

    Args:
        data: the bytes.
        what: their name in error messages.

    Raises:
        InputError: when the bytes are not a complete ``.safetensors`` file written by collabedit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    metadata = _check_header(io.BytesIO(data), len(data), what)
    try:
        return load(data), metadata
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"{what}: not a safetensors file ({_first_line(error)})") from None


def _open_tensors(path: StrPath, what: str) -> tuple[Any, dict[str, Any]]:
    """The open file and its metadata, both checked."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"cannot read the {what} {path}: no such file")
    try:
        with Path(path).open("rb") as stream:
            metadata = _check_header(stream, os.fstat(stream.fileno()).st_size, str(path))
        return safe_open(path, framework="pt"), metadata
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_header(stream: BinaryIO, size: int, what: str) -> dict[str, Any]:
    """Metadata of a ``.safetensors`` stream, after checking all the sizes that it declares."""
    try:
        header = _read_header(stream, size, what)
        metadata = header.pop("__metadata__", {})
        end = max([0, *(_end_of_tensor(name, about) for name, about in header.items())])
        if end != size - stream.tell():
            raise ValueError(f"it declares {end:,} bytes and has {size - stream.tell():,}")
    except ValueError as error:
        raise InputError(f"{what}: not a safetensors file ({error})") from None
    try:
        return {key: _strict_json(value, what) for key, value in metadata.items()}
    except (InputError, AttributeError, TypeError):
        raise InputError(f"{what}: its metadata was not written by collabedit") from None


def _read_header(stream: BinaryIO, size: int, what: str) -> dict[str, Any]:
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if start == _LFS_POINTER[:8] and stream.read(len(_LFS_POINTER) - 8) == _LFS_POINTER[8:]:
        raise ValueError("it is a Git LFS pointer; run 'git lfs pull'")
    if size < 8 or length > size - 8:
        raise ValueError("it is truncated")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header of {length:,} bytes is too long")
    header = parse_json(stream.read(length), f"{what}: not a safetensors file; its header")
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _end_of_tensor(name: str, about: Any) -> int:
    """Where a tensor of a header ends, counted from the end of the header."""
    if not name.isprintable() or not isinstance(about, dict):
        raise ValueError("a tensor's entry is malformed")
    name = name[:80]
    dtype: Any = about.get("dtype")
    shape: Any = about.get("shape")
    offsets: Any = about.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"{name} has the unknown type {str(dtype)[:20]!r}")
    if not _whole_numbers(shape, _MAX_DIMENSIONS) or not _whole_numbers(offsets, 2):
        raise ValueError(f"{name} has a malformed shape or offset")
    if math.prod(max(length, 1) for length in shape) >= 2**62 or len(offsets) != 2:
        raise ValueError(f"{name} has an impossible shape")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"{name} does not have the size of its shape")
    return int(offsets[1])


def _whole_numbers(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and value >= 0 for value in values)
    )


def tensor_metadata(path: StrPath, what: str = "file") -> dict[str, Any]:
    """Metadata of a ``.safetensors`` file that collabedit wrote, without reading its tensors.

    Raises:
        InputError: when the file is missing, not safetensors, or has foreign metadata.
    """
    stored, metadata = _open_tensors(path, what)
    with stored:
        return metadata


def load_tensors(
    path: StrPath, what: str = "file"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a ``.safetensors`` file that collabedit wrote.

    Raises:
        InputError: when the file is missing, not safetensors, or has foreign metadata.
    """
    opened, metadata = _open_tensors(path, what)
    with opened as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, metadata  # noqa: SIM118


class StoredTensors(Mapping[str, "torch.Tensor"]):
    """The tensors of a ``.safetensors`` file, each read on access and not kept.

    Args:
        path: the file.
        what: its name in error messages.

    Raises:
        InputError: when the file is missing or not safetensors.
    """

    def __init__(self, path: StrPath, what: str = "file") -> None:
        self.path, self._what = Path(path), what
        opened, _ = _open_tensors(path, what)
        with opened as stored:
            self._names: list[str] = sorted(stored.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        opened, _ = _open_tensors(self.path, self._what)
        with opened as stored:
            tensor: torch.Tensor = stored.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own method would read the tensor

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
