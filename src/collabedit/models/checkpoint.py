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
#: Most layers that a configuration may ask for; building more would take hours.
_MOST_LAYERS = 10_000
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
#: Types of integers in ``.safetensors`` files.
_INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})
_OTHER_FORMATS = {
    ".pth": "the publisher's own format",
    ".pt": "the publisher's own format",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".npz": "MLX",
}
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"}


def find_model(path: Path) -> Path:
    """The model that a path refers to: a ``.gguf`` file or a directory with ``config.json``.

    Raises:
        InputError: when it is neither; the message says what it seems to be.
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
        raise ModelError(f"{path} is not a GGUF file, or it is damaged; download it again")
    return path


def _instead(folder: Path) -> str:
    """What to give instead of a directory that is not a model."""
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
    levels = ("*", "snapshots/*", "*/snapshots/*")  # the last two in a cache of the Hub
    inside = [
        path.parent for level in levels for path in sorted(folder.glob(f"{level}/config.json"))
    ]
    return f"did you mean {inside[0]}?" if inside else "give the directory of a model"


def _base_model(folder: Path) -> str | None:
    try:
        value = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    base = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    return base if isinstance(base, str) else None


def check_files(folder: Path, *, weights: bool = True) -> None:
    """Check that the files of a model directory are present and complete.

    Only headers are read, so this takes milliseconds at any size.

    Args:
        folder: the directory.
        weights: whether it must hold weights; inspecting only its structure needs none.

    Raises:
        ModelError: when a file is a Git LFS pointer, is truncated, or is missing; when weights are
            packed and the configuration does not say how, or it asks for impossibly many layers.
    """
    try:
        _check_files(folder, weights)
    except OSError as error:
        where = error.filename or folder
        raise ModelError(f"cannot read {where}: {error.strerror or error}") from None


def _check_files(folder: Path, needs_weights: bool) -> None:
    weights = _weights(folder)
    others = [path for kind in _SMALL_FILES for path in sorted(folder.glob(kind))]
    for path in [*weights, *others]:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise ModelError(f"{path} is not a regular file; download the model again")
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise _lfs_error(path)
    config = read_json_object(folder / "config.json")
    _check_depth(folder, config)
    if needs_weights and not weights and not config.get("transformers_weights"):
        _check_no_weights(folder)
    dense = not any(name in config for name in ("quantization_config", "compression_config"))
    for path in weights:
        if path.suffix == ".safetensors":
            _check_safetensors(path, dense=dense)


def _check_depth(folder: Path, config: dict[str, Any]) -> None:
    """Check that the number of layers is plausible, so that the model can be built at all."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        counts = [part.get(name) for name in _LAYER_COUNTS]
        if any(isinstance(count, int) and count > _MOST_LAYERS for count in counts):
            raise ModelError(
                f"{folder / 'config.json'} asks for more than {_MOST_LAYERS:,} layers; use the "
                "config.json that belongs to the model"
            )


def _check_no_weights(folder: Path) -> None:
    """Refuse a directory without readable weights, and name what is there instead."""
    if (folder / "adapter_config.json").is_file():
        return  # the adapter names the model that it belongs to
    names = sorted(path.name for path in folder.iterdir())
    dangling = next(
        (name for name in names if name.startswith("model.") and _is_dangling(folder, name)), None
    )
    if dangling is not None:
        raise ModelError(
            f"{folder / dangling} is a link to a file that is missing; download it again"
        )
    tensors = [name for name in names if name.endswith(".safetensors")]
    if any(_SPLIT.search(name.removesuffix(".safetensors")) for name in tensors):
        raise ModelError(
            f"{folder}: model.safetensors.index.json is missing, which says what is in "
            f"{tensors[0]} and the other parts; download it"
        )
    other = next((name for name in names if Path(name).suffix in _OTHER_FORMATS), None)
    if other is not None:
        form = _OTHER_FORMATS[Path(other).suffix]
        found = f"only {other} ({form}); give a copy for transformers"
    elif tensors:
        found = f"only {tensors[0]}; rename it if it holds the weights as transformers names them"
    else:
        found = "nor any other weights; download the model again"
    raise ModelError(f"{folder}: there is no model.safetensors or pytorch_model.bin in it, {found}")


def _is_dangling(folder: Path, name: str) -> bool:
    return (folder / name).is_symlink() and not (folder / name).exists()


def _weights(folder: Path) -> list[Path]:
    """The files that ``transformers`` would read the weights from.

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
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(
            f"{index} does not say which file holds which tensor; download the model again"
        )
    for name in sorted({str(name) for name in names.values()}):
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name}, which is missing; download the model again")
        yield index.parent / name


def _check_safetensors(path: Path, *, dense: bool) -> None:
    """Check that a file is as long as its header says, and that dense weights are not integers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ModelError(f"{path} is damaged or cut short; download it again")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            whole = 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0)
            packed = [
                (name, str(t["dtype"]))
                for name, t in header.items()
                if name.endswith(".weight") and t["dtype"] in _INTEGERS
            ]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise ModelError(f"{path} is not a safetensors file; download it again") from None
    if dense and packed:
        name, dtype = packed[0]
        raise ModelError(
            f"{path}: {name} is packed ({dtype}), and config.json does not say how to unpack it; "
            "use the unpacked original"
        )
    if size < whole:
        raise ModelError(
            f"{path} is cut short: it has {size:,} of {whole:,} bytes; download it again"
        )


def _lfs_error(path: Path) -> ModelError:
    return ModelError(
        f"{path} is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in one of a model's JSON files.

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
