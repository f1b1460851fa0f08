"""The weights of an edited model, written as a copy of the original's files.

Only the edited matrices differ, and they keep their type and shape, so their new bytes overwrite
the old ones and everything else in the files stays as it was. A model may hold the experts of a
layer as one parameter that its files store in separate parts; these parts are what is copied and
compared here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError
from collabedit.files import read_json
from collabedit.models.language_model import LanguageModel
from collabedit.models.placement import stored_weight

__all__ = [
    "EditedCopy",
    "Parts",
    "check_written",
    "opened",
    "overwrite_tensors",
    "parts_of",
    "stored_key",
    "stored_names",
    "value_of",
]

#: How many names are tried for a parameter that the checkpoint calls something else.
_TRIED = 4
#: Entries of a configuration that loading sets.
_NO_SETTINGS = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
#: safetensors' names for the types that models are edited in.
_STORED_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class EditedCopy:
    """A plan to turn the original's weight files into the edited model's.

    Attributes:
        original: the directory of the original.
        files: names of its weight files, and of their index.
        changed: for each file, its names for the edited parts in it, by the part's own name
            (:func:`parts_of`).
    """

    original: Path
    files: tuple[str, ...]
    changed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: LanguageModel, original: Path) -> EditedCopy | None:
        """Compare a model with its files.

        Returns:
            ``None`` if its files can't simply be copied: they are packed, of another type or not
            safetensors, have an adapter beside them, or differ from the model in its settings or
            in more than the weights that collabedit edits.
        """
        stored = stored_names(original)
        if (
            not stored
            or _is_packed(str(model.dtype).removeprefix("torch."), original)
            or not _has_same_settings(model, original)
        ):
            return None
        parts = Parts(model)
        weights = map(model.structure.weight_name, range(model.structure.n_layers))
        editable = {part for name in weights for part in parts.names[name]}
        names = _names_of(parts, model.hf.base_model_prefix, stored, editable)
        if not names:
            return None
        changed: dict[str, dict[str, str]] = {}
        for name, key in names.items():
            same = _is_stored(parts[name], original / stored[key], key)
            if same is None or (not same and name not in editable):
                return None
            if not same:
                changed.setdefault(stored[key], {})[name] = key
        if not _has_renamed(parts, names, {key: original / stored[key] for key in stored}):
            return None
        return cls(original, _weight_files(stored), changed)

    @classmethod
    def of_files(
        cls, original: Path, names: Iterable[str], prefix: str, dtype: str
    ) -> EditedCopy | None:
        """Plan the copy from the files alone, if the edited weights are known to come from them.

        Args:
            original: directory of the original.
            names: names of the parts of the edited weights.
            prefix: prefix of names in the model without its head (``base_model_prefix``).
            dtype: type that the model was edited in.

        Returns:
            ``None`` if the files can't simply be copied, as for :meth:`of`.
        """
        stored = stored_names(original)
        if not stored or _is_packed(dtype, original):
            return None
        changed: dict[str, dict[str, str]] = {}
        for name in names:
            key = stored_key(name, prefix, stored)
            if key is None:
                return None
            with opened(original / stored[key]) as file:
                if file.get_slice(key).get_dtype() != _STORED_TYPES[dtype]:
                    return None
            changed.setdefault(stored[key], {})[name] = key
        return cls(original, _weight_files(stored), changed)

    def write(self, value: Callable[[str], Tensor], folder: Path) -> None:
        """Write the weight files into a directory, one at a time.

        Args:
            value: returns a part of an edited weight, given its name.
            folder: the directory.
        """
        for file in self.files:
            shutil.copyfile(self.original / file, folder / file)
            changed = self.changed.get(file, {})
            overwrite_tensors(folder / file, {key: value(name) for name, key in changed.items()})


def _weight_files(stored: Mapping[str, str]) -> tuple[str, ...]:
    """The files of a checkpoint, and their index."""
    files = sorted(set(stored.values()))
    return tuple(files if _SINGLE in files else [*files, _INDEX])


class Parts(Mapping[str, Tensor]):
    """A model's parameters, split into the parts in which its files store them, read on access.

    Attributes:
        names: the names of each parameter's parts.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.names = {
            name: list(parts_of(model.hf, name, parameter.to("meta")))
            for name, parameter in model.hf.named_parameters()
        }
        self._owner = {part: name for name, parts in self.names.items() for part in parts}
        self._last: tuple[str, Mapping[str, Tensor]] = "", {}

    def __getitem__(self, part: str) -> Tensor:
        name = self._owner[part]
        if name == part:
            return value_of(self._model, name)
        if self._last[0] != name:  # splitting a parameter takes as long as copying it
            self._last = name, parts_of(self._model.hf, name, value_of(self._model, name))
        return self._last[1][part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)


def parts_of(hf: Any, name: str, value: Tensor) -> dict[str, Tensor]:
    """A parameter split into the parts in which files store it: experts separately, others whole.

    Args:
        hf: the ``transformers`` model, which knows how it converted its files.
        name: the parameter's name.
        value: its value, in the form in which the model stores it.
    """
    if value.ndim < 3:
        return {name: value}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # version 5 is the first to hold several matrices in one parameter
        return {name: value}
    return dict(revert_weight_conversion(hf, {name: value}))


def value_of(model: LanguageModel, name: str) -> Tensor:
    """A parameter as the model stores it, wherever it is stored."""
    path, _, own_name = name.rpartition(".")
    return stored_weight(model.module(path), own_name)


def stored_names(original: Path) -> dict[str, str]:
    """The file of each weight, where ``transformers`` looks for it; empty if not safetensors."""
    if (original / _SINGLE).is_file():
        with opened(original / _SINGLE) as stored:
            return dict.fromkeys(stored.keys(), _SINGLE)
    try:
        weight_map = read_json(original / _INDEX)["weight_map"]
        names = {str(name): str(file) for name, file in weight_map.items()}
    except (InputError, KeyError, TypeError, AttributeError):
        return {}
    plain = all(Path(file).name == file and (original / file).is_file() for file in names.values())
    return names if plain else {}


def opened(path: Path) -> Any:
    """A safetensors file, open for reading single tensors."""
    from safetensors import safe_open

    return safe_open(path, framework="pt")


def _is_packed(dtype: str, original: Path) -> bool:
    """Whether the files hold something other than the model's weights in the model's type."""
    if (original / "adapter_config.json").exists():
        return True
    config = read_json(original / "config.json")
    parts = [config, config.get("text_config") or {}]
    types = {part.get(key) for part in parts for key in ("dtype", "torch_dtype")} - {None}
    return any("quantization_config" in part for part in parts) or not (types <= {dtype})


def _has_same_settings(model: LanguageModel, original: Path) -> bool:
    """Whether the original's ``config.json`` describes the model as it is in memory."""
    config = model.hf.config
    stored = type(config).from_pretrained(original)
    ours, theirs = (
        {key: value for key, value in settings.to_dict().items() if key not in _NO_SETTINGS}
        for settings in (config, stored)
    )
    return ours == theirs


def _names_of(
    parts: Iterable[str], prefix: str, stored: Mapping[str, str], editable: Set[str]
) -> dict[str, str]:
    """A checkpoint's name for each part; some checkpoints name those of the model without its head.

    Empty unless all parts of weights that can be edited are found.
    """
    keys = {part: stored_key(part, prefix, stored) for part in parts}
    names = {part: key for part, key in keys.items() if key is not None}
    unique = len(set(names.values())) == len(names)
    return names if unique and editable <= names.keys() else {}


def stored_key(name: str, prefix: str, stored: Container[str]) -> str | None:
    """A checkpoint's name for a parameter; some checkpoints are of the model without its head."""
    candidates = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((key for key in candidates if key in stored), None)


def _has_renamed(
    parts: Mapping[str, Tensor], names: Mapping[str, str], stored: Mapping[str, Path]
) -> bool:
    """Whether the values of all other parts are in the checkpoint under another name."""
    left = stored.keys() - set(names.values())
    for name in parts.keys() - names.keys():
        likely = sorted(left, key=lambda key: -_common_end(key, name))[:_TRIED]
        if not any(_is_stored(parts[name], stored[key], key) for key in likely):
            return False
    return True


def _common_end(one: str, other: str) -> int:
    """How many parts of two dotted names agree, counted from the end."""
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _is_stored(value: Tensor, file: Path, key: str) -> bool | None:
    """Whether a file has exactly this value; ``None`` if type or shape differs."""
    with opened(file) as stored:
        if key not in stored.keys():  # noqa: SIM118
            return None
        tensor: Tensor = stored.get_tensor(key)
    if tensor.dtype != value.dtype or tensor.shape != value.shape:
        return None
    return torch.equal(_bytes_of(tensor), _bytes_of(value))


def _bytes_of(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def overwrite_tensors(path: Path, values: Mapping[str, Tensor]) -> None:
    """Overwrite tensors in a file with others of the same type and shape.

    Args:
        path: the safetensors file; it stores tensors row by row.
        values: by their names in the file.
    """
    if not values:
        return
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        for key, value in values.items():
            stream.seek(8 + length + header[key]["data_offsets"][0])
            stream.write(_bytes_of(value).numpy().data)


def check_written(name: str, values: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
    """Check that a saved model has exactly the bytes of the edited weights.

    Args:
        name: the model's name.
        values: the parts of the edited weights by name.
        folder: folder of the saved model.

    Returns:
        The names of these parts in its files.

    Raises:
        ModelError: when one is missing.
    """
    stored = stored_names(folder)
    keys = {}
    for weight, value in values.items():
        likely = _likely(weight, stored)
        key = next((key for key in likely if _is_stored(value, folder / stored[key], key)), None)
        if key is None:
            raise ModelError(
                f"{name}: the edited weight {weight} was not saved as it is; the model's "
                "format is not supported for saving"
            )
        keys[weight] = key
    return keys


def _likely(name: str, stored: Iterable[str]) -> Iterator[str]:
    """Names under which a weight may be saved: its own first, then others of the same module."""
    end = "." + ".".join(name.split(".")[-2:])
    keys = list(stored)
    yield from (key for key in keys if key == name)
    yield from (key for key in keys if key != name and f".{key}".endswith(end))
