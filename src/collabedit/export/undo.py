"""Undoing an edit bit for bit, with data kept in a saved model.

Subtracting a delta does not undo it, since sums are rounded. A saved model therefore keeps, for
each edited weight, the difference between the bit patterns before and after, as integers. For small
edits these are small and compress well, and they involve no floating-point arithmetic.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError
from collabedit.export.card import CARD, ORIGINAL_CARD
from collabedit.export.target import (
    RECORD,
    check_replaceable,
    explained_failures,
    replacement,
    saved_files,
)
from collabedit.export.weights import opened, overwrite_tensors, stored_names
from collabedit.files import StrPath, check_writable, load_tensors, save_tensors
from collabedit.models.language_model import weight_sha256

__all__ = ["UNDO", "check_undo", "revert_model", "save_undo"]

#: A safetensors file with a name that no loader mistakes for weights.
UNDO = "collabedit.undo"
_FORMAT = "collabedit.undo"
_SIGNED = {1: numpy.int8, 2: numpy.int16, 4: numpy.int32, 8: numpy.int64}


def save_undo(
    path: Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor], names: Mapping[str, str]
) -> None:
    """Write the data needed to restore the unedited weights.

    Args:
        path: the file.
        before: the unedited weights by name.
        after: the edited ones, of the same types and shapes.
        names: their names in the model's files.
    """
    packed = {names[name]: _difference(before[name], after[name]) for name in before}
    digests = {names[name]: weight_sha256(weight) for name, weight in before.items()}
    save_tensors(path, packed, {"format": _FORMAT, "version": 1, "sha256": digests})
    path.chmod(0o644)  # as readable as the weights beside it


def _difference(before: Tensor, after: Tensor) -> Tensor:
    """``before - after`` as integers, compressed: zlib's bytes, ``[n]``."""
    first, second = _bits(before), _bits(after)
    with numpy.errstate(over="ignore"):
        difference = first - second
        sign = difference >> (8 * difference.itemsize - 1)
        zigzag = (difference << 1) ^ sign  # small where |difference| is
    planes = zigzag.view(numpy.uint8).reshape(-1, difference.itemsize).T
    packed = zlib.compress(numpy.ascontiguousarray(planes).tobytes(), level=6)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _restored(after: Tensor, packed: Tensor) -> Tensor:
    """The weight before the edit.

    Raises:
        InputError: when the compressed difference does not belong to this weight.
    """
    bits = _bits(after)
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed.numpy().tobytes(), bits.nbytes + 1)
    except zlib.error as error:
        raise InputError(f"it is damaged ({error})") from None
    if len(content) != bits.nbytes:
        raise InputError("it belongs to another weight")
    planes = numpy.frombuffer(content, numpy.uint8).reshape(bits.itemsize, -1)
    zigzag = numpy.ascontiguousarray(planes.T).view(bits.dtype).reshape(-1)
    unsigned = zigzag.view(f"u{bits.itemsize}")
    difference = (unsigned >> 1).view(bits.dtype) ^ -(zigzag & 1)
    with numpy.errstate(over="ignore"):
        restored = bits + difference
    return torch.from_numpy(restored.copy()).view(after.dtype).reshape(after.shape)


def _bits(tensor: Tensor) -> Any:
    """A tensor's bit patterns as integers, ``[n]``."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(_SIGNED[tensor.element_size()])


def check_undo(folder: StrPath) -> None:
    """Check that a directory is an edited model that can be undone.

    Raises:
        InputError: when it is not; the message says what to do.
    """
    path = Path(folder)
    if (path / RECORD).is_file() and not (path / UNDO).is_file():
        raise InputError(
            f"{path} has no data to undo its edits ({UNDO}); use the base model that its {CARD} "
            "names"
        )
    if not (path / UNDO).is_file():
        raise InputError(f"{path} is not a model that collabedit edited: it has no {UNDO}")


def revert_model(folder: StrPath, out: StrPath, *, overwrite: bool = False) -> int:
    """Write the unedited model of an edited one, with its weights restored byte for byte.

    Args:
        folder: directory of the edited model.
        out: directory to write.
        overwrite: replace a model that was saved there.

    Returns:
        The number of restored weights.

    Raises:
        InputError: when the data to undo the edits is missing or damaged, or the directory may not
            be written.
        ModelError: when a weight was changed after the edit.
    """
    source, target = Path(folder), Path(out)
    check_undo(source)
    check_replaceable(target, overwrite=overwrite)
    if target.resolve() == source.resolve() or target.resolve() in source.resolve().parents:
        raise InputError(f"{target} is or holds the edited model; give another directory")
    names = saved_files(source)
    check_writable(target, sum((source / name).stat().st_size for name in names))
    packed, about = load_tensors(source / UNDO, "record of the edits")
    if about.get("format") != _FORMAT:
        raise InputError(f"{source / UNDO} is not a record of edits; save the edited model again")
    with explained_failures(target), replacement(target, overwrite=overwrite) as staged:
        _copy_unmarked(source, staged, names)
        _restore(staged, packed, about.get("sha256", {}), source / UNDO)
    return len(packed)


def _copy_unmarked(source: Path, staged: Path, names: list[str]) -> None:
    """Copy a saved model without what collabedit added to it."""
    has_original_card = (source / ORIGINAL_CARD).is_file()
    for name in names:
        if name in (RECORD, UNDO, CARD):
            continue
        copied = staged / (CARD if has_original_card and name == ORIGINAL_CARD else name)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copied)


def _restore(
    folder: Path, packed: Mapping[str, Tensor], digests: Mapping[str, str], undo: Path
) -> None:
    files = stored_names(folder)
    for key, difference in packed.items():
        if key not in files:
            raise InputError(f"{undo}: the model has no weight {key}")
        with opened(folder / files[key]) as stored:
            edited = stored.get_tensor(key)
        try:
            weight = _restored(edited, difference)
        except InputError as error:
            raise InputError(f"{undo}: {key}: {error}") from None
        if weight_sha256(weight) != digests.get(key):
            raise ModelError(
                f"{undo}: {key} was changed after the edit, so it can't be undone; use the base "
                "model"
            )
        overwrite_tensors(folder / files[key], {key: weight})
