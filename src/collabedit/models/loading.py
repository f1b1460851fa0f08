"""Loading a model from a built-in name, a directory, a GGUF file or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from collabedit.errors import InputError, ModelError
from collabedit.models import catalogue
from collabedit.models.adapters import has_adapter, merge_adapter_, without_adapter
from collabedit.models.checkpoint import check_files, find_model
from collabedit.models.devices import checked_device, default_device
from collabedit.models.failures import explained
from collabedit.models.gguf import convert_gguf, converted_directory
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import least_budget
from collabedit.models.placement import room_for_weights, spill_folder
from collabedit.models.quantisation import Unpacking, unpacked, unpacking
from collabedit.models.quiet import quiet_transformers
from collabedit.models.report import load_checked
from collabedit.models.tokens import check_tokenizer
from collabedit.progress import progress, say

__all__ = [
    "default_device",
    "load_model",
    "load_structure_only",
    "parse_dtype",
    "resolve",
]

#: Name patterns of tokenizer files.
_TOKENIZERS = ("tokenizer*", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")
_TOKENIZER_REMEDY = "copy the tokenizer's files from the original model again"
_KINDS = "a built-in name, a directory or a .gguf file"
#: A model's address on the Hub.
_ADDRESS = re.compile(
    r"(?:https?://|hf://)(?:www\.)?(?:huggingface\.co/|hf\.co/)?(?P<id>[^/]+(/[^/]+)?)"
)
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
    name: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    device: str | None = None,
    memory_budget: int | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a model to edit.

    All weights come from the checkpoint: one that lacks some, or holds others, is refused. Packed
    weights are unpacked where ``transformers`` can do so on loading, and a LoRA
    adapter beside the weights is merged into them; one line on standard error says so.

    Args:
        name: a built-in name (``collabedit models list``), a local directory, a ``.gguf`` file,
            or a Hub id.
        dtype: type of the weights.
        device: ``cpu``, ``cuda``, ...; by default the GPU, if there is one. ``auto`` spreads the
            layers over all GPUs, then main memory, and reads what is left from disk at every use.
        memory_budget: bytes that one stage may take beyond the weights; ``auto`` leaves them free.
        max_memory: for ``auto``, how much each device may hold, such as ``{0: "20GB", "cpu":
            "8GB"}``; by default, what is free.
        trust_remote_code: whether Python code that ships with the model may run.

    Raises:
        InputError: when the name, the type or the device is unknown.
        ModelError: when loading fails or the model cannot be edited.
    """
    name = os.fspath(name)
    options: dict[str, Any] = {"dtype": parse_dtype(dtype)}
    device = checked_device(device)
    source = resolve(name)
    if device == "auto":
        room = room_for_weights(max_memory, memory_budget or 0)
        options.update(device_map="auto", max_memory=room, offload_folder=spill_folder())
    with quiet_transformers(), progress("Loading the model"):
        config = _load_config(source, name, trust_remote_code)
        with explained(name):
            packing = unpacking(name, config)
        options["trust_remote_code"] = trust_remote_code
        hf = _load_weights(source, name, config, options, packing)
        tokenizer = _load_tokenizer(source, name, config, trust_remote_code)
    with explained(name):
        if device != "auto":
            hf = hf.to(device)
        loaded = LanguageModel(hf, tokenizer, name, memory_budget)
        check_tokenizer(tokenizer, len(hf.get_input_embeddings().weight), name)
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


def load_structure_only(name: str, *, trust_remote_code: bool = False) -> Any:
    """The module on the meta device: its structure without its weights.

    Raises:
        InputError: when the name is unknown.
        ModelError: when its files are damaged, or it cannot be loaded for editing.
    """
    from transformers import AutoModelForCausalLM

    source = resolve(name, weights=False)
    with quiet_transformers():
        config = _load_config(source, name, trust_remote_code)
        with explained(name), torch.device("meta"):
            unpacking(name, config)
            hf = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            hf.tie_weights()
    return hf


def resolve(name: str, *, weights: bool = True) -> str:
    """The directory or Hub id behind a name; built-in names and GGUF files are converted first.

    Args:
        name: the model's name.
        weights: whether a directory must hold weights.

    Raises:
        InputError: when there is nothing at a path, or something that is not a model.
        ModelError: when the files of a local model are damaged or missing.
    """
    if name in catalogue.names():
        return str(catalogue.fetch(name))
    _check_name(name)
    path, exists = _path(name)
    if exists or path.suffix.lower() == ".gguf":
        found = find_model(path)
        if found.is_file():
            return str(convert_gguf(found, converted_directory(found)))
        check_files(found, weights=weights)
        return str(found)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"no model at {name!r}: the directory does not exist")
    return name


def _check_name(name: str) -> None:
    if not name.strip():
        raise InputError(f"the model's name is empty; give {_KINDS}")
    if found := _ADDRESS.match(name):
        raise InputError(f"{name!r} is an address; give the Hub id {found['id']!r}, or {_KINDS}")


def _path(name: str) -> tuple[Path, bool]:
    """The path that a name may refer to, and whether it exists."""
    try:
        path = Path(name).expanduser()
        return path, path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"no model at {name[:80]!r}: {reason}") from None


def _load_config(source: str, name: str, trusted: bool) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
    except OSError as error:
        if Path(source).is_dir():
            with explained(name):
                raise
        raise _not_found(name, error) from error
    except Exception:
        with explained(name):
            raise
    if str(getattr(config, "_attn_implementation", None)).startswith("flash"):
        config._attn_implementation = None  # a setting of another machine; results do not change
    return config


def _not_found(name: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return ModelError(
        f"cannot load the model {name!r}: it is neither a directory here nor a built-in name "
        f"({', '.join(catalogue.names())}), and the Hugging Face Hub did not provide it: {reason}"
    )


def _load_weights(
    source: str, name: str, config: Any, options: dict[str, Any], packing: Unpacking | None
) -> Any:
    """The model with all weights of its checkpoint, dense, and no others."""
    if packing is not None:
        options = {**options, **packing.options}
    folder = Path(source)
    with ExitStack() as stack, explained(name):
        adapted = folder.is_dir() and has_adapter(folder)
        location = stack.enter_context(without_adapter(folder)) if adapted else source
        hf = load_checked(location, name, config=config, **options)
        if packing is not None:
            hf = unpacked(name, hf, packing)
        hf.name_or_path = hf.config.name_or_path = source
        if adapted:
            merge_adapter_(name, hf, folder)
    if getattr(hf, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"{name} is an adapter; merge it into its model with peft (merge_and_unload, then "
            "save_pretrained) and give the result"
        )
    return hf


def _load_tokenizer(source: str, name: str, config: Any, trusted: bool) -> Any:
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not any(path for kind in _TOKENIZERS for path in folder.glob(kind)):
        raise ModelError(
            f"there is no tokenizer in {folder}; copy tokenizer.json and tokenizer_config.json of "
            "the original model into it"
        )
    with explained(name, "the tokenizer of", _TOKENIZER_REMEDY):
        tokenizer = AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=trusted)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
