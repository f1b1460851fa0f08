"""A full model directory with the edits written into its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from collabedit.errors import InputError, ModelError
from collabedit.export.base import Base, unedited_weights
from collabedit.export.card import CARD, ORIGINAL_CARD, licence_of, model_card
from collabedit.export.original import (
    copy_files,
    has_own_tokenizer,
    original_directory,
    other_files,
)
from collabedit.export.target import (
    RECORD,
    check_replaceable,
    explained_failures,
    replacement,
    saved_files,
)
from collabedit.export.undo import UNDO, save_undo
from collabedit.export.weights import EditedCopy, Parts, check_written, parts_of, value_of
from collabedit.files import (
    StrPath,
    cache_directory,
    check_writable,
    read_json,
    write_json,
    write_text,
)
from collabedit.messages import Delta
from collabedit.models.language_model import LanguageModel
from collabedit.models.quiet import without_progress_bars
from collabedit.parties import apply_delta

__all__ = [
    "check_output",
    "check_output_directory",
    "kept_delta",
    "save_edited_model",
    "write_copy",
]

_CONFIG, _GENERATION = "config.json", "generation_config.json"


def check_output_directory(path: StrPath, *, overwrite: bool = False) -> None:
    """Check, before any work, that a model can be written to a directory.

    Raises:
        InputError: when it can't be written, or exists and may not be replaced: only a saved model
            may be, but never the working directory, home, a directory above them, or a link.
    """
    check_replaceable(Path(path), overwrite=overwrite)
    check_writable(path)


def check_output(path: StrPath, model: LanguageModel, *, overwrite: bool = False) -> None:
    """Check, before editing a model, that it can be saved: the target, the space, its settings.

    Args:
        path: the directory for the edited model.
        model: the model.
        overwrite: whether to replace a model in that directory.

    Raises:
        InputError: when the directory cannot be written or replaced, or the disk is too full.
        ModelError: when ``transformers`` refuses to save the model's settings or tokenizer.
    """
    check_output_directory(path, overwrite=overwrite)
    original = original_directory(model)
    size = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    if original is not None:
        size += sum((original / f).stat().st_size for f in other_files(original, Path(path)))
    check_writable(path, size)
    _try_settings(model, original)


def _try_settings(model: LanguageModel, original: Path | None) -> None:
    """Try saving everything except the weights, unless it will be copied from the original."""
    parts = {"configuration": model.hf.config}
    if original is None or not (original / _GENERATION).is_file():
        parts["generation configuration"] = getattr(model.hf, "generation_config", None)
    if original is None or not has_own_tokenizer(model, original):
        parts["tokenizer"] = model.tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        for what, part in parts.items():
            if part is None:
                continue
            try:
                part.save_pretrained(scratch)
            except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ModelError(
                    f"{model.name}: its {what} cannot be saved; fix it first ({reason})"
                ) from None


def save_edited_model(
    model: LanguageModel,
    delta: Delta,
    path: StrPath,
    *,
    overwrite: bool = False,
    applied: bool = False,
    delta_file: StrPath | None = None,
    evaluation: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Apply a delta to a model and save it with its tokenizer and the origin of the edits.

    The directory is a copy of the original's in which only the edited weights differ, with a model
    card and the data to undo the edits (:func:`collabedit.export.revert_model`). A model
    that was loaded in a different type from its files, unpacked, or created in memory is saved by
    ``transformers`` instead. The directory appears when it is complete, or not at all. ``model``
    stays edited.

    Args:
        model: the unedited model; its weights change.
        delta: a complete delta.
        path: the directory.
        overwrite: replace a model that was saved there.
        applied: whether the delta is already in the model's weights.
        delta_file: file in which the delta is already stored; otherwise it is kept beside ``path``
            until the model is saved.
        evaluation: metrics by model, for the card.

    Raises:
        InputError: when the directory may not or can't be written; the message says where the
            delta is.
        ModelError: when the model cannot be saved.
        RoundError: when the delta is incomplete, or for another model.
    """
    target = Path(path)
    delta.require_complete()
    with kept_delta(delta, target, "collabedit apply {} -o DIR", delta_file):
        check_output_directory(target, overwrite=overwrite)
        original = original_directory(model)
        if applied:
            before = unedited_weights(original, delta, model.hf)
        else:
            before = {name: value_of(model, name).cpu().clone() for name in delta.changes}
            apply_delta(model, delta)
        with replacement(target, overwrite=overwrite) as staged:
            _write_model(model, staged, target)
            after = _parts(model.hf, {name: value_of(model, name) for name in delta.changes})
            keys = check_written(model.name, after, staged)
            if before is not None:
                save_undo(staged / UNDO, _parts(model.hf, before), after, keys)
            _write_card(staged, delta, licence_of(original, model.name), evaluation)


def write_copy(
    base: Base,
    path: StrPath,
    *,
    overwrite: bool = False,
    evaluation: Mapping[str, Mapping[str, float]] | None = None,
) -> bool:
    """Save an edited model as a copy of its base's files, without loading it.

    Args:
        base: the unedited model and the delta.
        path: the directory.
        overwrite: replace a model that was saved there.
        evaluation: metrics by model, for the card.

    Returns:
        Whether it was done; otherwise the model has to be loaded and saved, since its files are
        packed, of another type, or not on this machine.

    Raises:
        InputError: when the directory may not or can't be written.
    """
    target, delta = Path(path), base.delta
    check_output_directory(target, overwrite=overwrite)
    if base.directory is None or unedited_weights(base.directory, delta, base.hf) is None:
        return False
    before = _parts(base.hf, base.unedited)
    prefix, dtype = base.hf.base_model_prefix, delta.metadata.dtype
    plan = EditedCopy.of_files(base.directory, before, prefix, dtype)
    if plan is None:
        return False
    copied = other_files(base.directory, target)
    files = [*copied, *map(Path, plan.files)]
    check_writable(target, sum((base.directory / file).stat().st_size for file in files))
    with explained_failures(target), replacement(target, overwrite=overwrite) as staged:
        after = _parts(base.hf, {name: base.edited(name) for name in delta.changes})
        plan.write(after.__getitem__, staged)
        copy_files(base.directory, copied, staged)
        keys = check_written(base.name, after, staged)
        save_undo(staged / UNDO, before, after, keys)
        _write_card(staged, delta, licence_of(base.directory, base.name), evaluation)
    return True


def _parts(hf: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights split into the parts in which files store them."""
    return {
        part: value
        for name, weight in weights.items()
        for part, value in parts_of(hf, name, weight).items()
    }


def _write_card(
    staged: Path,
    delta: Delta,
    licence: str | None,
    evaluation: Mapping[str, Mapping[str, float]] | None,
) -> None:
    """Write the model card and the list of files; keep the original's own card beside it."""
    if (staged / CARD).is_file():
        (staged / CARD).replace(staged / ORIGINAL_CARD)
    undo = (
        "`collabedit revert THIS_DIRECTORY -o OUT` writes the unedited model, with its weights "
        "restored byte for byte."
        if (staged / UNDO).is_file()
        else "Use the base model; this directory keeps no copy of its weights."
    )
    text = model_card(delta, "A language model", undo=undo, licence=licence, evaluation=evaluation)
    write_text(staged / CARD, text)
    record = delta.metadata.model_dump(mode="json")
    write_json(staged / RECORD, {**record, "files": [*saved_files(staged), RECORD]})


@without_progress_bars()
def _write_model(model: LanguageModel, staged: Path, target: Path) -> None:
    original = original_directory(model)
    if original is None:
        model.hf.save_pretrained(staged)
        model.tokenizer.save_pretrained(staged)
        return
    copied = other_files(original, target)
    edited_copy = EditedCopy.of(model, original)
    if edited_copy is not None:
        edited_copy.write(Parts(model).__getitem__, staged)
    else:
        with _any_generation_config(model, original):
            model.hf.save_pretrained(staged)
        copied.remove(Path(_CONFIG))
        _drop_packing(staged / _CONFIG)
    copy_files(original, copied, staged)
    if not has_own_tokenizer(model, original):
        model.tokenizer.save_pretrained(staged)


def _drop_packing(config: Path) -> None:
    """Remove the settings of packed weights: a model is unpacked for editing when it is loaded."""
    values = read_json(config)
    parts = [values, values.get("text_config") or {}]
    if any(part.pop("quantization_config", None) is not None for part in parts):
        write_json(config, values)


@contextmanager
def _any_generation_config(model: LanguageModel, original: Path) -> Iterator[None]:
    """Allow saving a model whose generation settings ``transformers`` loads but refuses to save.

    The original's file is copied anyway.
    """
    settings = getattr(model.hf, "generation_config", None)
    if settings is None or not (original / _GENERATION).is_file():
        yield
        return
    model.hf.generation_config = type(settings)()
    try:
        yield
    finally:
        model.hf.generation_config = settings


@contextmanager
def kept_delta(
    delta: Delta, target: Path, again: str, stored: StrPath | None = None
) -> Iterator[None]:
    """Keep the delta in a file until the block has saved the model; say where if it fails.

    Args:
        delta: the delta.
        target: what the block writes.
        again: the command to try again; ``{}`` stands for the delta's file.
        stored: file in which the delta is already stored, if any; then nothing more is kept.
    """
    file = _keep(delta, target) if stored is None else None
    where = f"; the edits are kept, try again: {again.format(file)}" if file else ""
    with explained_failures(target, where):
        yield
    if file is not None:
        file.unlink(missing_ok=True)


def _keep(delta: Delta, target: Path) -> Path:
    """Save the delta beside the target, or wherever there is space."""
    target = target.absolute()
    for folder in (target.parent, cache_directory("deltas"), Path(tempfile.gettempdir())):
        try:
            file = _free_name(folder, target.name)
            delta.save(file)
            return file
        except (InputError, OSError):
            continue
    raise InputError(f"cannot write {target}, nor the edits alone anywhere else; free some space")


def _free_name(folder: Path, name: str) -> Path:
    """A path not used by edits of an earlier attempt."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    files = (folder / f"{name}.delta{number}.safetensors" for number in numbers)
    return next(file for file in files if not file.exists())
