"""What a local model directory reveals before anything is loaded from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collabedit.errors import InputError, ModelError

__all__ = ["check_files", "find_model", "read_json_object"]

_LFS_POINTER = b"version https://git-lfs"
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
_SMALL_FILES = ("config.json", "tokenizer*", "*vocab*", "merges.txt", "*.model")
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"}


def find_model(path: Path) -> Path:
    """The model that a path means: a ``.gguf`` file or a directory with ``config.json``.

    Raises:
        InputError: when it is neither; the message names what it seems to be.
        ModelError: when it is one part of a split GGUF file.
    """
    if path.suffix.lower() == ".gguf":
        return _gguf(path)
    if path.is_file():
        what = "a weights file" if path.suffix in _WEIGHTS else "a file, not a model"
        raise InputError(f"{path} is {what}; give the model's directory: {path.parent}")
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json in it; {_instead(path)}")
    return path


def _gguf(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"cannot read the model {path}: no such file")
    if part := _SPLIT.search(path.stem):
        raise ModelError(
            f"{path} is part {int(part[1])} of {int(part[2])} of a split GGUF file; join the parts "
            "first, with 'llama-gguf-split --merge FIRST_PART OUTPUT', and give the result"
        )
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise _lfs_error(path)
    if not start.startswith(b"GGUF"):
        raise ModelError(f"{path} is no GGUF file, or it is damaged; download it again")
    return path


def _instead(folder: Path) -> str:
    """What to give in place of a directory that is no model."""
    if (folder / "adapter_config.json").is_file():
        base = _base_model(folder)
        return (
            f"it is an adapter of {base or 'another model'}, not a model; merge it into that model "
            "(with peft: merge_and_unload, then save_pretrained) and give the result"
        )
    if ggufs := sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".gguf"):
        return f"give one of its GGUF files, such as {folder / ggufs[0]}"
    if (folder / "params.json").is_file():
        return "it seems to hold the publisher's own format; give a copy for transformers"
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return f"did you mean {inside[0]}?" if inside else "give the directory of a model"


def _base_model(folder: Path) -> str | None:
    try:
        value = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    base = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    return base if isinstance(base, str) else None


def check_files(folder: Path) -> None:
    """Check that the files of a model directory are there and whole.

    Only headers are read, so this takes milliseconds at any size.

    Raises:
        ModelError: when a file is a Git LFS pointer, is truncated, or is missing.
    """
    weights = _weights(folder)
    others = [path for kind in _SMALL_FILES for path in sorted(folder.glob(kind))]
    for path in [*weights, *others]:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise _lfs_error(path)
    read_json_object(folder / "config.json")
    for path in weights:
        if path.suffix == ".safetensors":
            _check_safetensors(path)


def _weights(folder: Path) -> list[Path]:
    """The files that weights are read from, of those that may lie there: as transformers chooses.

    Raises:
        ModelError: when an index names one that is missing.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        single, index = folder / name, folder / f"{name}.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return list(_indexed(index))
    return []


def _indexed(index: Path) -> Iterator[Path]:
    names = read_json_object(index).get("weight_map", {})
    for name in sorted({str(name) for name in names.values()} if isinstance(names, dict) else ()):
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name}, which is missing; download the model again")
        yield index.parent / name


def _check_safetensors(path: Path) -> None:
    """Check that a file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ModelError(f"{path} is damaged or cut short; download it again")
        try:
            header = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise ModelError(f"{path} is no safetensors file; download it again") from None
    if size < whole:
        raise ModelError(
            f"{path} is cut short: it has {size:,} of {whole:,} bytes; download it again"
        )


def _lfs_error(path: Path) -> ModelError:
    return ModelError(
        f"{path} is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """An object from a JSON file of a model.

    Raises:
        ModelError: when the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object; download the model again")
    return value
