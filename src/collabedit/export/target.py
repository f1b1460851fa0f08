"""The target directory of a saved model: what may be replaced, and how."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError

from collabedit.errors import CollabEditError, InputError
from collabedit.files import read_json

__all__ = ["RECORD", "check_replaceable", "explained_failures", "replacement", "saved_files"]

#: Description of a saved model: its delta's metadata, and the list of its files.
RECORD = "collabedit.json"
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
#: Files that ``transformers`` saves.
_MODEL_FILES = (
    *_WEIGHTS,
    RECORD,
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


def check_replaceable(path: Path, *, overwrite: bool) -> None:
    """Check that only a saved model would be overwritten at ``path``.

    Raises:
        InputError: when it is a file, a link, the working directory, home or a directory above one
            of these; or when it is not empty and ``overwrite`` is false, or holds anything but
            files that collabedit or ``transformers`` saved there.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a link; give the directory itself, or a new one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give a directory for the model")
    if path.resolve() in _protected():
        raise InputError(
            f"{path} is the working directory, your home directory or above one of them; "
            "give a directory for the model only"
        )
    if os.path.ismount(path):
        raise InputError(f"{path} is a mount point; give a directory inside it")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not overwrite:
        raise InputError(
            f"{path} is not empty; give another directory, or --overwrite to replace a model there"
        )
    foreign = _foreign_file(path)
    if foreign is not None:
        raise InputError(
            f"{path} holds {foreign}, which is not part of a saved model; --overwrite replaces "
            "only saved models, so give another directory"
        )


def _protected() -> set[Path]:
    innermost = [Path.cwd()]
    with suppress(RuntimeError):  # no home
        innermost.append(Path.home().resolve())
    return {folder for path in innermost for folder in (path, *path.parents)}


def saved_files(folder: Path) -> list[str]:
    """All files below a directory, relative to it and with forward slashes."""
    files = []
    for here, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        files += [(Path(here) / name).relative_to(folder).as_posix() for name in [*names, *links]]
    return sorted(files)


def _foreign_file(folder: Path) -> str | None:
    """The first file that does not belong to a saved model; ``None`` if all do."""
    files = saved_files(folder)
    listed = _listed(folder)
    has_weights = any(fnmatch(name, kind) for name in files for kind in _WEIGHTS)
    is_model = bool(listed) or ("config.json" in files and has_weights)
    for name in files:
        known = name in listed or any(fnmatch(name, kind) for kind in _MODEL_FILES)
        if not is_model or not known or (folder / name).is_symlink():
            return name
    return None


def _listed(folder: Path) -> set[str]:
    """The files that a saved model lists as its own."""
    try:
        record = read_json(folder / RECORD)
    except InputError:
        return set()
    files = record.get("files") if isinstance(record, dict) else None
    return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()


@contextmanager
def explained_failures(target: Path, where: str = "") -> Iterator[None]:
    """Say in one line why a block could not write ``target``, and ``where`` the edits are.

    Raises:
        InputError: in place of an operating-system error.
    """
    try:
        yield
    except CollabEditError as error:
        error.args = (f"{error}{where}",)
        raise
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise InputError(f"cannot write the model to {target}: {reason}{where}") from error


@contextmanager
def replacement(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty directory, which replaces ``path`` if the block succeeds.

    The old directory is kept until the new one is in place.

    Raises:
        InputError: when ``path`` may not be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        staged = Path(scratch) / "model"
        staged.mkdir()
        yield staged
        check_replaceable(path, overwrite=overwrite)
        _swap(staged, path)


def _swap(staged: Path, path: Path) -> None:
    if not path.exists():
        staged.rename(path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    old = aside / "model"
    try:
        path.rename(old)
        staged.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
