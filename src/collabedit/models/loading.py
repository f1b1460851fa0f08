"""Loading a model from a built-in name, a directory, a GGUF file or the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from collabedit.errors import InputError
from collabedit.models import catalogue
from collabedit.models.failures import loading_error
from collabedit.models.gguf import convert_gguf, converted_directory
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import least_budget
from collabedit.models.placement import room_for_weights
from collabedit.models.quiet import quiet_transformers
from collabedit.progress import say

__all__ = [
    "default_device",
    "load_model",
    "load_structure_only",
    "parse_dtype",
    "resolve",
]

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
    with quiet_transformers():
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
        raise loading_error(name, error) from error


def resolve(name: str) -> str:
    """The directory or Hub id behind a name; built-in names and GGUF files are converted first."""
    if name in catalogue.names():
        return str(catalogue.fetch(name))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"cannot read the model {path}: no such file")
        return str(convert_gguf(path, converted_directory(path)))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path}: no config.json in it; give the directory of a model")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"no model at {name}: the directory does not exist")
    return name


def _from_pretrained(source: str, name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise loading_error(name, error) from error


def _load_tokenizer(source: str, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise loading_error(name, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
