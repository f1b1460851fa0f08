"""GGUF files, which hold packed weights: a dense copy is made once and kept.

Packed weights can be neither edited nor saved.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from collabedit.errors import ModelError
from collabedit.files import cache_directory, make_directory
from collabedit.models.failures import explained
from collabedit.models.quiet import quiet_transformers
from collabedit.models.report import load_checked

__all__ = ["convert_gguf", "converted_directory"]

#: Older versions put tokens before or after a text regardless of what the file says.
_NEEDS = "transformers>=5.20"
_REMEDY = "if the file is damaged, download it again"
#: Part of a copy's name: earlier copies were made without checking that the file is complete.
_COPIES = "checked"


def converted_directory(gguf: Path) -> Path:
    """Where a GGUF file's dense copy is kept, keyed by path, size and modification time."""
    status = gguf.resolve().stat()
    parts = (_COPIES, gguf.resolve(), status.st_size, status.st_mtime_ns)
    key = hashlib.sha256(" ".join(map(str, parts)).encode())
    return cache_directory("models") / f"{gguf.stem}-{key.hexdigest()[:16]}"


def convert_gguf(source: Path, target: Path) -> Path:
    """Dequantise a GGUF file once and keep it as a safetensors model directory.

    Returns:
        ``target``, a model in float32, which is either complete or absent.

    Raises:
        ModelError: when the file cannot be read, or ``transformers`` is too old for it.
    """
    if (target / "config.json").is_file():
        return target
    _check_version(source)
    make_directory(target.parent)
    scratch_in = tempfile.TemporaryDirectory(dir=target.parent)
    with scratch_in as scratch, quiet_transformers(), _without_bar():
        with explained(str(source), remedy=_REMEDY):
            tokenizer, model = _read(source)
        staged = Path(scratch) / "model"
        with explained(str(source), "a dense copy of"):
            model.save_pretrained(staged)
            tokenizer.save_pretrained(staged)
            shutil.rmtree(target, ignore_errors=True)
            staged.rename(target)
    return target


@contextmanager
def _without_bar() -> Iterator[None]:
    """Hide the dequantisation bar, which ignores ``transformers``' switch for its other bars."""
    module: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(module, "tqdm", None)
    if bar is None:  # in versions that have none
        yield
        return
    module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar


def _read(source: Path) -> tuple[Any, Any]:
    """The tokenizer and the dense model of a file; every weight comes from the file."""
    import transformers

    options: dict[str, Any] = {"dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # newer versions keep weights packed by default
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    location: dict[str, Any] = {"gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **location)
    return tokenizer, load_checked(source.parent, str(source), **location, **options)


def _check_version(source: Path) -> None:
    import transformers
    from transformers.utils.versions import require_version

    try:
        require_version(_NEEDS)
    except ImportError:
        raise ModelError(
            f"{source.name}: GGUF files need {_NEEDS}, but {transformers.__version__} is "
            "installed, which would build a wrong tokenizer from it"
        ) from None
