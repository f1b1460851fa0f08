"""GGUF files: reading one, and writing a copy with other weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from collabedit.errors import InputError, ModelError
from collabedit.files import atomic_path

__all__ = [
    "FILE_TYPES",
    "PRECISIONS",
    "NewTensor",
    "add_tensors",
    "architecture_of",
    "copy_with",
    "open_gguf",
    "packed",
    "tensor_names",
]

#: Types that edited weights are written in, by the option's value; coarser ones lose edits.
PRECISIONS = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
#: File types of files in which most matrices have that type.
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
_ARCHITECTURE = "general.architecture"
#: Errors that reading a damaged file may raise.
_DAMAGED = (ValueError, KeyError, IndexError, TypeError, OverflowError, UnicodeDecodeError)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: its bytes or numbers, and their type."""

    data: Any
    kind: GGMLQuantizationType


def open_gguf(path: Path) -> GGUFReader:
    """Open a file; its tensors stay on disk.

    Raises:
        InputError: when it can't be read.
        ModelError: when it is damaged, split, or in the other byte order.
    """
    try:
        reader = GGUFReader(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise ModelError(f"{path} is not a GGUF file, or it is damaged ({error})") from None
    if reader.byte_order != "I":
        raise ModelError(f"{path} is for machines with the other byte order; convert it first")
    parts = reader.get_field("split.count")
    if parts is not None and parts.contents() > 1:
        raise ModelError(f"{path} is part of a split file; join the parts with llama-gguf-split")
    return reader


def architecture_of(reader: GGUFReader) -> str:
    """The file's name for its model's architecture."""
    field = reader.get_field(_ARCHITECTURE)
    if field is None:
        raise ModelError("the GGUF file does not name its architecture; use another file")
    return str(field.contents())


def tensor_names(architecture: str, n_layers: int, names: list[str]) -> dict[str, str]:
    """GGUF's names for a ``transformers`` model's weights.

    Args:
        architecture: as GGUF files name it, such as ``llama``.
        n_layers: number of layers of the model.
        names: of the weights.

    Raises:
        ModelError: when the architecture or a name is unknown.
    """
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        raise ModelError(f"GGUF files of the architecture {architecture!r} are not known")
    known = gguf.get_tensor_name_map(kinds[architecture], n_layers)
    translated = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
    missing = [name for name, theirs in translated.items() if theirs is None]
    if missing:
        raise ModelError(f"GGUF files of {architecture} have no weight for {missing[0]}")
    return {name: theirs for name, theirs in translated.items() if theirs is not None}


def packed(weight: Any, precision: str, name: str) -> NewTensor:
    """A matrix in the type to be written.

    Args:
        weight: ``[d_out, d_in]``, float32.
        precision: ``f16`` or ``q8_0``.
        name: for error messages.

    Raises:
        ModelError: when the type cannot hold it.
    """
    if precision == "f16":
        if numpy.abs(weight).max() > numpy.finfo(numpy.float16).max:
            raise ModelError(f"{name} has numbers too large for F16; use --precision q8_0")
        return NewTensor(weight.astype(numpy.float16), GGMLQuantizationType.F16)
    if weight.shape[-1] % 32:
        raise ModelError(
            f"{name} is {weight.shape[-1]} wide; Q8_0 takes multiples of 32: use --precision f16"
        )
    kind = GGMLQuantizationType.Q8_0
    return NewTensor(gguf.quants.quantize(numpy.ascontiguousarray(weight), kind), kind)


def copy_with(
    reader: GGUFReader,
    out: Path,
    changed: Mapping[str, NewTensor],
    *,
    precision: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> None:
    """Write a copy of a file with some tensors replaced.

    Args:
        reader: the file.
        out: the copy.
        changed: replacements by tensor name.
        precision: type for all other matrices; unchanged by default.
        fields: texts to add.
    """
    with atomic_path(out) as temporary:
        writer = GGUFWriter(temporary, architecture_of(reader))
        writer.data_alignment = int(reader.alignment)
        _copy_fields(reader, writer, precision)
        for key, text in (fields or {}).items():
            writer.add_string(key, text)
        tensors: dict[str, Any] = {}
        for tensor in reader.tensors:
            tensors[tensor.name] = changed.get(tensor.name) or _kept(tensor, precision)
        add_tensors(writer, tensors)
        temporary.chmod(0o644)


def _copy_fields(reader: GGUFReader, writer: GGUFWriter, precision: str | None) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == _ARCHITECTURE or not field.types:
            continue
        value, kind = field.contents(), field.types[0]
        item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        if kind == gguf.GGUFValueType.ARRAY and not value:
            continue  # the writer can't write empty lists, and readers treat an absent one alike
        if precision and field.name == gguf.Keys.General.FILE_TYPE:
            value = int(FILE_TYPES[precision])
        writer.add_key_value(field.name, value, kind, sub_type=item)


def _kept(tensor: Any, precision: str | None) -> NewTensor:
    if precision is None or tensor.data.ndim < 2:
        return NewTensor(tensor.data, tensor.tensor_type)
    dense = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if dense.shape[-1] % 32:
        return NewTensor(dense.astype(numpy.float16), GGMLQuantizationType.F16)
    return packed(dense, precision, tensor.name)


def add_tensors(writer: GGUFWriter, tensors: Mapping[str, NewTensor]) -> None:
    """Write header, fields and tensors to the writer's file, and close it."""
    for name, tensor in tensors.items():
        data = tensor.data
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(tensor.data)
    writer.close()
