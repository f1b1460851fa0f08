"""A full model directory with the edits written into its weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from collabedit.errors import InputError
from collabedit.files import write_json
from collabedit.messages import Delta
from collabedit.models.language_model import LanguageModel
from collabedit.parties import apply_delta

__all__ = ["check_output_directory", "save_edited_model"]


def check_output_directory(path: Path, *, overwrite: bool = False) -> None:
    """Check, before any work, that a model can be written to a directory.

    Raises:
        InputError: when it exists, is not empty, and may not be replaced.
    """
    if path.is_file():
        raise InputError(f"{path} is a file; give a directory for the model")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(
            f"{path} is not empty; give another directory, or --overwrite to replace it"
        )


def save_edited_model(
    model: LanguageModel,
    delta: Delta,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    applied: bool = False,
) -> None:
    """Apply a delta to a model and save it with its tokenizer and where the edits came from.

    The directory appears when it is complete, or not at all. ``model`` stays edited.

    Args:
        model: the unedited model; its weights change.
        delta: a complete delta.
        path: the directory.
        overwrite: replace a directory that is not empty.
        applied: whether the delta is in the model's weights already.

    Raises:
        InputError: when the directory may not be written.
        RoundError: when the delta is incomplete, or of another model.
    """
    path = Path(path)
    check_output_directory(path, overwrite=overwrite)
    delta.require_complete()
    if not applied:
        apply_delta(model, delta)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            staged = Path(scratch) / "model"
            model.hf.save_pretrained(staged)
            model.tokenizer.save_pretrained(staged)
            write_json(staged / "collabedit.json", delta.metadata.model_dump(mode="json"))
            if path.exists():
                shutil.rmtree(path)
            staged.rename(path)
    except OSError as error:
        raise InputError(f"cannot write the model to {path}: {error.strerror or error}") from error
