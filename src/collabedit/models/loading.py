"""Loading a model from a built-in name, a directory, a GGUF file or the Hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from collabedit.errors import InputError, ModelError
from collabedit.files import make_directory
from collabedit.models import catalogue
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import least_budget
from collabedit.models.placement import room_for_weights
from collabedit.progress import say

__all__ = [
    "convert_gguf",
    "default_device",
    "load_model",
    "load_structure_only",
    "parse_dtype",
    "resolve",
]

#: Older versions put a token in front of texts, or end them by another one, whatever a file says.
_GGUF_NEEDS = "transformers>=5.20"

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def parse_dtype(name: str) -> torch.dtype:
    """A torch type from its name.

    Raises:
        InputError: when it is not a type that models are loaded in.
    """
    if name not in _DTYPES:
        raise InputError(f"unknown dtype {name!r}; choose one of: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str | None = None,
    memory_budget: int | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> LanguageModel:
    """Load a model to edit.

    Args:
        name: a built-in name (``collabedit models list``), a local directory, a ``.gguf`` file,
            or a Hub id.
        dtype: type of the weights.
        device: ``cpu``, ``cuda``, ...; the GPU where there is one by default. ``auto`` spreads the
            layers over all GPUs, then main memory, and reads what is left from disk at every use.
        memory_budget: bytes beyond the weights that one stage may take; ``auto`` leaves them free.
        max_memory: for ``auto``, the most weights by device, such as ``{0: "20GB", "cpu": "8GB"}``;
            what is free by default.

    Raises:
        InputError: when the name or the type is unknown.
        ModelError: when loading fails or the model cannot be edited.
    """
    device = device or default_device()
    source = resolve(name)
    options: dict[str, Any] = {"dtype": parse_dtype(dtype)}
    if device == "auto":
        room = room_for_weights(max_memory, memory_budget or 0)
        options.update(device_map="auto", max_memory=room)
    with _quiet_transformers():
        model = _from_pretrained(source, name, options)
        tokenizer = _load_tokenizer(source, name)
    if device != "auto":
        model = model.to(device)
    loaded = LanguageModel(model, tokenizer, name, memory_budget)
    _check_budget(loaded)
    return loaded


def _check_budget(model: LanguageModel) -> None:
    least = least_budget(model)
    if model.memory_budget is not None and model.memory_budget < least:
        say(
            f"A memory budget of {model.memory_budget / 1e6:,.0f} MB is too small for "
            f"{model.name}: some stages take about {least / 1e6:,.0f} MB, "
            "however little they do at once."
        )


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_structure_only(name: str) -> Any:
    """The module on the meta device: its structure without its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(resolve(name))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
        return model
    except (OSError, ValueError) as error:
        raise _loading_error(name, error) from error


def resolve(name: str) -> str:
    """The directory or Hub id behind a name; built-in names and GGUF files are converted first."""
    if name in catalogue.names():
        return str(catalogue.fetch(name))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"cannot read the model {path}: no such file")
        return str(convert_gguf(path, catalogue.converted_directory(path)))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path}: no config.json in it; give the directory of a model")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"no model at {name}: the directory does not exist")
    return name


def convert_gguf(source: Path, target: Path) -> Path:
    """Dequantise a GGUF file once and keep it as a safetensors model directory.

    Packed weights can be neither edited nor saved, so the copy is dense float32.

    Returns:
        ``target``, which is complete or does not exist.

    Raises:
        ModelError: when the file cannot be read, or ``transformers`` is too old for it.
    """
    if (target / "config.json").is_file():
        return target
    import shutil
    import tempfile

    import transformers
    from transformers.utils.versions import require_version

    try:
        require_version(_GGUF_NEEDS)
    except ImportError:
        raise ModelError(
            f"{source.name}: GGUF files need {_GGUF_NEEDS}, installed is "
            f"{transformers.__version__}, which would make a wrong tokenizer of it"
        ) from None
    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # newer versions keep weights packed unless told
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    make_directory(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, _quiet_transformers():
        try:
            place: dict[str, Any] = {"gguf_file": source.name}
            tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **place)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source.parent, dtype=torch.float32, **place, **options
            )
        except (OSError, ValueError, ImportError) as error:
            raise _loading_error(str(source), error) from error
        staged = Path(scratch) / "model"
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        shutil.rmtree(target, ignore_errors=True)
        staged.rename(target)
    return target


def _from_pretrained(source: str, name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise _loading_error(name, error) from error


def _load_tokenizer(source: str, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _loading_error(name, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _loading_error(name: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"cannot load the model {name!r}: {first_line} "
        f"(built-in names: {', '.join(catalogue.names())})"
    )


class _quiet_transformers:  # noqa: N801  (reads as a context manager)
    """Silence transformers' own progress bars and warnings; ours say what users need."""

    def __enter__(self) -> None:
        from transformers.utils import logging as transformers_logging

        self._bars = transformers_logging.is_progress_bar_enabled()
        self._level = transformers_logging.get_verbosity()
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity(logging.ERROR)

    def __exit__(self, *_exception: object) -> None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity(self._level)
        if self._bars:
            transformers_logging.enable_progress_bar()
