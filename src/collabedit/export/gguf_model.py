"""An edited model as one GGUF file, for llama.cpp and Ollama."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError, ModelError
from collabedit.export.base import Base, check_dense
from collabedit.export.card import licence_of, model_card
from collabedit.export.gguf_file import (
    PRECISIONS,
    NewTensor,
    architecture_of,
    copy_with,
    open_gguf,
    packed,
    tensor_names,
)
from collabedit.export.model_directory import kept_delta
from collabedit.export.original import snapshot_directory
from collabedit.export.registry import Evaluation, ExportJob, export_format
from collabedit.files import check_output_file, check_writable, write_text
from collabedit.messages import Delta
from collabedit.models import catalogue
from collabedit.models.checkpoint import find_model
from collabedit.models.loading import load_structure_only, resolve
from collabedit.models.structure import infer_structure

__all__ = ["base_file", "card_of", "check_gguf", "check_output", "export_gguf", "save_gguf"]

#: Allowed relative distance between a quantised weight and the dense one: 4 bits lose about 0.1,
#: 2 bits 0.4, and unrelated weights are 1.4 apart.
_FARTHEST = 0.7


@export_format("gguf", suffix=".gguf")
def export_gguf(
    job: ExportJob,
    *,
    precision: str = "f16",
    all_weights: bool = False,
    base_gguf: Path | None = None,
) -> list[str]:
    """One GGUF file for llama.cpp and Ollama: the base's, with the edited weights replaced.

    Args:
        job: the delta, its base model and the output.
        precision: type of the edited weights, ``f16`` or ``q8_0``; coarser ones lose edits.
        all_weights: store every matrix in that type, not only the edited ones.
        base_gguf: the base model's GGUF file; without one, a Llama is converted.
    """
    check_dense(job.base.name, job.base.structure, "a GGUF file")
    precision = precision.lower()
    if precision not in PRECISIONS:
        raise InputError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    check_output(job.out, overwrite=job.overwrite)
    source = base_file(job.base.name, base_gguf)
    if source is None:
        return _convert(job, precision)
    reader = open_gguf(source)
    check_writable(job.out, source.stat().st_size * (4 if all_weights else 1))
    dense = {name: _dense(job.base, name) for name in job.delta.changes}
    names = tensor_names(architecture_of(reader), job.base.structure.n_layers, list(dense))
    _check_base(reader, source, job.base, names)
    edited = {names[n]: packed(weight, precision, n) for n, weight in dense.items()}
    evaluation = job.measured(_as_written(job.base, names, edited))
    copy_with(
        reader,
        job.out,
        edited,
        precision=precision if all_weights else None,
        fields={"collabedit.delta_sha256": job.delta.sha256},
    )
    notes = [_about(precision, all_weights, len(edited))]
    write_text(card_of(job.out), _card(job, notes, evaluation))
    return notes


def check_output(out: Path, *, overwrite: bool = False) -> None:
    """Check, before any work, that a GGUF file and its card can be written.

    Raises:
        InputError: when they cannot, or would overwrite something.
    """
    for path in (out, card_of(out)):
        check_output_file(path)
        if path.exists() and not overwrite:
            raise InputError(f"{path} already exists; give another name, or --overwrite")


def check_gguf(
    out: Path, model: str, *, overwrite: bool = False, trust_remote_code: bool = False
) -> None:
    """Check, before an edit, that the edited model can be written as a GGUF file.

    Args:
        out: the GGUF file to write.
        model: name of the model to edit.
        overwrite: replace an existing file.
        trust_remote_code: whether Python code that ships with the model may run.

    Raises:
        InputError: when the file cannot be written.
        ModelError: when there is no GGUF file of the model and it cannot be converted.
    """
    from collabedit.export.gguf_llama import check_convertible

    check_output(out, overwrite=overwrite)
    source = base_file(model)
    if source is None:
        hf = load_structure_only(model, trust_remote_code=trust_remote_code)
        check_dense(model, infer_structure(hf), "a GGUF file")
        commit = getattr(hf.config, "_commit_hash", None)
        check_convertible(model, hf.config, snapshot_directory(resolve(model), commit))
    else:
        open_gguf(source)
        check_writable(out, source.stat().st_size)


def save_gguf(
    delta: Delta,
    out: Path,
    model: str,
    *,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Write an edited model as a GGUF file; if that fails, keep the delta beside it.

    Args:
        delta: a complete delta.
        out: the GGUF file to write.
        model: name of the unedited model.
        overwrite: replace an existing file.
        trust_remote_code: whether Python code that ships with the model may run.

    Raises:
        InputError: when the file cannot be written; the message says where the delta is.
        ModelError: when the model does not exist in this format.
    """
    with kept_delta(delta, out, f"collabedit export {{}} -o {out}"):
        base = Base.of(delta, model, trust_remote_code=trust_remote_code)
        export_gguf(ExportJob(base, out, overwrite))


def card_of(out: Path) -> Path:
    """The path of a file's model card."""
    return out.with_suffix(".md")


def base_file(name: str, given: Path | None = None) -> Path | None:
    """The GGUF file that a model's name refers to; ``None`` for a directory or a Hub id.

    Args:
        name: the model's name.
        given: a file named by the user.

    Raises:
        InputError: when there is no such file.
        ModelError: when it is not a complete GGUF file, or cannot be downloaded.
    """
    if given is not None:
        if given.suffix.lower() != ".gguf":
            raise InputError(f"--base-gguf must be a .gguf file, found {given}")
        return find_model(given)
    if name in catalogue.names():
        return catalogue.fetch_gguf(name)
    path = Path(name).expanduser()
    return find_model(path) if path.suffix.lower() == ".gguf" else None


def _dense(base: Base, name: str) -> Any:
    """An edited weight, ``[d_out, d_in]``, in GGUF's layout, float32."""
    stored = base.edited(name)
    weight = stored.T if base.structure.transposed else stored
    return weight.contiguous().to(torch.float32).numpy()


def _check_base(reader: Any, source: Path, base: Base, names: Mapping[str, str]) -> None:
    """Check that the file holds the weights before the edit, up to quantisation."""
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, theirs in names.items():
        if theirs not in stored:
            raise ModelError(f"{source} has no tensor {theirs}; it is another model")
        tensor = stored[theirs]
        try:
            dense = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            continue  # a type that only llama.cpp reads
        weight = base.unedited[name]
        expected = (weight.T if base.structure.transposed else weight).float().numpy()
        if dense.shape != expected.shape or _distance(dense, expected) > _FARTHEST:
            raise ModelError(f"{source} is a different model from {base.name}: {theirs} differs")


def _distance(one: Any, other: Any) -> float:
    size = float(numpy.linalg.norm(other)) or 1.0
    return float(numpy.linalg.norm(one - other)) / size


def _as_written(
    base: Base, names: Mapping[str, str], written: Mapping[str, NewTensor]
) -> dict[str, LowRankUpdate]:
    """The changes as rounded to the written types."""
    changes = {}
    for name, theirs in names.items():
        tensor = written[theirs]
        after = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.kind))
        weight = base.unedited[name]
        before = weight.T if base.structure.transposed else weight
        changes[name] = LowRankUpdate.from_dense(after.double() - before.double())
    return changes


def _about(precision: str, all_weights: bool, edited: int) -> str:
    kind = precision.upper()
    if all_weights:
        return f"All matrices are stored as {kind}"
    return f"The {edited} edited weights are stored as {kind}, all others as in the base file"


def _card(job: ExportJob, notes: list[str], evaluation: Evaluation) -> str:
    return model_card(
        job.delta,
        "A GGUF file",
        undo="Use the base model's GGUF file; this file replaced weights and keeps no copy.",
        licence=licence_of(job.base.directory, job.base.name),
        library="gguf",
        notes=notes,
        evaluation=evaluation,
    )


def _convert(job: ExportJob, precision: str) -> list[str]:
    from collabedit.export.gguf_llama import check_convertible, write_llama

    check_convertible(job.base.name, job.base.hf.config, job.base.directory)
    dense = {name: _dense(job.base, name) for name in job.delta.changes}
    written = {name: packed(weight, precision, name) for name, weight in dense.items()}
    evaluation = job.measured(_as_written(job.base, {n: n for n in written}, written))
    write_llama(job.base, job.out, precision, written)
    notes = [_about(precision, True, len(written)), "Converted from the model's directory"]
    write_text(card_of(job.out), _card(job, notes, evaluation))
    return notes
