"""The directory that a model was loaded from, and the files that an edited copy keeps."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

from collabedit.models.language_model import LanguageModel

__all__ = [
    "copy_files",
    "has_own_tokenizer",
    "original_directory",
    "other_files",
    "snapshot_directory",
]

#: Weights in any format, which would be the unedited model's; caches; files about packed or
#: adapted weights only; and the record of an earlier edit.
_LEFT_OUT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
    "*.gguf",
    "*.tflite",
    "*.mlmodel",
    "*.npz",
    "*.pyc",
    "*.lock",
    "*.tmp",
    "adapter_*",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "collabedit.json",
    "collabedit.undo",
)
_TOKENIZERS = ("tokenizer*", "*vocab*", "*.model", "*.tiktoken", "tekken.json")


def original_directory(model: LanguageModel) -> Path | None:
    """The directory of a loaded model's files; ``None`` if they are not on this machine."""
    source = str(getattr(model.hf, "name_or_path", None) or "")
    return snapshot_directory(source, getattr(model.hf.config, "_commit_hash", None))


def snapshot_directory(source: str, commit: str | None) -> Path | None:
    """The directory that ``transformers`` loads from; ``None`` if it is not on this machine.

    Args:
        source: a directory, or a Hub id, whose snapshot is looked up in the cache.
        commit: commit of the Hub id.
    """
    from huggingface_hub import try_to_load_from_cache

    if not source:
        return None
    if Path(source).is_dir():
        return Path(source) if (Path(source) / "config.json").is_file() else None
    try:
        config = try_to_load_from_cache(source, "config.json", revision=commit)
    except ValueError:  # not a Hub id
        return None
    return Path(config).parent if isinstance(config, str) else None


def other_files(original: Path, target: Path) -> list[Path]:
    """Files that an edited copy keeps besides weights, relative to the original's directory.

    Excludes the target itself, hidden folders, links to folders, and folders that hold another
    model, such as training checkpoints.
    """
    target = target.resolve()
    kept = []
    for folder, folders, names in os.walk(original):
        here = Path(folder)
        folders[:] = [name for name in sorted(folders) if _is_kept(here / name, target)]
        kept += [
            (here / name).relative_to(original)
            for name in sorted(names)
            if (here / name).is_file() and not any(fnmatch(name, kind) for kind in _LEFT_OUT)
        ]
    return kept


def _is_kept(folder: Path, target: Path) -> bool:
    return not (
        folder.name.startswith((".", "__pycache__"))
        or folder.resolve() == target
        or (folder / "config.json").exists()
    )


def has_own_tokenizer(model: LanguageModel, original: Path) -> bool:
    """Whether the model's tokenizer is the one in the original's directory."""
    source = getattr(model.tokenizer, "name_or_path", None)
    return source == getattr(model.hf, "name_or_path", None) and any(
        path for kind in _TOKENIZERS for path in original.glob(kind)
    )


def copy_files(original: Path, names: list[Path], staged: Path) -> None:
    """Copy files, named relative to the original's directory; links become files."""
    for name in names:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original / name, staged / name)
